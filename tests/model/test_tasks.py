"""Detectors, and models that estimate or embed: from a model file to answers in pixels of the frame."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Detector, GoldenSet, build_bundle
from edge_sdk.canonical import sha256
from edge_sdk.cascade import Policy
from edge_sdk.errors import CertificateError, GoldenError, InputError, ModelClosedError, ModelError
from edge_sdk.model import EdgeModel
from edge_sdk.packing import pack
from edge_sdk.processing import Color, Crop, Layout, Letterbox, Normalize, ProcessingSpec, Resize
from edge_sdk.verification import verify
from outside.detectors import SIDE, cell_boxes, embedder_onnx, ssd_onnx, yolo_onnx
from outside.tflite import reshaping_tflite

LABELS = ("red", "green")


def spec(target=None, crop: float | None = None) -> ProcessingSpec:
    """Return the processing of the detectors of `outside.detectors`."""
    return ProcessingSpec(
        (
            Color("rgb"),
            *([] if crop is None else [Crop(crop)]),
            target or Resize(SIDE, SIDE),
            Normalize((0.0,) * 3, (255.0,) * 3),
            Layout("NCHW"),
        )
    )


def packed(folder, model: bytes, detector: Detector, **changes):
    """Pack a detector of `outside.detectors`; ``changes`` replace arguments of `pack`."""
    arguments = {
        "runtime": "onnx",
        "path": folder / "d.edge",
        "name": "cells",
        "version": "1.0.0",
        "task": "detection",
        "labels": LABELS,
        "processing": spec(),
        "detection": detector,
    }
    return pack(model, **{**arguments, **changes})


def painted(height: int, width: int, *areas: tuple[int, int, int, int, int], level: int = 255) -> np.ndarray:
    """Return a black frame with areas (left, top, right, bottom, channel) painted in one channel."""
    frame = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom, channel in areas:
        frame[top:bottom, left:right, channel] = level
    return frame


RED, GREEN = (8, 16, 16, 24, 0), (24, 0, 32, 8, 1)
ANCHORS = (cell_boxes() / SIDE)[:, [1, 0, 3, 2]].copy()
TENSORFLOW = Detector("ssd", normalized=True, order="yx", background=True)


@pytest.mark.parametrize(
    ("model", "detector", "anchors"),
    [
        (yolo_onnx(), Detector("yolo"), None),
        (yolo_onnx(swapped=True), Detector("yolo"), None),
        (yolo_onnx(fractions=True), Detector("yolo", normalized=True), None),
        (ssd_onnx(offsets=False), TENSORFLOW, None),
        (ssd_onnx(offsets=False, scores_first=True), TENSORFLOW, None),
        (ssd_onnx(offsets=True), TENSORFLOW, ANCHORS),
    ],
    ids=["yolo", "yolo-swapped", "yolo-fractions", "ssd", "ssd-scores-first", "ssd-anchors"],
)
def test_a_detector_of_any_form_finds_what_is_there(tmp_path, model, detector, anchors):
    bundle = packed(tmp_path, model, detector, anchors=anchors)
    with edge_sdk.load(bundle.path) as loaded:
        found = loaded.predict(painted(SIDE, SIDE, RED, GREEN))
        assert [(one.label, one.index, one.box) for one in sorted(found, key=lambda one: one.index)] == [
            ("red", 0, RED[:4]),
            ("green", 1, GREEN[:4]),
        ]
        assert found.scores == pytest.approx((1.0, 1.0))
        nothing = loaded.predict(painted(SIDE, SIDE))
        assert (len(nothing), nothing.boxes) == (0, ())
    assert verify(edge_sdk.Bundle.open(bundle.path))["output_error"] == 0.0


@pytest.mark.parametrize(
    ("processing", "size", "cell"),
    [
        (spec(), (64, 96), (24, 32, 48, 48)),
        (spec(Letterbox(SIDE, SIDE)), (32, 64), (16, 16, 32, 32)),
        (spec(crop=1.0), (32, 64), (24, 16, 32, 24)),
    ],
    ids=["resize", "letterbox", "crop"],
)
def test_boxes_are_in_pixels_of_the_frame_whatever_was_done_to_it(tmp_path, processing, size, cell):
    with EdgeModel(
        packed(tmp_path, yolo_onnx(), Detector("yolo", score_threshold=0.8), processing=processing)
    ) as model:
        (one,) = model.predict(painted(*size, (*cell, 1)))
    assert (one.label, one.score) == ("green", pytest.approx(1.0))
    assert one.box == pytest.approx(cell)


def test_a_box_in_the_margin_of_a_letterbox_is_none_of_the_frame(tmp_path):
    bundle = packed(tmp_path, yolo_onnx(), Detector("yolo"), processing=spec(Letterbox(SIDE, SIDE, fill=255.0)))
    with EdgeModel(bundle) as model:
        assert len(model.predict(np.zeros((16, 32, 3), np.uint8))) == 0
        assert len(model.predict_tensor(model.processor(np.zeros((16, 32, 3), np.uint8)))) == 8


def test_thresholds_and_limits_of_the_bundle_hold(tmp_path):
    frame = painted(SIDE, SIDE, RED, level=128) + painted(SIDE, SIDE, GREEN)
    for change, count in (({}, 2), ({"score_threshold": 0.6}, 1), ({"max_detections": 1}, 1)):
        with EdgeModel(packed(tmp_path, yolo_onnx(), Detector("yolo", **change))) as model:
            found = model.predict(frame)
        assert len(found) == count
        assert found[0].label == "green", "the surest first"


def test_an_int8_detector_is_read_as_it_is(tmp_path):
    """The frame is the output: six rows of grey levels, a column an anchor."""
    columns = np.array([[128, 64, 51, 102, 255, 0], [10, 10, 5, 5, 0, 200], [90, 90, 60, 60, 3, 60]], np.uint8)
    processing = ProcessingSpec((Color("grey"), Resize(6, 3), Normalize((0.0,), (255.0,))))
    bundle = packed(
        tmp_path,
        reshaping_tflite((1, 6, 3, 1), (1, 6, 3), 1 / 255, -128),
        Detector("yolo", normalized=True),
        processing=processing,
        runtime="litert",
    )
    with EdgeModel(bundle) as model:
        assert model.processor.spec.output_dtype == np.int8
        found = model.predict(columns.T.copy())
    assert found.labels == ("red", "green")
    assert found.scores == pytest.approx((1.0, 200 / 255))
    x, y, width, height = columns[0, :4] / 255 * [3, 6, 3, 6]
    np.testing.assert_allclose(
        found.boxes[0], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), atol=1e-5
    )


def test_answers_can_be_taken_apart_and_written_as_json(tmp_path):
    with EdgeModel(packed(tmp_path, yolo_onnx(), Detector("yolo"))) as model:
        found = model.predict(painted(SIDE, SIDE, RED, GREEN))
        assert isinstance(found, edge_sdk.Detections)
        assert list(found) == [found[0], found[1]]
        row = json.loads(json.dumps(found.to_dict()))
        assert row["detections"][0] == {
            "box": list(found[0].box),
            "score": found[0].score,
            "index": found[0].index,
            "label": found[0].label,
        }
        assert (row["source"], row["reason"], row["certified"]) == ("edge", "forced", False)
        parts = found.timing
        assert 0 < parts.pre_ms + parts.infer_ms + parts.post_ms <= parts.total_ms
        again = asyncio.run(model.apredict(painted(SIDE, SIDE, RED, GREEN)))
        streamed = list(model.stream([painted(SIDE, SIDE, RED)]))
    assert again.boxes == found.boxes
    assert streamed[0].labels == ("red",)


@pytest.mark.parametrize("task", ["regression", "embedding"])
def test_a_model_that_estimates_gives_its_outputs_by_name(tmp_path, task):
    bundle = packed(tmp_path, embedder_onnx(), None, task=task, labels=())
    frame = painted(SIDE, SIDE, (0, 0, SIDE, SIDE, 1))
    with edge_sdk.load(bundle.path) as model:
        answer = model.predict(frame)
        tensor = model.predict_tensor(model.processor(frame))
        assert model.warmup(2) > 0
    assert isinstance(answer, edge_sdk.Tensors)
    np.testing.assert_allclose(answer["colour"], [0, 1, 0])
    np.testing.assert_allclose(answer[0], tensor[0])
    assert answer["brightness"] == pytest.approx(1 / 3)
    assert answer.to_dict()["outputs"]["colour"] == [0.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        answer["colour"][0] = 1
    assert verify(bundle)["output_error"] == 0.0


def test_int8_outputs_are_dequantized(tmp_path):
    processing = ProcessingSpec((Color("grey"), Resize(2, 3), Normalize((0.0,), (255.0,))))
    model = reshaping_tflite((1, 2, 3, 1), (1, 6), 1 / 255, -128)
    bundle = packed(tmp_path, model, None, task="regression", labels=(), processing=processing, runtime="litert")
    with EdgeModel(bundle) as loaded:
        answer = loaded.predict(np.array([[0, 51, 102], [153, 204, 255]], np.uint8))
    np.testing.assert_allclose(answer["found"], [0, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-6)


# ---- golden examples


def test_golden_outputs_of_a_detector_are_its_raw_tensors(tmp_path):
    bundle = packed(tmp_path, ssd_onnx(offsets=False), TENSORFLOW)
    golden = GoldenSet.from_bundle(bundle)
    assert [rows.shape for rows in golden.outputs] == [(4, 64), (4, 48)]
    assert len(bundle.manifest.golden.output_atols) == 2
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    spoilt = golden.outputs[1].copy()
    spoilt[2] = spoilt[2][::-1]
    members |= replace(golden, outputs=(golden.outputs[0], spoilt)).to_members()
    with pytest.raises(GoldenError, match="golden example 2 differs"):
        verify(build_bundle(bundle.manifest, members))


def test_a_large_detector_does_not_make_its_bundle_large(tmp_path):
    side = 512
    processing = ProcessingSpec((Color("grey"), Resize(side, side), Normalize((0.0,), (255.0,))))
    model = reshaping_tflite((1, side, side, 1), (1, 64, side * side // 64), 1 / 255, -128)
    bundle = packed(
        tmp_path,
        model,
        Detector("yolo", normalized=True),
        labels=[f"class {n}" for n in range(60)],
        processing=processing,
        runtime="litert",
    )
    golden = GoldenSet.from_bundle(bundle)
    assert golden.processed.shape[1] == golden.outputs[0].shape[1] <= 16384
    seen = golden.outputs[0][0]
    assert len(np.unique(seen)) > 50, "spread over rows and columns"
    assert bundle.path.stat().st_size < 1_000_000
    assert verify(bundle)["output_error"] == 0.0


# ---- what cannot be


@pytest.mark.parametrize(
    ("model", "detector", "changes", "error", "why"),
    [
        (yolo_onnx(), Detector("yolo"), {"labels": "abc"}, ModelError, r"output is \[1, 6, 16\]; for 3 labels"),
        (yolo_onnx(), Detector("ssd"), {}, ModelError, "its decoder reads output 1 of 1"),
        (embedder_onnx(), Detector("yolo"), {}, ModelError, r"output colour is \[1, 3\]; a decoder takes"),
        (
            ssd_onnx(offsets=False),
            Detector("ssd"),
            {},
            ModelError,
            r"should be \[1, anchors, 4\] and \[1, anchors, 2\]",
        ),
        (ssd_onnx(offsets=True), TENSORFLOW, {"anchors": ANCHORS[:3]}, ModelError, "anchors are float32"),
        (ssd_onnx(offsets=True), TENSORFLOW, {"anchors": ANCHORS * np.float32(np.nan)}, ModelError, "should be finite"),
        (ssd_onnx(offsets=True), TENSORFLOW, {"anchors": ANCHORS.astype(float)}, InputError, "float32 array"),
        (yolo_onnx(), Detector("yolo"), {"anchors": ANCHORS}, InputError, "decoder is ssd"),
        (yolo_onnx(gain=5.0), Detector("yolo"), {}, ModelError, "no probabilities"),
        (yolo_onnx(gain=np.inf), Detector("yolo"), {}, ModelError, "NaN or an infinity"),
        (yolo_onnx(), None, {}, InputError, "detection should say"),
        (yolo_onnx(), Detector("yolo"), {"task": "embedding", "labels": ()}, InputError, "detection should say"),
        (yolo_onnx(), Detector("yolo"), {"labels": ()}, InputError, "labels are empty"),
        (yolo_onnx(), Detector("yolo"), {"output": "logits"}, InputError, "only a classifier's outputs"),
        (yolo_onnx(), None, {"task": "regression"}, InputError, "a model for regression has none"),
        (yolo_onnx(), None, {"task": "poetry"}, InputError, "task is 'poetry'"),
        (yolo_onnx(), None, {"task": "classification"}, InputError, "output is None"),
    ],
)
def test_a_detector_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path, model, detector, changes, error, why):
    with pytest.raises(error, match=why):
        packed(tmp_path, model, detector, **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_int8_output_without_a_scale_is_refused(tmp_path):
    processing = ProcessingSpec((Color("grey"), Resize(6, 3), Normalize((0.0,), (255.0,)))).with_quantize(
        "int8", 1.0, 0
    )
    model = reshaping_tflite((1, 6, 3, 1), (1, 6, 3), None, None)
    for changes in (
        {"detection": Detector("yolo")},
        {"detection": None, "task": "regression", "labels": ()},
        {"detection": None, "task": "classification", "labels": [f"{n}" for n in range(18)], "output": "logits"},
    ):
        with pytest.raises(ModelError, match="output found is int8 and has no scale and zero point"):
            packed(tmp_path, model, None, processing=processing, runtime="litert", **changes)


def test_an_int8_input_without_a_scale_needs_a_quantize_step(tmp_path):
    processing = ProcessingSpec((Color("grey"), Resize(6, 3), Normalize((0.0,), (255.0,))))
    model = reshaping_tflite((1, 6, 3, 1), (1, 6, 3), None, None)
    with pytest.raises(ModelError, match=r"processing gives float32\[1, 6, 3, 1\], the model takes int8\[1, 6, 3, 1\]"):
        packed(tmp_path, model, Detector("yolo"), processing=processing, runtime="litert")


def test_a_policy_that_cannot_judge_the_answers_is_refused(tmp_path):
    policy = Policy(0.5).to_json()
    for model, detector, changes in (
        (yolo_onnx(), Detector("yolo"), {}),
        (embedder_onnx(), None, {"task": "embedding", "labels": ()}),
    ):
        with pytest.raises(CertificateError, match="a policy on max_probability cannot judge"):
            packed(tmp_path, model, detector, cascade=policy, **changes)


def test_whatever_needs_a_classifier_says_so(tmp_path):
    bundle = packed(tmp_path, yolo_onnx(), Detector("yolo"))
    with EdgeModel(bundle) as model, pytest.raises(InputError, match="infer_tensor takes classification only"):
        model.infer_tensor(np.zeros((1, 3, SIDE, SIDE), np.float32))
    with pytest.raises(InputError, match="is a bundle for detection; a model with a cloud behind it takes"):
        edge_sdk.connect(bundle.path, cloud="127.0.0.1:1", mode="edge")


def test_the_decoder_is_part_of_what_computes(tmp_path):
    one = packed(tmp_path, yolo_onnx(), Detector("yolo")).manifest
    other = packed(tmp_path, yolo_onnx(), Detector("yolo", score_threshold=0.5)).manifest
    assert one.model_digest != other.model_digest
    anchored = [
        packed(tmp_path, ssd_onnx(offsets=True), TENSORFLOW, anchors=anchors).manifest.model_digest
        for anchors in (ANCHORS, ANCHORS * np.float32(0.5))
    ]
    assert anchored[0] != anchored[1]


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("task", ["detection", "regression"])
def test_an_output_that_is_not_a_number_is_an_error_and_the_model_goes_on(tmp_path, task, value):
    model = yolo_onnx() if task == "detection" else embedder_onnx()
    detector, labels = (Detector("yolo"), LABELS) if task == "detection" else (None, ())
    with EdgeModel(packed(tmp_path, model, detector, task=task, labels=labels)) as loaded:
        with pytest.raises(ModelError, match=r"cells 1\.0\.0: output \w+ holds a NaN or an infinity"):
            loaded.predict_tensor(np.full((1, 3, SIDE, SIDE), value, np.float32))
        loaded.predict(painted(SIDE, SIDE))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[::-1]])
def test_a_damaged_model_in_a_well_formed_bundle_is_refused(made, tmp_path, damage):
    for bundle in (packed(tmp_path, yolo_onnx(), Detector("yolo")), made.pack(tmp_path / "m.edge")):
        (artifact,) = bundle.manifest.artifacts
        data = damage(bundle.read(artifact.file))
        members = {name: bundle.read(name) for name in bundle.manifest.files} | {artifact.file: data}
        damaged = replace(artifact, sha256=sha256(data), size=len(data))
        with pytest.raises(ModelError, match="cannot load the model"):
            EdgeModel(build_bundle(replace(bundle.manifest, artifacts=(damaged,)), members))


def test_a_tensor_of_another_shape_or_type_is_refused(tmp_path):
    with EdgeModel(packed(tmp_path, yolo_onnx(), Detector("yolo"))) as model:
        for x in (np.zeros((1, 3, SIDE, SIDE - 1), np.float32), np.zeros((1, 3, SIDE, SIDE), np.int8)):
            for call in (model.run, model.predict_tensor):
                with pytest.raises(ModelError, match=r"(input image takes|a processed tensor is) float32"):
                    call(x)
    with pytest.raises(ModelClosedError):
        model.run(np.zeros((1, 3, SIDE, SIDE), np.float32))


# ---- the policy of a detector


def test_a_detector_defers_by_the_scores_of_its_boxes(tmp_path):
    bundle = packed(tmp_path, yolo_onnx(), Detector("yolo"), cascade=Policy(0.7, signal="detections").to_json())
    with EdgeModel(bundle) as model:
        sure = model.predict(painted(SIDE, SIDE, RED))
        unsure = model.predict(painted(SIDE, SIDE, RED, level=100))
        nothing = model.predict(painted(SIDE, SIDE))
    assert [(len(one), one.reason) for one in (sure, unsure, nothing)] == [
        (1, "confident"),
        (1, "forced"),
        (0, "forced"),
    ]
    assert not sure.certified


def test_a_classifier_cannot_carry_a_policy_on_boxes(made, tmp_path):
    with pytest.raises(CertificateError, match="a policy on detections cannot judge the answers of a task class"):
        made.pack(tmp_path / "m.edge", cascade=Policy(0.7, signal="detections").to_json())


# ---- over a long time


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detection", "embedding"])
def test_memory_stays_flat_over_100_000_predictions(tmp_path, task):
    """In a process of its own, whose resident set is read from ``/proc``."""
    if task == "detection":
        bundle = packed(tmp_path, yolo_onnx(), Detector("yolo"))
    else:
        bundle = packed(tmp_path, embedder_onnx(), None, task=task, labels=())
    program = f"""
import gc, numpy as np, edge_sdk
frame = np.zeros(({SIDE}, {SIDE}, 3), np.uint8)
frame[8:16, 8:16, 0] = 255
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4
with edge_sdk.load({str(bundle.path)!r}) as model:
    for _ in range(5_000):
        model.predict(frame)
    before = resident()
    for _ in range(100_000):
        model.predict(frame)
    print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=500, check=True)
    assert int(done.stdout) < 1024, "KiB"


def test_frames_as_cameras_deliver_them_are_answered_with_boxes_in_their_pixels(tmp_path):
    frame = painted(64, 128, (32, 32, 64, 48, 0))
    with EdgeModel(packed(tmp_path, yolo_onnx(), Detector("yolo"))) as model:
        expected = model.predict(frame)
        assert expected.labels == ("red",)
        bgr = frame[..., ::-1].copy()
        assert model.predict(bgr, pixels="bgr").boxes == expected.boxes
        assert asyncio.run(model.apredict(bgr, pixels="bgr")).boxes == expected.boxes
        assert [answer.boxes for answer in model.stream([bgr], pixels="bgr")] == [expected.boxes]

        # red in full range: Y 76, U 85, V 255
        luma = np.where(frame[..., 0] > 0, 76, 0).astype(np.uint8)
        chroma = np.where(frame[::2, ::2, :1] > 0, (85, 255), 128).astype(np.uint8)
        for video in ((luma, chroma), np.concatenate([luma, chroma.reshape(32, 128)])):
            assert model.predict(video, pixels="nv12", matrix="bt601-full").boxes[:1] == expected.boxes

        for wrong in (None, "photo.jpg", (luma,), luma.astype(np.float32)):
            with pytest.raises(InputError, match="frame"):
                model.predict(wrong, pixels="nv12")
        with pytest.raises(InputError, match="pixels: need rgb, bgr, nv12, yuyv, not list"):
            model.predict(frame, pixels=[])
