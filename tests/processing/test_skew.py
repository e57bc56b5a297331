"""The skew check finds a departure, names the step and the worst element, and stays quiet otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sdk.errors import InputError, SkewError
from edge_sdk.processing import (
    Color,
    DeviceProcessor,
    Normalize,
    ProcessingSpec,
    Quantize,
    Resize,
    check_skew,
    reference,
)

FRAMES = [np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8) for i in range(3)]
FLOAT = ProcessingSpec.image(8, 8, 3, mean=100, std=50, order="NCHW")
INT8 = FLOAT.with_quantize("int8", 0.0317, -5)


def faulty(wrong):
    """Return an executor that does one step differently."""

    def build(spec):
        return DeviceProcessor(ProcessingSpec(tuple(wrong(step) for step in spec.steps)))

    return build


def test_agreeing_executors_give_a_report():
    report = check_skew(FLOAT, FRAMES)
    assert (report.frames, report.keras_error, report.rounded_otherwise) == (3, None, 0.0)
    assert 0 < report.device_error < 3 / 256
    assert check_skew(INT8, FRAMES).rounded_otherwise < 0.01


class BgrProcessor(DeviceProcessor):
    """Takes the channels in the wrong order, the commonest skew there is."""

    def __call__(self, frame, out=None):
        return super().__call__(frame[:, :, ::-1], out)


class RoundingProcessor(DeviceProcessor):
    """Rounds to whole grey levels after resizing, as OpenCV does."""

    def __call__(self, frame, out=None):
        resize = self.spec.find(Resize)
        plain = DeviceProcessor(ProcessingSpec((Color("rgb"), resize)))
        return super().__call__(np.rint(plain(frame)[0]).astype(np.uint8), out)


@pytest.mark.parametrize("spec", [FLOAT, INT8], ids=["float32", "int8"])
@pytest.mark.parametrize(
    ("device", "step"),
    [
        (BgrProcessor, r"step 0 \(color\)"),
        (RoundingProcessor, r"step 1 \(resize\)"),
    ],
)
def test_a_departure_is_refused_and_its_step_and_worst_element_are_named(spec, device, step):
    message = step + r", frame 0: worst element \[0, \d, \d, \d\] is \S+, reference \S+ \(off by \S+, allowed \S+\)$"
    with pytest.raises(SkewError, match="^device executor departs from the reference at " + message):
        check_skew(spec, FRAMES, device=device)


def test_a_wrong_normalize_step_is_named():
    def wrong_mean(step):
        return Normalize((101.0,) * 3, step.std) if isinstance(step, Normalize) else step

    with pytest.raises(SkewError, match=r"at step 2 \(normalize\)"):
        check_skew(FLOAT, FRAMES, device=faulty(wrong_mean))


def test_another_zero_point_is_named():
    def off_by_one(step):
        return Quantize("int8", step.scale, step.zero_point + 1) if isinstance(step, Quantize) else step

    with pytest.raises(SkewError, match=r"at step 4 \(quantize\)"):
        check_skew(INT8, FRAMES, device=faulty(off_by_one))


def test_the_frame_that_departs_is_named():
    def only_small_frames(spec):
        return lambda frame: (DeviceProcessor if len(frame) < 22 else BgrProcessor)(spec)(frame)

    with pytest.raises(SkewError, match="frame 2"):
        check_skew(FLOAT, FRAMES, device=only_small_frames)


def test_another_shape_or_type_is_refused():
    def smaller(step):
        return Resize(8, 7) if isinstance(step, Resize) else step

    with pytest.raises(
        SkewError, match=r"it returned float32 of shape \(1, 3, 8, 7\), not float32 of shape \(1, 3, 8, 8"
    ):
        check_skew(FLOAT, FRAMES, device=faulty(smaller))
    with pytest.raises(SkewError, match="it returned float64"):
        check_skew(FLOAT, FRAMES, device=lambda spec: lambda frame: reference(spec, frame))


def test_nan_is_a_departure():
    with pytest.raises(SkewError, match="is nan"):
        check_skew(FLOAT, FRAMES, device=lambda spec: lambda frame: DeviceProcessor(spec)(frame) * np.float32(np.nan))


def test_an_integer_may_differ_only_next_to_a_rounding_boundary():
    spec = ProcessingSpec.image(1, 2, 1, mean=0, std=1).with_quantize("int8", 4.0, 0)
    frame = np.array([[10, 11]], np.uint8)  # 2.5 and 2.75 steps
    assert check_skew(spec, [frame]).rounded_otherwise == 0
    other = np.array([3, 3], np.int8).reshape(1, 1, 2, 1)
    assert check_skew(spec, [frame], device=lambda spec: lambda frame: other).rounded_otherwise == 0.5
    other = np.array([2, 2], np.int8).reshape(1, 1, 2, 1)
    with pytest.raises(SkewError, match=r"worst element \[0, 0, 1, 0\] is 2, reference 2.75"):
        check_skew(spec, [frame], device=lambda spec: lambda frame: other)


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="frames: need at least one"):
        check_skew(FLOAT, [])
    with pytest.raises(InputError, match="frame: need uint8"):
        check_skew(FLOAT, [np.zeros((4, 4, 3))])
