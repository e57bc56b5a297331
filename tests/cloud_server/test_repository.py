"""A repository folder: which versions are served, and what changes while requests come."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.settings import ModelSettings, Serving, read_model_config
from edge_sdk.errors import InputError
from edge_sdk.protocol import add_input, messages
from outside.bundles import TinyBundle
from outside.models import adding_onnx


def put(root: Path, name: str, version: str, offset: float) -> None:
    """Place a model that adds a number, complete at once."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (root / "new").write_bytes(adding_onnx(offset))
    (root / "new").replace(folder / "model.onnx")


def ask(core: Core, version: str = "", name: str = "add") -> Answer:
    x = np.zeros((1, 2), np.float32)
    return asyncio.run(core.infer(Request(name, version, {"a": x, "b": x}, "tensor", None)))


def offset(core: Core, version: str = "", name: str = "add") -> float:
    return float(ask(core, version, name).outputs["sum"][0, 0])


def look(core: Core, times: int = 2) -> None:
    for _ in range(times):
        for repository in core._repositories:
            repository.sync()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def load(root: Path):
    cores = []

    def start(**serving: object) -> Core:
        cores.append(Core.load([root], Serving(**serving)))
        return cores[-1]

    yield start
    for core in cores:
        core.close()


def states(core: Core) -> dict[tuple[str, str], str]:
    return {(one.name, one.version): one.state for one in core.index()}


def test_the_latest_version_is_served_and_others_where_the_policy_says_so(root, load):
    for version in ("2", "10", "1"):
        put(root, "add", version, float(version))
    put(root, "add", "010", 7.0)  # as in Triton, no version
    core = load()
    assert core.versions("add") == ("10",)
    assert offset(core) == 10
    every = load(models={"add": {"versions": "all"}})
    assert every.versions("add") == ("1", "2", "10")
    assert [offset(every, version) for version in ("1", "2", "10", "")] == [1, 2, 10, 10]
    (root / "add" / "config.pbtxt").write_text('name: "add"\nversion_policy { specific { versions: [1, 2] } }')
    assert load().versions("add") == ("1", "2")
    (root / "add" / "config.pbtxt").write_text("version_policy: { latest: { num_versions: 2 } }")
    assert load().versions("add") == ("2", "10")


def test_a_model_may_have_several_inputs_and_they_must_agree(root, load):
    put(root, "add", "1", 1.0)
    core = load()
    a, b = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones((3, 2), np.float32)

    def infer(**inputs: np.ndarray) -> Answer:
        return asyncio.run(core.infer(Request("add", "", inputs, "tensor", None)))

    np.testing.assert_array_equal(infer(b=b, a=a).outputs["sum"], a + b + 1)
    for inputs, says in (
        ({"a": a}, r"missing required input\(s\) \['b'\]"),
        ({"a": a, "b": b[:2]}, "it has 2 items, but 'a' has 3"),
        ({"a": a, "b": b.astype(np.float64)}, "data-type is 'FP64', but model"),
    ):
        with pytest.raises(InputError, match=says):
            infer(**inputs)


def test_a_new_version_takes_over_and_the_old_one_goes_when_it_answers(root, load):
    put(root, "add", "1", 1.0)
    core = load()
    put(root, "add", "2", 2.0)
    look(core, 1)
    assert offset(core) == 1, "the copy may not be finished"
    look(core, 2)
    assert core.versions("add") == ("2",)
    assert offset(core) == 2
    put(root, "add", "2", 2.5)
    look(core)
    assert offset(core) == 2.5
    shutil.rmtree(root / "add" / "2")
    look(core, 3)
    assert offset(core) == 1
    shutil.rmtree(root / "add")
    look(core)
    assert core.models == ()


def test_a_version_that_cannot_be_loaded_changes_nothing_and_is_said_once(root, load, caplog):
    put(root, "add", "1", 1.0)
    core = load()
    for version, content in (("2", b"no model"), ("3", adding_onnx(3.0)[:-20])):
        (root / "add" / version).mkdir()
        (root / "add" / version / "model.onnx").write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.ERROR, "edge_sdk"):
            look(core, 4)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert f"add {version} cannot be loaded" in caplog.text
        assert "what was served before still is" in caplog.text
        assert offset(core) == 1
        assert states(core)["add", version] == "UNAVAILABLE"
        assert states(core)["add", "1"] == "READY"
    put(root, "add", "3", 3.0)
    look(core)
    assert offset(core) == 3
    assert states(core)["add", "3"] == "READY"
    (root / "add" / "3" / "model.onnx").write_bytes(b"in place")
    look(core)
    assert offset(core) == 3
    (note,) = [one for one in core.index() if one.version == "3"]
    assert note.state == "READY"
    assert "cannot load" in note.reason


def test_a_folder_that_is_away_for_a_moment_or_says_nonsense_ends_nothing(root, load, tmp_path, caplog):
    put(root, "add", "1", 1.0)
    core = load()
    root.rename(tmp_path / "away")
    look(core, 3)
    assert offset(core) == 1
    assert caplog.text.count("cannot read the repository") == 1
    (tmp_path / "away").rename(root)
    (root / "add" / "config.pbtxt").write_text("max_batch_size: many")
    (root / "empty").mkdir()
    look(core, 3)
    assert offset(core) == 1
    assert caplog.text.count("config.pbtxt") == 1


def test_no_request_fails_while_models_are_swapped(root, load):
    put(root, "add", "1", 1.0)
    core = load()
    seen: set[float] = set()

    async def client(end: asyncio.Event) -> int:
        x, count = np.zeros((1, 2), np.float32), 0
        while not end.is_set():
            answer = await core.infer(Request("add", "", {"a": x, "b": x}, "tensor", None))
            assert answer.model.version == str(int(answer.outputs["sum"][0, 0])), "the model that answered is named"
            seen.add(float(answer.outputs["sum"][0, 0]))
            count += 1
            await asyncio.sleep(0)  # tiny models answer within a turn of the loop
        return count

    async def story() -> None:
        end = asyncio.Event()
        clients = [asyncio.create_task(client(end)) for _ in range(8)]
        for version in ("2", "3", "4", "5"):
            put(root, "add", version, float(version))
            await asyncio.to_thread(look, core)
            async with asyncio.timeout(120):
                while float(version) not in seen:  # noqa: ASYNC110 - clients set no asyncio.Event
                    await asyncio.sleep(0.005)
        end.set()
        assert min(await asyncio.gather(*clients)) > 0

    asyncio.run(story())
    assert seen >= {2.0, 3.0, 4.0, 5.0}


def test_models_are_loaded_and_unloaded_by_name(root, load):
    put(root, "add", "1", 1.0)
    put(root, "other", "1", 9.0)
    core = load()
    asyncio.run(core.unload_model("add"))
    assert not core.answers("add")
    assert states(core) == {("add", "1"): "UNAVAILABLE", ("other", "1"): "READY"}
    look(core)
    assert not core.answers("add")
    asyncio.run(core.load_model("add"))
    assert offset(core) == 1
    put(root, "add", "2", 2.0)
    asyncio.run(core.load_model("add"))
    assert offset(core) == 2
    (root / "add" / "3").mkdir()
    with pytest.raises(InputError, match="should hold one"):
        asyncio.run(core.load_model("add"))
    assert offset(core) == 2
    for change in (core.load_model, core.unload_model):
        with pytest.raises(LookupError, match="nobody"):
            asyncio.run(change("nobody"))


def test_a_bundle_in_a_repository_is_served_under_its_folders_name(root, load, tiny_edge_bundle: TinyBundle):
    (root / "seen" / "3").mkdir(parents=True)
    shutil.copy(tiny_edge_bundle.path, root / "seen" / "3" / "model.edge")
    core = load()
    model = core.model("seen", "3")
    assert model.properties["edge_encodings"] == "captured,jpeg,resized,tensor"
    frame = tiny_edge_bundle.images[0]
    answer = asyncio.run(core.infer(Request("seen", "", {model.inputs[0].name: frame}, "captured", None)))
    assert answer.outputs["logits"].shape == (1, 3)


def test_a_folder_is_served_and_looked_at_from_time_to_time(root, service):
    put(root, "add", "1", 1.0)
    config = root.parent / "serve.toml"
    config.write_text('reload_seconds = 0.05\n[models."*"]\ninstances = 2\n[models.add]\nmax_batch = 4\n')
    running = service("serve", root, "--grpc-port", "0", "--config", config)
    assert running.ready["models"] == "add"
    with grpc.insecure_channel(running.ready["grpc"]) as channel:
        takes, gives = messages.METHODS["ModelReady"]
        ready = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady", takes.SerializeToString, gives.FromString
        )
        put(root, "add", "2", 2.0)
        for _ in range(200):
            if ready(takes(name="add", version="2"), timeout=20).ready:
                break
            ready(takes(name="add"), timeout=20)
        else:
            pytest.fail("version 2 was never served")


def test_a_request_for_which_there_is_no_room_is_told_when_to_come_back(root, service):
    put(root, "add", "1", 1.0)
    config = root.parent / "serve.toml"
    config.write_text("max_pending_bytes = 20\n")
    running = service("serve", root, "--grpc-port", "0", "--config", config)
    takes, gives = messages.METHODS["ModelInfer"]
    with grpc.insecure_channel(running.ready["grpc"]) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        for items in (1, 2):
            request = takes(model_name="add")
            for name in ("a", "b"):
                add_input(request, name, np.zeros((items, 2), np.float32))
            if items == 1:
                assert infer(request, timeout=20).model_version == "1"
                continue
            with pytest.raises(grpc.RpcError, match="MiB of inputs wait") as caught:
                infer(request, timeout=20)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


WRONG = {
    "instances = 0\n": "instances is 0",
    "colour = 1\n": "no setting 'colour'",
    "max_batch = true\n": "max_batch is True",
    'providers = "cuda"\n': "providers is 'cuda'",
    "providers = [1]\n": "providers is",
    "provider_options = 1\n": "provider_options is 1",
    "provider_options.tensort = {}\n": "provider_options is of 'tensort'",
    "provider_options.cuda = 1\n": "provider_options.cuda is 1",
    "provider_options.cuda = {device_id = [0]}\n": "provider_options.cuda is",
    'versions = "some"\n': "versions is 'some'",
    "versions = 0\n": "versions is 0",
    "hang_seconds = 0\n": "hang_seconds is 0",
    "max_queue = \n": "Invalid value",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_configuration_that_makes_no_sense_is_refused_in_one_line(tmp_path, line):
    path = tmp_path / "serve.toml"
    path.write_text(f"[models.add]\n{line}")
    with pytest.raises(InputError, match=WRONG[line]) as caught:
        Serving.read(path)
    assert "serve.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_said_of_the_model_by_name_is_the_strongest(root, load):
    put(root, "add", "1", 1.0)
    (root / "add" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx"\nmax_batch_size: 8  # a comment\ninstance_group [{ count: 2, kind: KIND_CPU }]\n'
        'parameters { key: "max_queue" value { string_value: "7" } }\nunheard_of { of: 1 }\n'
    )
    core = load(models={"*": {"max_batch": 2, "threads": 2}, "add": {"max_queue": 9}})
    assert core.settings("add") == ModelSettings(max_batch=8, instances=2, threads=2, max_queue=9)


def test_a_provider_that_is_not_there_is_said_and_the_processor_can_be_chosen(root, load):
    put(root, "add", "1", 1.0)
    core = load(models={"add": {"providers": ("cuda", "cpu")}})
    (state,) = core.index()
    assert (state.state, "CUDAExecutionProvider" in state.reason) == ("UNAVAILABLE", True)
    assert offset(load(models={"add": {"providers": ("cpu",)}})) == 1


def test_options_of_providers_come_from_either_file_and_go_to_their_provider(root, load, tmp_path):
    put(root, "add", "1", 1.0)
    options = "cpu = {fast = true, limit = 5}"
    (root / "add" / "config.pbtxt").write_text(
        'parameters { key: "providers" value { string_value: "cpu" } }\n'
        f'parameters {{ key: "provider_options" value {{ string_value: "{options}" }} }}\n'
    )
    core = load()
    assert offset(core) == 1, "the processor has no options, and takes any"
    assert core.settings("add").chosen_providers == (("cpu", {"fast": "True", "limit": "5"}),)
    (tmp_path / "serve.toml").write_text(
        '[models."*"]\nprovider_options.tensorrt = {trt_fp16_enable = true}\n'
        '[models.add]\nproviders = ["tensorrt", "cuda", "cpu"]\n'
    )
    chosen = Serving.read(tmp_path / "serve.toml").of("add").chosen_providers
    assert chosen == (("tensorrt", {"trt_fp16_enable": "True"}), ("cuda", {}), ("cpu", {}))


@pytest.mark.skipif("OpenVINOExecutionProvider" not in onnxruntime.get_available_providers(), reason="no OpenVINO")
def test_a_provider_without_its_device_is_said_and_the_next_one_chosen(root, load, caplog):
    put(root, "add", "1", 1.0)
    absent = {"openvino": {"device_type": "GPU"}}
    for providers, runs in ((("openvino",), False), (("openvino", "cpu"), True)):
        caplog.clear()
        core = load(models={"add": {"providers": providers, "provider_options": absent}})
        assert [one.state for one in core.index()] == ["READY" if runs else "UNAVAILABLE"]
        assert "OpenVINOExecutionProvider cannot be used on this machine" in caplog.text
    present = {"providers": ("openvino",), "provider_options": {"openvino": {"device_type": "CPU"}}}
    assert offset(load(models={"add": present})) == 1


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.from_regex(r"(name|max_batch_size|instance_group)[:{ ]{0,3}[\w\"{}]{0,9}")))
def test_any_text_is_a_model_configuration_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "config.pbtxt"
    path.write_text(text, encoding="utf-8")
    try:
        given = Serving().of("add", read_model_config(path, "add"))
    except InputError as error:
        said = str(error)
    else:
        said = f"{given}"
    assert "\n" not in said
