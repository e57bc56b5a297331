"""A bundle's model in a Triton repository: served from there it answers as the bundle does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.triton import export_triton
from edge_sdk.errors import InputError
from outside.bundles import CLASSES, TinyBundle, build_tiny_bundle
from outside.services import edge_sdk as run_edge_sdk


def test_our_server_gives_the_same_answers_from_the_exported_folder(
    service, tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    models = tmp_path / "models"
    done = run_edge_sdk("export", "triton", tiny_edge_bundle.path, models)
    assert (done.returncode, done.stdout) == (0, f"{models / 'tiny' / '1'}\n"), done.stderr
    inputs = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    tensor = grpc.InferInput("image", inputs.shape, "FP32")
    tensor.set_data_from_numpy(inputs)
    answers, classes = [], []
    for path in (tiny_edge_bundle.path, models):
        process = service("serve", path, "--grpc-port", "0")
        with grpc.InferenceServerClient(process.ready["grpc"]) as client:
            answers.append(client.infer("tiny", [tensor]).as_numpy("logits"))
            best = client.infer("tiny", [tensor], outputs=[grpc.InferRequestedOutput("logits", class_count=1)])
            classes.append(best.as_numpy("logits").tolist())
            assert client.get_model_config("tiny").config.input[0].dims == [8, 8, 3]
        assert process.stop() == 0
        assert process.errors == ""
    assert np.array_equal(*answers)
    assert classes[0] == classes[1]
    assert {row[0].decode().split(":")[2] for row in classes[1]} <= set(CLASSES)


def test_what_is_written_is_what_triton_reads(tiny_edge_bundle: TinyBundle, tmp_path: Path) -> None:
    service_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    bundle = Bundle.open(tiny_edge_bundle.path)
    version = export_triton(bundle, tmp_path, name="teacher")
    config = text_format.Parse((version.parent / "config.pbtxt").read_text(), service_pb2.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("teacher", "onnxruntime_onnx", 32)
    assert [(one.name, one.data_type, [*one.dims]) for one in config.input] == [
        ("image", service_pb2.TYPE_FP32, [8, 8, 3])
    ]
    (output,) = config.output
    assert (output.name, [*output.dims], output.label_filename) == ("logits", [3], "labels.txt")
    assert config.HasField("dynamic_batching")
    assert (version.parent / "labels.txt").read_text().split() == list(CLASSES)
    artifact = bundle.manifest.artifacts[0]
    assert (version / "model.onnx").read_bytes() == bundle.read(artifact.file)


def test_the_next_export_is_the_next_version_and_another_model_needs_another_name(
    tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_edge_bundle.path)
    newer = Bundle.open(build_tiny_bundle(tmp_path, version="1.1.0", seed=3).path)
    models = tmp_path / "models"
    assert [export_triton(one, models).name for one in (bundle, newer)] == ["1", "2"]
    assert sorted(one.name for one in (models / "tiny").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]
    (models / "tiny" / "labels.txt").write_text("other\n")
    with pytest.raises(InputError, match="--name"):
        export_triton(bundle, models)
    for name in ("", ".hidden", "a/b", "a\nb"):
        with pytest.raises(InputError, match="name"):
            export_triton(bundle, models, name=name)


def test_a_model_for_which_triton_has_no_backend_is_refused_with_what_to_do(
    tiny_edge_bundle: TinyBundle, tmp_path: Path
) -> None:
    bundle = Bundle.open(tiny_edge_bundle.path)
    artifact = replace(bundle.manifest.artifacts[0], runtime="litert")
    bundle.rewrite(tmp_path / "lite.edge", artifacts=(artifact,))
    done = run_edge_sdk("export", "triton", tmp_path / "lite.edge", tmp_path / "models")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no ONNX model, only litert" in done.stderr
    assert not (tmp_path / "models").exists()
