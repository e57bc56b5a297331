"""Rows, windows and clips are packed, verified, predicted, escalated and written down as pictures are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade.policy import Policy
from edge_sdk.client import Cloud
from edge_sdk.errors import EscalationError, InputError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec, samples
from edge_sdk.verification import verify
from outside.classifiers import linear_onnx
from outside.services import Service

LABELS = ("calm", "odd")
ROW = ProcessingSpec.table(["heat", "mode"], categories={"mode": ["idle", "run"]}, impute=20, mean=20, std=5)
CLIP = ProcessingSpec.audio(1600, sample_rate=8000, frame_length=200, frame_step=80, fft_length=256, mels=8)
WINDOW = ProcessingSpec.sensor(["x", "y"], 16, std=2)
SPECS = {"table": ROW, "audio": CLIP, "sensor": WINDOW}


def packed(folder: Path, name: str, spec: ProcessingSpec, seed: int) -> Path:
    path = folder / f"{name}-{seed}.edge"
    model = linear_onnx(spec.output_shape, len(LABELS), seed=seed)
    pack(
        model,
        path=path,
        name=f"{name}-{seed}",
        version="1.0.0",
        labels=LABELS,
        processing=spec,
        output="logits",
        runtime="onnx",
    )
    return path


def asking(edge: Path, server: Service) -> edge_sdk.HybridModel:
    return edge_sdk.connect(edge, cloud=server.ready["grpc"], mode="cloud", deadline=10)


@pytest.mark.parametrize("name", SPECS)
def test_a_model_of_any_modality_is_packed_verified_and_asked(name, tmp_path):
    spec = SPECS[name]
    path = packed(tmp_path, name, spec, 1)
    assert verify(Bundle.open(path))["examples"] == 4
    with edge_sdk.load(path) as model:
        assert model.warmup(2) > 0
        answers = model.predict_many(samples(spec, 5))
        assert {answer.label for answer in answers} <= set(LABELS)
        with pytest.raises(InputError):
            model.predict(np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(InputError, match="pixels: bgr is of pictures"):
            model.predict(samples(spec, 1)[0], pixels="bgr")


@pytest.mark.parametrize("name", SPECS)
def test_a_cloud_sees_what_the_edge_saw_and_answers_as_it_would_at_home(name, tmp_path):
    spec = SPECS[name]
    edge, cloud = packed(tmp_path, name, spec, 1), packed(tmp_path, name, spec, 2)
    policy = tmp_path / "policy.edge"
    Bundle.open(edge).rewrite(policy, cascade=Policy(threshold=1.0, certificate=None).to_json())
    inputs = samples(spec, 4)
    with edge_sdk.load(cloud) as model:
        expected = [model.predict(x).scores for x in inputs]
    with Service("serve", cloud, "--grpc-port", "0") as server:
        for encoding in ("auto", "captured", "tensor"):
            address = Cloud(server.ready["grpc"], encoding=encoding)
            with edge_sdk.connect(policy, cloud=address, deadline=10, journal=tmp_path / encoding) as model:
                answers = [model.predict(x) for x in inputs]
            assert [answer.source for answer in answers] == ["cloud"] * 4
            np.testing.assert_allclose([answer.scores for answer in answers], expected, atol=1e-5)
        address = Cloud(server.ready["grpc"], encoding="jpeg")
        with edge_sdk.connect(edge, cloud=address, mode="cloud", deadline=10) as model:
            with pytest.raises(EscalationError, match="takes captured, tensor, not jpeg"):
                model.predict(inputs[0])
            with pytest.raises(InputError):
                model.predict("nowhere.jpg")


def test_a_mapping_is_escalated_too_and_a_cloud_that_reads_rows_otherwise_is_not_asked(tmp_path):
    other = ProcessingSpec.table(["mode", "heat"], categories={"mode": ["idle", "run"]}, impute=20, mean=20, std=5)
    edge, same, swapped = (
        packed(tmp_path, name, spec, seed) for name, spec, seed in (("a", ROW, 1), ("b", ROW, 2), ("c", other, 3))
    )
    row = {"heat": 31.5, "mode": "run"}
    with edge_sdk.load(same) as model:
        expected = model.predict(row).scores
    with Service("serve", same, "--grpc-port", "0") as server, asking(edge, server) as model:
        np.testing.assert_allclose(model.predict(row).scores, expected, atol=1e-6)
    with (
        Service("serve", swapped, "--grpc-port", "0") as server,
        asking(edge, server) as model,
        pytest.raises(EscalationError, match="takes other inputs than the edge's"),
    ):
        model.predict(row)


def test_the_command_line_verifies_and_times_them(tmp_path):
    path = packed(tmp_path, "sensor", WINDOW, 1)
    for command in (["verify", path, "--json"], ["bench", path, "--repeats", "3", "--json"], ["inspect", path]):
        done = subprocess.run([sys.executable, "-m", "edge_sdk", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if command[0] == "verify":
            assert json.loads(done.stdout)["skew"] < 1e-5
