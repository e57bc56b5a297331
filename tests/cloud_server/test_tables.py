"""Answers that were worked out before: found for every input they hold, and for no other; of the right model alone."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edge_sdk.cloud.batch import predict_batch
from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.families import as_text
from edge_sdk.cloud.server.keys import item_keys
from edge_sdk.cloud.server.metrics import metrics_of
from edge_sdk.cloud.server.models import load_model
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.cloud.server.table_files import SUFFIX, open_table
from edge_sdk.cloud.server.tables import Answers
from edge_sdk.errors import InputError, MissingExtraError
from edge_sdk.protocol import add_input, messages, read_outputs, read_parameters
from edge_sdk.types import TensorSpec
from outside.classifiers import linear_onnx
from outside.disk import run_with_limited_file_size
from outside.models import adding_onnx
from outside.services import Service

ADDING = Answers(
    "add",
    "sha256:model",
    (TensorSpec("a", "float32", (-1, 2)), TensorSpec("b", "float32", (-1, 2))),
    (TensorSpec("sum", "float32", (-1, 2)),),
    whole=False,
)


def write(path: Path, digest: str = ADDING.digest, **columns: object) -> Path:
    """Write a table as others may make one."""
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({"edge_model_digest": digest} if digest else None), path)
    return path


def numbers(seed: int, rows: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 2)).astype(np.float32)


def found(table, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    outputs = table.find({"a": a, "b": b}, "tensor", len(a))
    return None if outputs is None else outputs[0]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a table of the sums of a hundred rows."""
    a, b = numbers(1, 100), numbers(2, 100)
    return write(tmp_path / "sums.parquet", a=a.tolist(), b=b.tolist(), sum=(a + b).tolist())


def test_every_input_of_a_table_is_found_and_no_other(plain):
    table = open_table(plain, ADDING)
    a, b = numbers(1, 100), numbers(2, 100)
    assert table.rows == 100
    np.testing.assert_array_equal(found(table, a, b), a + b)
    np.testing.assert_array_equal(found(table, a[7:8], b[7:8]), (a + b)[7:8])
    np.testing.assert_array_equal(found(table, a[[5, 5, 3]], b[[5, 5, 3]]), (a + b)[[5, 5, 3]])
    assert found(table, a[:1], b[1:2]) is None
    assert found(table, np.concatenate([a[:3], a[:1]]), np.concatenate([b[:3], b[1:2]])) is None
    assert table.find({"a": a[:1], "b": b[:1]}, "captured", 1) is None
    found(table, a[:1], b[:1])[:] = 7  # its caller's own
    np.testing.assert_array_equal(found(table, a[:1], b[:1]), (a + b)[:1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans()), min_size=1, max_size=40), st.data())
def test_any_keys_are_found_in_any_order_and_rows_with_errors_are_none(tmp_path_factory, rows, data):
    rows = [(key[:1] * 31 + key[-1:] if data.draw(st.booleans()) else key, failed) for key, failed in rows]
    if all(failed for _, failed in rows):
        rows.append((b"k" * 32, False))
    keys, errors = [key for key, _ in rows], ["no" if failed else None for _, failed in rows]
    outputs = [None if failed else {"sum": [float(n), 0.0]} for n, (_, failed) in enumerate(rows)]
    path = tmp_path_factory.mktemp("any") / "table.parquet"
    write(path, key=keys, outputs=outputs, error=pa.array(errors, pa.string()))
    table = open_table(path, ADDING)
    want: dict[bytes, int] = {}
    for n, (key, failed) in enumerate(rows):
        if not failed:
            want.setdefault(key[:16], n)
    for key in keys:
        place = table._place(key)
        assert (place is not None) == (key[:16] in want)
        if place is not None:
            assert table.outputs[0][place].tolist() == [want[key[:16]], 0.0]
    assert table._place(bytes(32)) is None or bytes(16) in want


def test_the_file_that_is_mapped_is_made_once_and_again_when_the_table_is_another(plain):
    index = plain.with_name(plain.name + SUFFIX)
    first = open_table(plain, ADDING)
    made = index.stat()
    for _ in range(2):
        open_table(plain, ADDING)
        os.utime(plain, ns=(1, 1))  # the same bytes, of another time
    assert index.stat().st_ino == made.st_ino
    a, b = numbers(3, 5), numbers(4, 5)
    write(plain, a=a.tolist(), b=b.tolist(), sum=(a + b).tolist())
    assert found(open_table(plain, ADDING), a, b) is not None
    assert index.stat().st_ino != made.st_ino
    assert found(first, numbers(1, 1), numbers(2, 1)) is not None, "who has mapped the one before still reads it"


@pytest.mark.parametrize("damage", ["empty", "cut", "head", "longer", "folder"])
def test_a_mapped_file_that_is_damaged_is_made_anew(plain, damage):
    open_table(plain, ADDING)
    index = plain.with_name(plain.name + SUFFIX)
    whole = index.read_bytes()
    changed = bytearray(whole)
    changed[60] ^= 1
    broken = {"empty": b"", "cut": whole[:-1], "head": bytes(changed), "longer": whole + b"x"}
    if damage == "folder":
        index.unlink()
        index.mkdir()
    else:
        index.write_bytes(broken[damage])
    a, b = numbers(1, 100), numbers(2, 100)
    np.testing.assert_array_equal(found(open_table(plain, ADDING), a, b), a + b)
    if damage != "folder":
        assert index.read_bytes() == whole
    assert {path.name for path in plain.parent.iterdir()} == {plain.name, index.name}


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_passes_for_a_table(plain, tmp_path):
    """The name appears when all is written; what was begun before has another one."""
    program = (
        "import os, sys; from pathlib import Path; from edge_sdk.cloud.server import table_making\n"
        "from edge_sdk.cloud.server.table_files import open_table; from edge_sdk.cloud.server.tables import Answers\n"
        "from edge_sdk.types import TensorSpec\n"
        "table_making.Reading.fill = lambda self, table: os.kill(os.getpid(), 9)\n"
        f"open_table(Path(sys.argv[1]), {ADDING!r})\n"
    )
    done = subprocess.run([sys.executable, "-Pc", program, plain], capture_output=True, timeout=500, check=False)
    assert done.returncode == -9, done.stderr.decode()
    assert not plain.with_name(plain.name + SUFFIX).exists()
    assert found(open_table(plain, ADDING), numbers(1, 100), numbers(2, 100)) is not None


def test_a_folder_that_cannot_be_written_to_costs_only_what_is_shared(plain, caplog, monkeypatch):
    if os.geteuid() == 0:  # who may write everywhere
        from edge_sdk.cloud.server import table_files
        from edge_sdk.errors import StorageError

        def refuse(path: Path):
            raise StorageError(f"cannot write {path}: Read-only file system")

        monkeypatch.setattr(table_files, "open_durably", refuse)
    else:
        plain.parent.chmod(0o500)
    with caplog.at_level(logging.WARNING, "edge_sdk"):
        table = open_table(plain, ADDING)
    plain.parent.chmod(0o700)
    assert "kept in the temporary folder" in caplog.text
    a, b = numbers(1, 100), numbers(2, 100)
    np.testing.assert_array_equal(found(table, a, b), a + b)


@pytest.mark.slow
def test_where_the_disk_is_full_a_table_is_refused_in_one_line_and_made_when_there_is_room(tmp_path):
    (tmp_path / "linear.onnx").write_bytes(linear_onnx((1, 4), 3))
    x = np.random.default_rng(4).normal(size=(3000, 4)).astype(np.float32)
    pq.write_table(pa.table({"x": x.tolist()}), tmp_path / "in.parquet")
    table = tmp_path / "t.parquet"
    index = table.with_name(table.name + SUFFIX)
    batch = ["-m", "edge_sdk", "batch", *map(str, (tmp_path / "linear.onnx", tmp_path / "in.parquet", table))]
    batch += ["--table", "tensor", "--workers", "1"]
    for limit, there in ((16_384, False), (300_000, True)):  # of the parts, and of what a server maps
        done = run_with_limited_file_size(batch, limit)
        assert (done.returncode, len(done.stderr.splitlines())) == (0 if there else 2, 0 if there else 1), done.stderr
        assert table.exists() is index.exists() is there
    index.unlink()
    (tmp_path / "serve.toml").write_text('[models."*"]\ntable = "t.parquet"\n')
    serve = ["serve", tmp_path / "linear.onnx", "--grpc-port", "0", "--config", tmp_path / "serve.toml"]
    done = run_with_limited_file_size(["-m", "edge_sdk", *map(str, serve)], 16_384)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("edge-sdk: error: cannot write")
    assert not index.exists()
    assert {one.name for one in tmp_path.iterdir()} == {"linear.onnx", "in.parquet", "t.parquet", "serve.toml"}
    with Service(*serve):
        assert index.exists()


def test_answers_of_another_model_are_not_used_and_the_log_says_so(plain, caplog):
    open_table(plain, ADDING)
    for table in (plain, write(plain.with_name("other.parquet"), "sha256:other", a=[[1.0]], b=[[1.0]], sum=[[1.0]])):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "edge_sdk"):
            answers = (
                ADDING
                if table is not plain
                else Answers("add", "sha256:newer", *(ADDING.inputs, ADDING.outputs), False)
            )
            assert open_table(table, answers) is None
        (record,) = caplog.records
        assert "holds answers of the model sha256:" in record.getMessage()
        assert "it is not used" in record.getMessage()


GOOD = {"a": [[1.0, 2.0]], "b": [[1.0, 2.0]], "sum": [[2.0, 4.0]]}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({**GOOD, "sum": [[2.0]]}, "sum is 2 numbers"),
        ({**GOOD, "sum": [None]}, "sum is 2 numbers"),
        ({**GOOD, "sum": [[2.0, None]]}, "sum is 2 numbers"),
        ({**GOOD, "sum": [["a", "b"]]}, "sum is float32"),
        ({**GOOD, "a": [[1.0, 2.0, 3.0]]}, "a is 2 numbers"),
        ({"a": [[1.0, 2.0]], "b": [[1.0, 2.0]]}, "no output sum"),
        ({"a": [[1.0, 2.0]], "sum": [[2.0, 4.0]]}, "neither a column key nor the inputs a, b"),
        ({"key": [b"short"], "sum": [[2.0, 4.0]]}, "a key is 32 bytes"),
        ({"key": [1], "sum": [[2.0, 4.0]]}, "a key is 32 bytes"),
        ({**GOOD, "error": ["all wrong"]}, "holds no answers"),
    ],
)
def test_a_table_of_another_kind_is_refused_in_one_line(tmp_path, columns, says):
    path = write(tmp_path / "table.parquet", **columns)
    with pytest.raises(InputError, match=says) as raised:
        open_table(path, ADDING)
    assert "\n" not in str(raised.value)
    assert not path.with_name(path.name + SUFFIX).exists()


def test_a_file_that_is_no_table_and_a_model_that_can_have_none_are_refused(tmp_path):
    path = tmp_path / "table.parquet"
    for content, says in ((None, "no table at"), (b"no parquet", "is not a Parquet file")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            open_table(path, ADDING)
    write(path, "", **GOOD)
    with pytest.raises(InputError, match="does not say whose answers"):
        open_table(path, ADDING)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="is not a Parquet file"):
        open_table(path, ADDING)
    for spec in (TensorSpec("boxes", "float32", (-1, -1, 4)), TensorSpec("label", "object", (-1,))):
        with pytest.raises(InputError, match="can have no table"):
            open_table(path, Answers("m", "sha256:m", ADDING.inputs, (spec,), whole=False))


def test_an_input_has_one_key_with_or_without_an_axis_of_items_and_among_others():
    pictures = np.random.default_rng(0).integers(0, 255, (3, 4, 5, 3), np.uint8)
    together = list(item_keys({"image": pictures}, "captured", 3, whole=False))
    alone = [*item_keys({"image": pictures[1]}, "captured", 1, whole=False)]
    assert alone == [*item_keys({"image": pictures[1:2]}, "captured", 1, whole=False)] == together[1:2]
    assert len({*together}) == 3
    files = np.array([b"one", b"two"], object)
    both = list(item_keys({"image": files}, "jpeg", 2, whole=False))
    assert both == list(item_keys({"image": files.reshape(2, 1)}, "jpeg", 2, whole=False))
    assert both[:1] == list(item_keys({"image": np.array(b"one", object)}, "jpeg", 1, whole=False))


# made by a batch, used by a server


def ask(core: Core, model: str, encoding: str = "tensor", **inputs: np.ndarray) -> Answer:
    return asyncio.run(core.infer(Request(model, "", inputs, encoding, None)))


def test_a_table_made_by_a_batch_answers_as_the_model_does_and_the_rest_is_asked(tmp_path):
    (tmp_path / "linear.onnx").write_bytes(linear_onnx((1, 4), 3))
    x = np.random.default_rng(4).normal(size=(40, 4)).astype(np.float32)
    pq.write_table(pa.table({"x": x.tolist()}), tmp_path / "in.parquet")
    done = predict_batch(
        tmp_path / "linear.onnx", tmp_path / "in.parquet", tmp_path / "t.parquet", table="tensor", workers=2
    )
    assert (tmp_path / f"t.parquet{SUFFIX}").exists(), "a server needs no PyArrow for it"
    assert (done.rows, done.failed, done.model_digest) == (40, 0, load_model(tmp_path / "linear.onnx").digest)
    core = Core.load([tmp_path / "linear.onnx"], Serving(models={"linear": {"table": str(tmp_path / "t.parquet")}}))
    other = Core.load([tmp_path / "linear.onnx"])
    try:
        (name,) = (tensor.name for tensor in core.model("linear").inputs)
        for part in (x[:1], x[5:9]):
            known, want = ask(core, "linear", **{name: part}), ask(other, "linear", **{name: part})
            assert (known.cached, want.cached) == (True, False)
            for output in want.outputs:
                np.testing.assert_allclose(known.outputs[output], want.outputs[output], rtol=1e-5, atol=1e-6)
                assert known.outputs[output].dtype == want.outputs[output].dtype
        assert not ask(core, "linear", **{name: x[:1] + 1}).cached
        ((_, counts),) = core.statistics("linear")
        assert (counts.table_hits.count, counts.table_misses.count, counts.hits.count) == (2, 1, 0)
        text = as_text(metrics_of(core))
        for line in ("edge_table_hits_total", "edge_table_rows"):
            assert f'{line}{{model="linear",version="1"}} {2 if "hits" in line else 40}\n' in text
        assert "edge_table_rows{" not in as_text(metrics_of(other))
    finally:
        core.close()
        other.close()


@pytest.mark.parametrize("encoding", ["captured", "jpeg", "resized", "tensor"])
def test_a_bundles_table_knows_requests_of_its_encoding(tiny_edge_bundle, tmp_path, encoding):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n, frame in enumerate(tiny_edge_bundle.images[:5]):
        Image.fromarray(frame).save(folder / f"{n}.{'jpg' if encoding == 'jpeg' else 'png'}")
    table = tmp_path / "table.parquet"
    assert predict_batch(tiny_edge_bundle.path, folder, table, table=encoding).failed == 0
    core = Core.load([tiny_edge_bundle.path], Serving(models={"tiny": {"table": str(table)}}))
    try:
        frame = tiny_edge_bundle.images[2]
        if encoding == "jpeg":
            held = np.array([(folder / "2.jpg").read_bytes()], object)
        elif encoding == "captured":
            held = frame
        elif encoding == "tensor":
            held = core.model("tiny").reader.read({"image": frame}, "captured").tensors(lambda: None)["image"]
        else:
            from edge_sdk.encodings import resize_frame

            held = resize_frame(frame, core.model("tiny").reader.processing)
        assert ask(core, "tiny", encoding, image=held).cached
        if encoding != "captured":
            assert not ask(core, "tiny", "captured", image=frame).cached
    finally:
        core.close()


def test_what_a_batch_cannot_make_a_table_of_is_refused(tiny_edge_bundle, tmp_path):
    (tmp_path / "add.onnx").write_bytes(adding_onnx(1.0))
    pq.write_table(pa.table({"x": [[1.0]]}), tmp_path / "in.parquet")
    for model, encoding, says in (
        (tmp_path / "add.onnx", "tensor", "2 inputs"),
        (tiny_edge_bundle.path, "pigeon", "does not offer the encoding 'pigeon'"),
    ):
        with pytest.raises(Exception, match=says):
            predict_batch(model, tmp_path / "in.parquet", tmp_path / "t.parquet", table=encoding)


def test_a_repository_gives_each_version_its_own_table_and_a_new_table_is_taken(tmp_path, caplog):
    root = tmp_path / "models"
    for version in ("1", "2"):
        folder = root / "add" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(adding_onnx(float(version)))
    digest = load_model(root / "add" / "2" / "model.onnx").digest
    (root / "add" / "config.pbtxt").write_text(
        'version_policy { all {} } parameters { key: "table" value { string_value: "table.parquet" } }'
    )
    write(root / "add" / "2" / "table.parquet", digest, a=[[1, 2]], b=[[3, 4]], sum=[[0.0, 0.0]])
    write(root / "add" / "table.parquet", digest, a=[[5, 6]], b=[[7, 8]], sum=[[9.0, 9.0]])
    with caplog.at_level(logging.WARNING, "edge_sdk"):
        core = Core.load([root])
    (repository,) = core._repositories

    def asked(version: str, a: float) -> Answer:
        x, y = np.array([[a, a + 1]], np.float32), np.array([[a + 2, a + 3]], np.float32)
        return asyncio.run(core.infer(Request("add", version, {"a": x, "b": y}, "tensor", None)))

    try:
        assert "version 1" not in caplog.text
        assert "it is not used" in caplog.text, "version 1 is offered the table beside the versions, of version 2"
        assert asked("2", 1).outputs["sum"].tolist() == [[0, 0]]
        assert [asked(version, 5).cached for version in ("1", "2")] == [False, False]
        served = core.model("add", "2")
        for _ in range(3):
            repository.sync()
        assert core.model("add", "2") is served, "the file that was made beside the table is no change"
        write(root / "add" / "2" / "table.parquet", digest, a=[[5, 6]], b=[[7, 8]], sum=[[1.0, 1.0]])
        for _ in range(2):
            repository.sync()
        assert asked("2", 5).outputs["sum"].tolist() == [[1, 1]]
        (root / "add" / "2" / "table.parquet").write_bytes(b"damaged")
        for _ in range(2):
            repository.sync()
        assert asked("2", 5).cached, "what was served before still is"
    finally:
        core.close()


def test_a_server_answers_from_its_table_on_both_fronts_and_says_so(service, tmp_path):
    (tmp_path / "add.onnx").write_bytes(adding_onnx(1.0))
    digest = load_model(tmp_path / "add.onnx").digest
    write(tmp_path / "table.parquet", digest, a=[[1, 2]], b=[[3, 4]], sum=[[40.0, 60.0]])  # not what the model says
    (tmp_path / "serve.toml").write_text('[models.add]\ntable = "table.parquet"\n')
    ports = ("--grpc-port", "0", "--http-port", "0")
    running = service("serve", tmp_path / "add.onnx", *ports, "--config", tmp_path / "serve.toml")
    takes, gives = messages.METHODS["ModelInfer"]
    with grpc.insecure_channel(running.ready["grpc"]) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        for _ in range(4):  # whichever way the server takes with requests that it has seen
            for a, want in ((1, [[40, 60]]), (2, [[6, 7]])):
                request = takes(model_name="add")
                add_input(request, "a", np.array([[a, 2]], np.float32))
                add_input(request, "b", np.array([[3, 4]], np.float32))
                answer = infer(request, timeout=20)
                assert read_outputs(answer)["sum"].tolist() == want
                assert read_parameters(answer.parameters).get("edge_cached", False) is (a == 1)
    tensors = [
        {"name": name, "datatype": "FP32", "shape": [1, 2], "data": data}
        for name, data in (("a", [1, 2]), ("b", [3, 4]))
    ]
    body = json.dumps({"inputs": tensors}).encode()
    with urllib.request.urlopen(f"http://{running.ready['http']}/v2/models/add/infer", body, timeout=20) as answer:
        said = json.load(answer)
    assert (said["outputs"][0]["data"], said["parameters"]["edge_cached"]) == ([40, 60], True)
    with urllib.request.urlopen(f"http://{running.ready['http']}/v2/models/add/stats", timeout=20) as answer:
        (stats,) = json.load(answer)["model_stats"]
    assert stats["inference_stats"]["cache_hit"]["count"] == 5
    assert running.stop() == 0
    assert running.errors == ""


def test_a_setting_that_is_no_path_is_refused():
    with pytest.raises(InputError, match="table is 7"):
        Serving(models={"*": {"table": 7}})


def test_pyarrow_is_needed_for_what_is_not_made_yet_and_for_nothing_else(plain, monkeypatch):
    for module in [name for name in sys.modules if name.endswith("table_making")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("edge_sdk.cloud.server.table_making", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-sdk\[batch\]'"):
        open_table(plain, ADDING)
    monkeypatch.undo()
    open_table(plain, ADDING)
    monkeypatch.setitem(sys.modules, "edge_sdk.cloud.server.table_making", None)
    assert open_table(plain, ADDING).rows == 100


def test_a_request_of_many_items_is_found_as_one_of_few_is(tmp_path):
    """Beside the event loop, that is."""
    (tmp_path / "add.onnx").write_bytes(adding_onnx(1.0))
    digest = load_model(tmp_path / "add.onnx").digest
    a, b = numbers(1, 100), numbers(2, 100)
    path = write(tmp_path / "table.parquet", digest, a=a.tolist(), b=b.tolist(), sum=(a - b).tolist())
    core = Core.load([tmp_path / "add.onnx"], Serving(models={"add": {"table": str(path)}}))
    try:
        said = ask(core, "add", a=a, b=b)
        assert said.cached
        np.testing.assert_array_equal(said.outputs["sum"], a - b)
    finally:
        core.close()


@pytest.mark.slow
def test_several_processes_map_one_file(plain):
    program = (
        "import sys; from pathlib import Path; from edge_sdk.cloud.server.table_files import open_table\n"
        "from edge_sdk.cloud.server.tables import Answers; from edge_sdk.types import TensorSpec\n"
        f"table = open_table(Path(sys.argv[1]), {ADDING!r}); print(table.rows)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-Pc", program, plain], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=500)[0] for process in started] == ["100\n"] * 3
    assert {path.name for path in plain.parent.iterdir()} == {plain.name, plain.name + SUFFIX}
