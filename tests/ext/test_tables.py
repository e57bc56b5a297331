"""The kernel of tables computes what its twin does, and refuses what it cannot read."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError
from edge_sdk.ext import tables
from edge_sdk.ext.pure import tables as twin

CODES = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=5, unique=True)
NUMBER = st.tuples(
    st.sampled_from([math.nan, 0.0, 3.5]),
    st.sampled_from([-math.inf, -2.0]),
    st.sampled_from([math.inf, 2.0]),
    st.floats(-100, 100),
    st.floats(1e-3, 1e3),
)
COLUMNS = st.lists(NUMBER | st.tuples(CODES, st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=6)
VALUES = st.floats() | st.sampled_from([0.0, -0.0, math.nan, 1e300, 5e-324]) | st.floats(-5, 5, width=32)


@settings(derandomize=True, deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_the_kernel_and_its_twin_agree_on_any_table(data):
    columns, rows = data.draw(COLUMNS), data.draw(st.integers(1, 4))
    dtype, low = data.draw(st.sampled_from([(np.float32, 0), (np.int8, -128), (np.uint8, 0)]))
    zero_point = 0 if dtype is np.float32 else low + data.draw(st.integers(0, 255))
    values = data.draw(st.lists(VALUES, min_size=rows * len(columns), max_size=rows * len(columns)))
    with np.errstate(over="ignore"):
        x = np.array(values).astype(data.draw(st.sampled_from([np.float32, np.float64]))).reshape(rows, -1)
    ours, theirs = (one.TablePlan(rows, columns, zero_point) for one in (tables, twin))
    assert ours.features == theirs.features
    outs = [np.zeros((rows, ours.features), dtype) for _ in range(2)]
    result = ours(x, outs[0])
    assert result == theirs(x, outs[1])
    if result == -1:
        np.testing.assert_array_equal(outs[0], outs[1])


NUMBERS = [(math.nan, -math.inf, math.inf, 0.0, 1.0)] * 3


@pytest.mark.parametrize("room", [tables, twin], ids=["kernel", "twin"])
def test_what_does_not_fit_is_refused(room):
    plan, x, out = room.TablePlan(2, NUMBERS), np.zeros((2, 3)), np.zeros((2, 3), np.float32)
    assert plan(x, out) == -1
    for bad, into, message in (
        (np.zeros((3, 3)), out, "x: need 2 x 3 numbers"),
        (None, out, "x: need 2 x 3 numbers"),
        (x.astype(np.int64), out, "x: need float32 or float64, not int64"),
        (np.asfortranarray(np.ones((2, 3))), out, "need C-contiguous arrays"),
        (x, np.zeros((2, 2), np.float32), "out: need 2 x 3 elements"),
        (x, np.zeros((2, 3)), "out: need float32, int8 or uint8, not float64"),
    ):
        with pytest.raises(InputError, match=message):
            plan(bad, into)
    out.flags.writeable = False
    with pytest.raises(InputError, match="a writeable one"):
        plan(x, out)
    for rows, columns, zero_point in ((0, NUMBERS, 0), (1 << 62, NUMBERS, 0), (1, [], 0), (1, NUMBERS, 256)):
        with pytest.raises(InputError, match="need"):
            room.TablePlan(rows, columns, zero_point)
