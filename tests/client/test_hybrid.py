"""The hybrid client against a real server: who answers, why, and what is certified."""

from __future__ import annotations

import io
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.client import Cloud, HybridModel
from edge_sdk.errors import BundleError, EscalationError, InputError, ModelClosedError
from outside.bundles import build_tiny_bundle, tiny_onnx
from outside.network import free_port

PATIENT = 20.0  # seconds; a deadline that a working server on a busy machine holds


def jpeg(frame: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_a_confident_answer_stays_on_the_edge_and_sends_nothing(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        answer = model.predict(pair.easy[0])
        assert (answer.source, answer.reason, answer.certified) == ("edge", "confident", True)
        assert model.counters["bytes_sent"] == 0
        assert answer.timing.cloud_ms == 0.0


def test_a_doubtful_answer_comes_from_the_cloud_and_is_certified(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model, edge_sdk.load(pair.cloud) as teacher:
        for frame in pair.hard[:5]:
            answer, alone = model.predict(frame), teacher.predict(frame)
            assert (answer.source, answer.reason, answer.certified) == ("cloud", "escalated", True)
            assert answer.model_digest == pair.cloud_digest
            assert (answer.label, answer.scores) == (alone.label, pytest.approx(alone.scores, abs=1e-6))


def test_every_request_is_counted_once(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        for frame in [*pair.easy[:7], *pair.hard[:5]]:
            model.predict(frame)
        counters = model.counters
    assert counters["requests"] == 12
    assert counters["answered"] == {"edge": 7, "cloud": 5, "cache": 0}
    assert counters["reasons"] == {"confident": 7, "escalated": 5}
    assert (counters["escalated"], counters["failed_uploads"]) == (5, 0)
    assert counters["bytes_sent"] > 5 * pair.hard[0].nbytes


def test_a_failed_upload_is_counted_apart(pair) -> None:
    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{free_port()}", deadline=PATIENT) as model:
        answer = model.predict(pair.hard[0])
        counters = model.counters
    assert (answer.source, answer.reason, answer.certified) == ("edge", "offline", False)
    assert counters["answered"] == {"edge": 1, "cloud": 0, "cache": 0}
    assert (counters["escalated"], counters["bytes_sent"]) == (0, 0)


def test_a_deadline_of_zero_never_asks(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=0) as model:
        assert model.predict(pair.hard[0]).reason == "deadline"
        counters = model.counters
    assert (counters["failed_uploads"], counters["bytes_failed"]) == (0, 0)


def test_a_deadline_that_makes_no_sense_cannot_be_set(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        for wrong in (-1, float("nan"), float("inf"), 1e300, 10**400, "1", [1]):
            with pytest.raises(InputError, match="deadline is"):
                model.deadline = wrong
        assert model.deadline == PATIENT


def test_no_deadline_waits_for_the_cloud(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=None) as model:
        assert model.predict(pair.hard[0]).source == "cloud"


def test_the_mode_edge_never_asks(pair) -> None:
    with edge_sdk.connect(pair.edge, cloud=f"127.0.0.1:{free_port()}", mode="edge") as model:
        doubtful, sure = model.predict(pair.hard[0]), model.predict(pair.easy[0])
    assert (doubtful.source, doubtful.reason, doubtful.certified) == ("edge", "forced", False)
    assert (sure.reason, sure.certified) == ("confident", True)


@pytest.mark.parametrize("mode", ["cloud", "prefer_cloud"])
def test_the_cloud_modes_ask_always(pair, cloud, mode: str) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, mode=mode, deadline=PATIENT) as model:
        for frame in (pair.easy[0], pair.hard[0], pair.easy[1]):
            answer = model.predict(frame)
            assert (answer.source, answer.reason, answer.certified) == ("cloud", "forced", True)


def test_without_a_cloud_prefer_cloud_answers_from_the_edge_and_cloud_raises(pair) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    with edge_sdk.connect(pair.edge, cloud=nowhere, mode="prefer_cloud", deadline=PATIENT) as model:
        sure, doubtful = model.predict(pair.easy[0]), model.predict(pair.hard[0])
    assert (sure.source, sure.reason, sure.certified) == ("edge", "offline", True)
    assert (doubtful.source, doubtful.reason, doubtful.certified) == ("edge", "offline", False)
    with edge_sdk.connect(pair.edge, cloud=nowhere, mode="cloud", deadline=PATIENT) as model:
        with pytest.raises(EscalationError, match="offline"):
            model.predict(pair.easy[0])
        assert model.counters["reasons"] == {"offline": 1}
        assert model.counters["answered"] == {"edge": 0, "cloud": 0, "cache": 0}


@pytest.mark.parametrize("encoding", ["auto", "captured", "jpeg", "tensor"])
def test_every_encoding_shows_the_cloud_the_same_picture(pair, cloud, encoding: str) -> None:
    with (
        edge_sdk.connect(pair.edge, cloud=Cloud(cloud, encoding=encoding), deadline=PATIENT) as model,
        edge_sdk.load(pair.cloud) as teacher,
    ):
        frame = pair.hard[0]
        answer = model.predict(frame)
        assert answer.source == "cloud"
        seen = jpeg(frame) if encoding == "jpeg" else frame
        assert answer.scores == pytest.approx(teacher.predict(seen).scores, abs=1e-5)


def test_a_jpeg_travels_as_it_came(pair, cloud, tmp_path: Path) -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    path = tmp_path / "frame.jpg"
    path.write_bytes(jpeg(frame))
    with (
        edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model,
        edge_sdk.load(pair.cloud) as teacher,
    ):
        for given in (path, str(path), path.read_bytes()):
            assert model.predict(given).scores == pytest.approx(teacher.predict(path).scores, abs=1e-6)
        assert model.counters["bytes_sent"] < 3 * (path.stat().st_size + 300)


@pytest.mark.parametrize(("side", "encode"), [(2500, np.asarray), (4200, jpeg)], ids=["pixels", "jpeg"])
def test_a_picture_too_large_to_send_is_sent_processed(pair, cloud, side: int, encode) -> None:
    picture = encode(np.zeros((side, side, 3), np.uint8))
    with edge_sdk.connect(pair.edge, cloud=cloud, mode="prefer_cloud", deadline=PATIENT) as model:
        assert model.predict(picture).source == "cloud"
        assert model.counters["bytes_sent"] < 10_000


def test_a_grey_frame_is_sent_too(pair, cloud) -> None:
    frame = np.full((24, 24), 90, np.uint8)
    with (
        edge_sdk.connect(pair.edge, cloud=cloud, mode="cloud", deadline=PATIENT) as model,
        edge_sdk.load(pair.cloud) as teacher,
    ):
        assert model.predict(frame).scores == pytest.approx(teacher.predict(frame).scores, abs=1e-5)


def test_other_labels_are_rejected(pair, service, tmp_path: Path, caplog) -> None:
    source = Bundle.open(pair.cloud)
    source.rewrite(tmp_path / "other.edge", labels=("red", "blue", "green"))
    address = service("serve", tmp_path / "other.edge", "--grpc-port", "0").ready["grpc"]
    with edge_sdk.connect(pair.edge, cloud=address, deadline=PATIENT) as model:
        for _ in range(3):
            answer = model.predict(pair.hard[0])
            assert (answer.source, answer.reason, answer.certified) == ("edge", "rejected", False)
    assert caplog.text.count("other labels") == 1  # said once, not once a call


def test_the_answer_of_another_model_is_used_but_not_certified(pair, service, tmp_path: Path) -> None:
    foreign = build_tiny_bundle(tmp_path, name="foreign", seed=9).path
    address = service("serve", foreign, "--grpc-port", "0").ready["grpc"]
    with edge_sdk.connect(pair.edge, cloud=address, deadline=PATIENT) as model:
        answer = model.predict(pair.hard[0])
        assert (answer.source, answer.reason, answer.certified) == ("cloud", "escalated", False)
        assert model.counters["foreign_model"] == 1


def test_a_policy_without_a_certificate_certifies_nothing(pair, cloud, tmp_path: Path) -> None:
    policy = Policy(threshold=0.9).to_json()
    Bundle.open(pair.edge).rewrite(tmp_path / "plain.edge", cascade=policy)
    with edge_sdk.connect(tmp_path / "plain.edge", cloud=cloud, deadline=PATIENT) as model:
        assert not model.predict(pair.easy[0]).certified
        assert not model.predict(pair.hard[0]).certified


def serve_plain(service, folder: Path, weights: np.ndarray, bias: np.ndarray) -> str:
    (folder / "plain.onnx").write_bytes(tiny_onnx(weights.astype(np.float32), bias.astype(np.float32)))
    return service("serve", folder / "plain.onnx", "--grpc-port", "0").ready["grpc"]


def test_a_server_without_our_encodings_gets_a_processed_tensor(pair, service, tmp_path: Path) -> None:
    address = serve_plain(service, tmp_path, np.zeros((192, 3)), np.array([0.0, 5.0, 0.0]))
    with edge_sdk.connect(pair.edge, cloud=f"{address}/plain", deadline=PATIENT) as model:
        answer = model.predict(pair.hard[0])
    assert (answer.source, answer.label, answer.certified) == ("cloud", "green", False)
    assert sum(answer.scores) == pytest.approx(1.0)


def test_nan_from_the_cloud_is_rejected(pair, service, tmp_path: Path) -> None:
    address = serve_plain(service, tmp_path, np.zeros((192, 3)), np.array([np.nan, 1, 2]))
    with edge_sdk.connect(pair.edge, cloud=address, deadline=PATIENT) as model:
        answer = model.predict(pair.hard[0])
        assert (answer.source, answer.reason) == ("edge", "rejected")
        assert model.counters["failed_uploads"] == 1
        assert model.counters["escalated"] == 0


def test_too_many_classes_from_the_cloud_are_rejected(pair, service, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(np.zeros((192, 4), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "wide.onnx").write_bytes(model.SerializeToString())
    address = service("serve", tmp_path / "wide.onnx", "--grpc-port", "0").ready["grpc"]
    with edge_sdk.connect(pair.edge, cloud=address, deadline=PATIENT) as hybrid:
        assert hybrid.predict(pair.hard[0]).reason == "rejected"


def test_with_several_models_on_the_server_one_must_be_named(pair, service, tmp_path: Path, caplog) -> None:
    other = build_tiny_bundle(tmp_path, name="other", seed=4).path
    address = service("serve", pair.cloud, other, "--grpc-port", "0").ready["grpc"]
    with edge_sdk.connect(pair.edge, cloud=address, deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).reason == "rejected"
    assert "say which with model_name" in caplog.text
    with edge_sdk.connect(pair.edge, cloud=f"{address}/teacher", deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).certified
    with edge_sdk.connect(pair.edge, cloud=Cloud(address, model_name="teacher"), deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).certified
    with edge_sdk.connect(pair.edge, cloud=Cloud(address, model_name="missing"), deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).reason == "rejected"


def test_swapping_under_load_fails_no_call(pair, cloud, tmp_path: Path) -> None:
    bundle = Bundle.open(pair.edge)
    paths = [pair.edge, tmp_path / "second.edge"]
    bundle.rewrite(paths[1], version="2.0.0")
    stop = threading.Event()
    frames = [*pair.easy[:3], *pair.hard[:3]]

    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:

        def stream() -> int:
            answers = 0
            while not stop.is_set():
                assert model.predict(frames[answers % len(frames)]).label in bundle.manifest.labels
                answers += 1
            return answers

        with ThreadPoolExecutor(4) as pool:
            streams = [pool.submit(stream) for _ in range(4)]
            try:
                for n in range(1, 12):
                    model.swap(paths[n % 2])
            finally:
                stop.set()
            answers = sum(result.result() for result in streams)
        assert model.edge.version == "2.0.0"
        counters = model.counters
        assert counters["requests"] == answers == sum(counters["reasons"].values())
        assert sum(counters["answered"].values()) == answers


def test_a_bundle_that_cannot_be_used_leaves_the_old_model_in_place(pair, cloud, tmp_path: Path) -> None:
    (tmp_path / "broken.edge").write_bytes(pair.edge.read_bytes()[:-100])
    Bundle.open(pair.edge).rewrite(tmp_path / "no-policy.edge", cascade=None)
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        with pytest.raises(BundleError):
            model.swap(tmp_path / "broken.edge")
        with pytest.raises(InputError, match="no policy"):
            model.swap(tmp_path / "no-policy.edge")
        assert model.predict(pair.easy[0]).reason == "confident"


def test_after_closing_calls_and_swaps_are_refused(pair, cloud) -> None:
    model = edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT)
    model.close()
    model.close()
    with pytest.raises(ModelClosedError):
        model.predict(pair.easy[0])
    with pytest.raises(ModelClosedError):
        model.swap(pair.edge)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "fastest"}, "mode is 'fastest'"),
        ({"deadline": -1}, "deadline is -1"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"deadline": float("inf")}, "deadline is inf"),
        ({"deadline": "1"}, "deadline is '1'"),
        ({"audit_rate": "1"}, "audit_rate is str"),
        ({"audit_key": "k" * 16}, "audit_key is str"),
        ({"budget": 5}, "budget is int"),
        ({"journal": 5}, "journal is int"),
        ({"privacy": None}, "need a list of rules"),
        ({"cloud": "nohost"}, "host:port"),
        ({"cloud": "host:port"}, "host:port"),
        ({"cloud": "host:99999"}, "host:port"),
        ({"cloud": Cloud("127.0.0.1:1", tls_ca="missing.pem")}, "missing.pem"),
    ],
)
def test_wrong_options_are_refused_in_one_line(pair, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        edge_sdk.connect(pair.edge, **{"cloud": "127.0.0.1:1", **options})
    assert "\n" not in str(caught.value)


def test_a_bundle_without_a_policy_is_refused_in_hybrid_mode_only(pair, cloud, tmp_path: Path) -> None:
    Bundle.open(pair.edge).rewrite(tmp_path / "no-policy.edge", cascade=None)
    with pytest.raises(InputError, match="run edge-sdk certify"):
        edge_sdk.connect(tmp_path / "no-policy.edge", cloud=cloud)
    with edge_sdk.connect(tmp_path / "no-policy.edge", cloud=cloud, mode="prefer_cloud", deadline=PATIENT) as model:
        answer = model.predict(pair.easy[0])
    assert (answer.source, answer.certified) == ("cloud", False)


def test_a_frame_that_is_no_picture_is_refused(pair, cloud) -> None:
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        for wrong in (np.zeros((4, 4, 3)), b"\xff\xd8\xff broken", "missing.jpg", None):
            with pytest.raises(InputError):
                model.predict(wrong)


def test_the_mode_edge_needs_no_grpc(pair) -> None:
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("grpc", "google"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
import numpy as np, edge_sdk
with edge_sdk.connect({str(pair.edge)!r}, cloud="127.0.0.1:1", mode="edge") as model:
    print(model.predict(np.zeros((24, 24, 3), np.uint8)).source)
try:
    edge_sdk.connect({str(pair.edge)!r}, cloud="127.0.0.1:1")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["edge", "grpcio is not installed: pip install 'edge-sdk[hybrid]'"], done


def test_connecting_waits_for_no_cloud(pair) -> None:
    with socket.socket() as hole:  # takes connections, and never answers
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        address = f"127.0.0.1:{hole.getsockname()[1]}"
        with edge_sdk.connect(pair.edge, cloud=address, deadline=None) as model:
            assert model.predict(pair.easy[0]).reason == "confident"


def test_a_hybrid_model_can_be_made_from_a_loaded_one(pair, cloud) -> None:
    with HybridModel(edge_sdk.load(pair.edge), cloud, deadline=PATIENT) as model:
        assert model.predict(pair.hard[0]).source == "cloud"
