"""SavedModel folders, served through TensorFlow as plain models are through their runtimes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_sdk.cloud.batch import predict_batch
from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.descriptions import model_config, model_metadata
from edge_sdk.cloud.server.models import load_model
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.errors import EdgeSdkError, InputError, ModelError
from edge_sdk.protocol import add_input, messages, read_outputs, read_parameters

X = np.array([[1, 2, 3, 4], [8, 7, 6, 5]], np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    from outside import savedmodels  # TensorFlow takes seconds to import

    root = tmp_path_factory.mktemp("saved")
    savedmodels.save_dense(root / "double", 2.0)
    savedmodels.save_dense(root / "treble", 3.0)
    savedmodels.save_texts(root / "texts")
    savedmodels.save_without_shapes(root / "shapeless")
    for kind in ("unsigned", "complex"):
        savedmodels.save_unusable(root / kind, kind)
    return root


def infer(core: Core, model: str, version: str = "", **inputs: np.ndarray) -> Answer:
    return asyncio.run(core.infer(Request(model, version, inputs, "tensor", None)))


def test_a_folder_is_served_with_the_tensors_of_its_signature(folders):
    core = Core.load([folders / "double"], Serving(models={"double": {"threads": 2, "instances": 2}}))
    try:
        said = infer(core, "double", x=X).outputs
        np.testing.assert_array_equal(said["y"], 2 * X)
        assert said["best"].tolist() == [3, 0]
        about, config = model_metadata(core, "double", ""), model_config(core, "double", "")
        assert (about["platform"], config["backend"]) == ("tensorflow_savedmodel", "tensorflow")
        assert about["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert about["outputs"] == [
            {"name": "best", "datatype": "INT64", "shape": [-1]},
            {"name": "y", "datatype": "FP32", "shape": [-1, 4]},
        ]
        assert 1 in core.batch_costs("double"), "it was warmed up"
        assert core.model("double").batching == "batched"
        with pytest.raises(InputError, match="unexpected shape"):
            infer(core, "double", x=X[:, :3])
    finally:
        core.close()


@pytest.mark.slow
def test_what_keras_exports_is_served_and_says_the_same(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten()])
    model.export(tmp_path / "conv.savedmodel", verbose=False)
    core = Core.load([tmp_path / "conv.savedmodel"])
    try:
        (tensor,) = core.model("conv").inputs
        x = np.random.default_rng(0).normal(size=(3, 6, 6, 1)).astype(np.float32)
        (y,) = infer(core, "conv", **{tensor.name: x}).outputs.values()
        np.testing.assert_allclose(y, np.asarray(model(x)), atol=1e-5)
    finally:
        core.close()


def test_the_digest_is_of_the_files_that_make_the_model(folders, tmp_path):
    digests = {}
    for name in ("double", "treble"):
        shutil.copytree(folders / name, tmp_path / name)
        digests[name] = load_model(tmp_path / name).digest
        assert load_model(folders / name).digest == digests[name]
    assert digests["double"] != digests["treble"]
    (tmp_path / "double" / "table.parquet").write_bytes(b"no part of the model")
    assert load_model(tmp_path / "double").digest == digests["double"]
    (tmp_path / "double" / "assets").mkdir(exist_ok=True)
    (tmp_path / "double" / "assets" / "words.txt").write_text("one\n")
    assert load_model(tmp_path / "double").digest != digests["double"]


def test_texts_and_bfloat16_go_in_and_out(folders):
    core = Core.load([folders / "texts"])
    try:
        kinds = {tensor.name: tensor.datatype for tensor in (*core.model("texts").inputs, *core.model("texts").outputs)}
        assert kinds == {"text": "BYTES", "half": "FP32", "length": "INT32", "upper": "BYTES", "whole": "FP32"}
        text, half = np.array([b"ab", b"c\xff\0d"], object), np.array([0.5, 1.5], np.float32)
        said = infer(core, "texts", text=text, half=half).outputs
        assert said["upper"].tolist() == [b"AB", b"C\xff\0D"]
        assert said["length"].tolist() == [2, 4]
        assert (said["whole"].dtype, said["whole"].tolist()) == (np.float32, [1, 3])
    finally:
        core.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unsigned", "has no signature 'serving_default', but transform"),
        ("complex", "holds complex64, which the protocol does not have"),
        ("shapeless", "tensor x has no rank"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(folders, name, says):
    with pytest.raises(ModelError, match=says) as raised:
        load_model(folders / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damage", ["graph", "variables", "providers"])
def test_a_damaged_folder_and_another_runtimes_settings_are_refused(folders, tmp_path, damage):
    shutil.copytree(folders / "double", tmp_path / "double")
    if damage == "graph":
        (tmp_path / "double" / "saved_model.pb").write_bytes(b"\xff" * 50)
    elif damage == "variables":
        shutil.rmtree(tmp_path / "double" / "variables")
    with pytest.raises(EdgeSdkError) as raised:
        load_model(tmp_path / "double", providers=("cuda",) if damage == "providers" else ())
    assert "\n" not in str(raised.value)


def test_versions_of_a_repository_change_while_they_are_served(folders, tmp_path):
    """Triton's layout for one version, TensorFlow Serving's for the other; a bad one changes nothing."""
    root = tmp_path / "models"
    shutil.copytree(folders / "double", root / "times" / "1" / "model.savedmodel")
    core = Core.load([root])
    (repository,) = core._repositories
    try:
        assert infer(core, "times", x=X).outputs["y"][0, 0] == 2
        shutil.copytree(folders / "unsigned", root / "times" / "2")
        for _ in range(3):
            repository.sync()
        assert core.versions("times") == ("1",)
        shutil.rmtree(root / "times" / "2")
        shutil.copytree(folders / "treble", root / "times" / "3")
        for _ in range(3):
            repository.sync()
        assert core.versions("times") == ("3",)
        assert infer(core, "times", x=X).outputs["y"][0, 0] == 3
    finally:
        core.close()


def test_a_batch_is_answered_by_one(folders, tmp_path):
    pq.write_table(pa.table({"x": X.tolist()}), tmp_path / "in.parquet")
    summary = predict_batch(folders / "treble", tmp_path / "in.parquet", tmp_path / "out.parquet", workers=2)
    assert (summary.rows, summary.failed, summary.model_digest) == (2, 0, load_model(folders / "treble").digest)
    outputs = pq.read_table(tmp_path / "out.parquet").column("outputs").to_pylist()
    assert [row["y"] for row in outputs] == (3 * X).tolist()
    with pytest.raises(ModelError, match="2 inputs"):
        predict_batch(folders / "texts", tmp_path / "in.parquet", tmp_path / "other.parquet")


@pytest.mark.slow
def test_a_server_process_answers_over_grpc_and_is_silent(folders, service):
    running = service("serve", folders / "double", "--grpc-port", "0", timeout=120)
    takes, gives = messages.METHODS["ModelInfer"]
    request = takes(model_name="double")
    add_input(request, "x", X)
    with grpc.insecure_channel(running.ready["grpc"]) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        answer = infer(request, timeout=20)
    np.testing.assert_array_equal(read_outputs(answer)["y"], 2 * X)
    assert read_parameters(answer.parameters)["edge_model_digest"] == load_model(folders / "double").digest
    assert running.stop() == 0
    assert running.errors == ""


def test_where_tensorflow_is_missing_the_extra_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    program = (
        "import sys; sys.modules['tensorflow'] = None; from edge_sdk.main import main; "
        f"sys.exit(main(['serve', {str(tmp_path / 'model')!r}, '--grpc-port', '0']))"
    )
    done = subprocess.run([sys.executable, "-Pc", program], capture_output=True, text=True, timeout=500, check=False)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "pip install 'edge-sdk[tensorflow]'" in line) == (2, True)
