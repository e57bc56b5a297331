"""What apps have becomes what processing takes, and samples are what processing takes."""

from __future__ import annotations

import numpy as np
import pytest

from edge_sdk.errors import InputError
from edge_sdk.inputs import as_input
from edge_sdk.processing import DeviceProcessor, ProcessingSpec, samples

IMAGE = ProcessingSpec.image(8, 6, 3)


@pytest.mark.parametrize("spec", [IMAGE, ProcessingSpec.image(8, 6, 1, order="NCHW")], ids=lambda spec: spec.modality)
def test_samples_are_seeded_unlike_each_other_and_processed_as_they_are(spec):
    first, again, other = samples(spec, 3), samples(spec, 3), samples(spec, 3, seed=1)
    assert len(first) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    for one in first:
        assert as_input(spec, one) is one
        assert DeviceProcessor(spec)(one).shape == spec.output_shape


def test_a_picture_is_read_as_a_frame():
    assert IMAGE.modality == "image"
    with pytest.raises(InputError, match="a frame should be a uint8 array"):
        as_input(IMAGE, {"width": 3})
