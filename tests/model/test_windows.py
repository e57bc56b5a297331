"""Rows of sensors, in windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edge_sdk
from edge_sdk.errors import InputError
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.sources import Windows
from outside.classifiers import linear_onnx


@given(
    cuts=st.lists(st.integers(0, 60), max_size=8),
    length=st.integers(1, 20),
    step=st.data(),
    dtype=st.sampled_from("fd"),
)
def test_windows_are_those_of_the_whole_however_the_rows_come(cuts, length, step, dtype):
    hop = step.draw(st.integers(1, length))
    whole = np.arange(180).reshape(60, 3).astype(dtype)
    want = [whole[start : start + length] for start in range(0, 60 - length + 1, hop)]
    for rows in (np.split(whole, sorted(cuts)), whole, [whole]):
        got = list(Windows(rows, length=length, hop=hop))
        assert [window.dtype for window in got] == [whole.dtype] * len(want)
        np.testing.assert_array_equal(got, np.array(want).reshape(-1, length, 3))


def test_a_window_is_an_array_of_its_own_and_a_list_is_a_row():
    buffer = np.zeros((4, 2), np.float32)

    def driver():  # that reuses its memory
        for number in range(4):
            buffer[:] = number
            yield buffer

    first, *rest = Windows(driver(), length=6, hop=5)
    first[:] = 9
    assert [window[:, 0].tolist() for window in rest] == [[1, 1, 1, 2, 2, 2], [2, 2, 3, 3, 3, 3]]
    assert [window.tolist() for window in Windows([[1, 2], [3, 4], [5, 6]], length=2, hop=1)] == [
        [[1, 2], [3, 4]],
        [[3, 4], [5, 6]],
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["fast"], "rows: need numbers, not str"),
        ([None], "rows: need numbers, not NoneType"),
        ([[[1, 2], [3]]], "rows: need numbers, not list"),
        ([[1, 2], [1, 2, 3]], "rows: need 2 columns as before, not 3"),
        ([1.0], r"rows: need \[columns\] or \[n, columns\], not \[\]"),
        ([np.zeros((1, 2, 3))], r"not \[1, 2, 3\]"),
        ([np.zeros((5, 0))], r"not \[5, 0\]"),
        ([np.zeros(2, complex)], "rows: need numbers, not ndarray"),
    ],
)
def test_what_is_no_row_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        list(Windows(rows, length=1, hop=1))


@pytest.mark.parametrize(("length", "hop"), [(0, 0), (4, 0), (4, 5), (-1, -1)])
def test_windows_that_are_none_are_refused(length, hop):
    with pytest.raises(InputError, match="the hop at most the length"):
        Windows([], length=length, hop=hop)


class Driver:
    """A sensor that does not wait."""

    live = True

    def __iter__(self):
        return iter(np.ones((40, 2), np.float32))


def test_a_model_answers_windows_of_a_sensor(tmp_path):
    spec = ProcessingSpec.sensor(["x", "y"], 8)
    model = linear_onnx(spec.output_shape, 3)
    about = {
        "runtime": "onnx",
        "name": "gait",
        "version": "1.0.0",
        "labels": ("walk", "run", "rest"),
        "output": "logits",
    }
    pack(model, processing=spec, path=tmp_path / "m.edge", **about)
    with edge_sdk.load(tmp_path / "m.edge") as loaded:
        answers = list(loaded.stream(Windows(np.ones((40, 2), np.float32), length=8, hop=4)))
        assert len(answers) == 9
        live = Windows(Driver(), length=8, hop=4)
        assert live.live
        assert 1 <= len(list(loaded.stream(live))) <= 9
