"""Our server and Triton 2.51 itself, with the same models, are asked the same and say the same.

Triton runs with its Python backend, from the wheel nvidia-pytriton: ``make test-triton TRITON_PYTHON=…`` names a
Python that has it. Where ours says something else on purpose, `KNOWING` says why; a difference that is no more
fails, too. In messages names and numbers may differ, and ours may say more at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from outside.asking import Asked, Said, normal
from outside.network import free_port
from outside.questions import CASES
from outside.services import Service
from outside.sources import ROOT
from outside.twins import DATATYPES, write_twins

pytestmark = pytest.mark.triton

_VERSION = "a version is a text: bundles have versions such as 1.2.0, so that 'x' is one that is not there"
_UNKNOWN = "what is not there is NOT_FOUND, or 404, whatever is asked of it"
_BLAME = "a body that cannot be read is the sender's fault, 400, and no fault of the server's, 500"
_LOSSY = "Triton takes other values than were sent; ours refuses them"
_ITEMS = "a request to ours may hold 256 items, however few are run at once"
KNOWING = {
    **dict.fromkeys(("configuration of exported", "GET /v2/models/exported/config"), _ITEMS),
    **{f"{what} of free x": _VERSION for what in ("metadata", "configuration", "readiness", "statistics")},
    **{f"GET /v2/models/free/versions/x{what}": _VERSION for what in ("", "/ready", "/config", "/stats")},
    "a version that is no number": _VERSION,
    **{f"statistics of {what}": _UNKNOWN for what in ("absent", "free 9")},
    **{f"GET /v2/models/{what}": _UNKNOWN for what in ("absent/ready", "absent/stats")},
    **{f"GET /v2/models/free/versions/9/{what}": _UNKNOWN for what in ("ready", "stats")},
    **dict.fromkeys(("load what is absent", "load nothing", "unload what is absent", "unload nothing"), _UNKNOWN),
    **dict.fromkeys(("load what is absent over REST", "unload what is absent over REST"), _UNKNOWN),
    "unload with an unknown parameter": "what is not understood is refused, as it is when a model is loaded",
    "INT8 beyond its range, typed": _LOSSY,
    "beyond the range over REST": _LOSSY,
    "unevenly nested data over REST": _LOSSY,
    "more raw contents than inputs": _LOSSY,
    "NaN asked for in JSON": "NaN is no JSON; Triton writes it all the same",
    "BYTES that are no text": "strings of ONNX models are UTF-8",
    "an empty tensor": "no model has anything to say of it, and it is mostly a mistake",
    "an output twice": "one of the two is a mistake",
    "outputs in another order": "they come in the order in which they are asked for",
    "shared memory": "no client may have the server read its memory",
    "classes of half floats": "ours has them, too",
    "FP16 asked for in JSON": "its values are numbers as others are",
    "a negative timeout": "it is no time",
    "a timeout of nearly nothing": "a timeout counts without leave in the model's configuration",
    "a reserved parameter": "only Triton's own are reserved",
    **{
        f"{what} over REST": _BLAME
        for what in (
            "floats as whole numbers", "numbers as booleans", "texts as numbers", "too few", "too many", "no name",
            "no shape", "no datatype", "a negative extent", "no inputs", "an id that is no text",
        )
    },
    **dict.fromkeys(("a body that is no JSON", "a body that is a list", "a header that is too short"), _BLAME),
}  # fmt: skip
"""What ours answers otherwise, and why."""

WORDED = {
    *(f"too {how} typed {datatype}" for how in ("few", "many") for datatype in DATATYPES if datatype != "FP16"),
    "typed FP16", "INT8 in a wrong field", "BYTES cut short", "BYTES with more behind",
    "load with an unknown parameter", "an input too many", "an input twice", "an unknown datatype", "no datatype",
    "no shape", "a negative extent", "an extent of -1", "more bytes than the shape", "fewer bytes than the shape",
    "a shape bomb", "a shape that overflows", "no items", "raw and typed contents", "no contents",
    "one input raw and one typed", "no classes", "a negative number of classes", "a model that fails",
    "no data over REST", "a datatype unknown over REST", "FP16 in JSON", "an empty body over REST",
    "a list as parameter over REST", "binary contents cut short", "a header beyond the body",
    "a header that is no number", "a model that fails over REST",
}  # fmt: skip
"""Where ours has other words for the same status: mostly of contents, which are read before the model is looked up."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, grpc_front: str) -> Iterator[tuple[Asked, Asked]]:
    """Return Triton and our server, with each of its fronts."""
    python = os.environ.get("EDGE_SDK_TRITON_PYTHON")
    if not python:
        pytest.skip("EDGE_SDK_TRITON_PYTHON names no Python that has nvidia-pytriton")
    folder = tmp_path_factory.mktemp("twins")
    for name in ("triton", "ours", "own"):
        (folder / name).mkdir()
    write_twins(folder / "triton", folder / "ours")
    program = [python, str(ROOT / "tests" / "fixtures" / "foreign" / "triton_server.py")]
    serve = ("serve", folder / "ours", "--front", grpc_front, "--grpc-port", "0", "--http-port", "0", "--allow-admin")
    ports, explicit = [free_port() for _ in range(3)], ["--model-control-mode=explicit", "--load-model=*"]
    with (
        Service(folder / "triton", folder / "own", *ports, *explicit, program=program, timeout=120) as theirs,
        Service(*serve) as ours,
    ):
        both = Asked(theirs.ready["grpc"], theirs.ready["http"]), Asked(ours.ready["grpc"], ours.ready["http"])
        yield both
        for one in both:
            one.close()


def difference(theirs: Said, ours: Said) -> str:
    """Return in what two answers differ; empty where they do not."""
    if theirs.status != ours.status:
        return f"status {theirs.status} ({theirs.message}) != {ours.status} ({ours.message})"
    if not normal(ours.message).startswith(normal(theirs.message)):
        return f"message {theirs.message!r} != {ours.message!r}"
    if theirs.content != ours.content:
        return f"content {theirs.content!r} != {ours.content!r}"
    return ""


@pytest.mark.parametrize("name", CASES)
def test_ours_says_what_triton_says(servers: tuple[Asked, Asked], name: str) -> None:
    theirs, ours = (CASES[name](server) for server in servers)
    found = difference(theirs, ours)
    if name in KNOWING:
        assert found, "this difference is gone: take it off the list"
    elif name in WORDED:
        assert found.startswith("message"), found or "this difference is gone: take it off the list"
    else:
        assert not found


def test_the_lists_are_of_questions_that_are_asked() -> None:
    assert not (KNOWING.keys() | WORDED) - CASES.keys()
    assert not KNOWING.keys() & WORDED


def tensors(triton: Any, binary: bool) -> tuple[list, list]:
    """Return inputs of the model `pair` and its outputs asked for, as a kind of tritonclient has them."""
    inputs = []
    for name, seed in (("a", 1), ("b", 2)):
        inputs.append(triton.InferInput(name, [3, 4], "FP32"))
        x = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
        inputs[-1].set_data_from_numpy(x, **({} if "grpc" in triton.__name__ else {"binary_data": binary}))
    more = {} if "grpc" in triton.__name__ else {"binary_data": binary}
    return inputs, [triton.InferRequestedOutput("difference", **more)]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_an_unmodified_client_of_triton_is_told_the_same(servers, kind: str, binary: bool) -> None:
    triton = pytest.importorskip(f"tritonclient.{kind}")
    told = []
    for server in servers:
        address = server.grpc_address if kind == "grpc" else server.http_address
        with triton.InferenceServerClient(address) as client:
            inputs, outputs = tensors(triton, binary)
            result = client.infer("pair", inputs, outputs=outputs, request_id="5", timeout=5_000_000, priority=1)
            told.append([result.as_numpy("difference").tobytes(), result.as_numpy("sum")])
            said = result.get_response() if kind == "http" else result.get_response(as_json=True)
            told[-1] += [said.get("id"), said["model_name"], said["model_version"]]
            told[-1] += [client.is_server_live(), client.is_server_ready(), client.is_model_ready("pair")]
            told[-1] += [client.is_model_ready("absent")]
            classes = triton.InferRequestedOutput("sum", class_count=2)
            told[-1].append(client.infer("pair", inputs, outputs=[classes]).as_numpy("sum").tolist())
            with pytest.raises(Exception, match="unexpected inference input") as caught:
                client.infer("free", inputs[:1])
            told[-1].append(normal(caught.value.message()).partition(";")[0])
            statistics = client.get_inference_statistics("pair", **({"as_json": True} if kind == "grpc" else {}))
            (version,) = statistics["model_stats"]
            told[-1] += [sorted(version["inference_stats"]), version["version"]]
    theirs, ours = told
    assert ours == theirs
