"""Processing in two halves: what is made small on the device, and what the server does with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.processing import (
    Color,
    Crop,
    DeviceProcessor,
    Layout,
    Letterbox,
    Normalize,
    ProcessingSpec,
    Quantize,
    Resize,
)
from edge_sdk.processing.resizing import first_half, rounds, second_half

LEVELS = Normalize((0.0,) * 3, (1.0,) * 3)


@st.composite
def cases(draw):
    """Return a specification whose tensor is in grey levels, and a frame for it."""
    mode = draw(st.sampled_from(["rgb", "grey", None]))
    channels = {"rgb": 3, "grey": 1, None: draw(st.sampled_from([1, 3]))}[mode]
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    target = draw(
        st.sampled_from(
            [
                Resize(height, width),
                Resize(height, width, "nearest"),
                Resize(height, width, "bilinear", True),
                Letterbox(height, width, draw(st.sampled_from([114.0, 127.5]))),
            ]
        )
    )
    spec = ProcessingSpec(
        (
            *([] if mode is None else [Color(mode)]),
            *draw(st.sampled_from([[], [Crop(1.0)], [Crop(0.5)]])),
            target,
            Normalize((0.0,) * channels, (1.0,) * channels),
            *draw(st.sampled_from([[], [Layout("NCHW")]])),
        )
    )
    shape = draw(st.sampled_from([(height, width), (2 * height, 2 * width), (31, 17), (1, 1)]))
    seen = draw(st.sampled_from([n for n in (1, 3, 4) if spec.accepts(n)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return spec, rng.integers(0, 256, (*shape, seen), dtype=np.uint8)


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_two_halves_are_the_whole_but_for_half_a_level_where_levels_are_rounded(case):
    spec, frame = case
    whole = DeviceProcessor(spec)(frame)
    small = DeviceProcessor(first_half(spec))(frame)
    assert small.dtype == np.uint8
    assert small.shape == (1, spec.target.height, spec.target.width, spec.channels)
    both = DeviceProcessor(second_half(spec))(small[0])
    if rounds(spec, frame.shape):
        assert np.abs(both - whole).max() <= 0.5 + 1e-4
    else:
        np.testing.assert_array_equal(both, whole)


def test_what_is_left_is_quantized_as_the_whole_is():
    spec = ProcessingSpec((Color("rgb"), Crop(0.9), Resize(8, 8, "nearest"), LEVELS, Quantize("int8", 2.0, -7)))
    frame = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    small = DeviceProcessor(first_half(spec))(frame)[0]
    np.testing.assert_array_equal(DeviceProcessor(second_half(spec))(small), DeviceProcessor(spec)(frame))


@pytest.mark.parametrize(
    ("steps", "shape", "expected"),
    [
        ((Color("rgb"), Resize(8, 8)), (8, 8, 3), False),
        ((Color("rgb"), Resize(8, 8)), (9, 8, 3), True),
        ((Color("rgb"), Resize(8, 8, "nearest")), (90, 80, 3), False),
        ((Color("rgb"), Crop(), Resize(8, 8)), (8, 11, 3), False),
        ((Color("rgb"), Letterbox(8, 8, 114.0)), (8, 4, 3), False),
        ((Color("rgb"), Letterbox(8, 8, 0.5)), (8, 4, 3), True),
        ((Color("grey"), Resize(8, 8)), (8, 8, 3), True),
        ((Color("grey"), Resize(8, 8)), (8, 8), False),
    ],
)
def test_it_is_known_where_levels_are_rounded(steps, shape, expected):
    assert rounds(ProcessingSpec(steps), shape) is expected
