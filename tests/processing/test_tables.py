"""Rows and windows of rows become what models take, by all three executors alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk.errors import InputError, ProcessingError, SkewError
from edge_sdk.inputs import as_input
from edge_sdk.processing import (
    Cast,
    Categories,
    Clip,
    Columns,
    DeviceProcessor,
    Impute,
    ProcessingSpec,
    Quantize,
    Standardize,
    Window,
    check_skew,
    reference,
    samples,
)

# TensorFlow's tensors do not know NumPy 2's copy keyword yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

ROW = ProcessingSpec(
    (
        Columns(("age", "sex", "floor", "weight")),
        Categories("sex", ("f", "m"), "one_hot"),
        Categories("floor", (3.0, 1.0)),
        Impute((40.0, 70.0)),
        Clip((0.0, 30.0), (100.0, 150.0)),
        Standardize((50.0, 75.0), (10.0, 5.0)),
    )
)
SENSOR = ProcessingSpec.sensor(["x", "y"], 3, mean=(1, 2), std=(2, 4))


def test_every_step_computes_what_its_page_says():
    row = as_input(ROW, {"age": 60, "sex": "m", "floor": 1, "weight": 200.0})
    assert row.dtype == np.float64
    tensor = DeviceProcessor(ROW)(row)
    assert tensor.dtype == np.float32
    assert tensor.tolist() == [[1.0, 0.0, 0.0, 1.0, 2.0, 15.0]]
    unknown = as_input(ROW, {"age": None, "sex": "?", "floor": 2, "weight": float("nan")})
    assert DeviceProcessor(ROW)(unknown).tolist() == [[-1.0, 1.0, 0.0, 0.0, 0.0, -1.0]]
    window = np.array([[1, 2], [3, 6], [-1, 2]], np.float32)
    assert DeviceProcessor(SENSOR)(window).tolist() == [[[0, 0], [1, 1], [-1, 0]]]
    assert DeviceProcessor(SENSOR.with_quantize("int8", 0.5, 10))(window).tolist() == [[[10, 10], [12, 12], [8, 10]]]


def test_shape_type_and_json_follow_from_the_steps():
    assert (ROW.modality, ROW.output_shape, ROW.output_dtype) == ("table", (1, 6), np.float32)
    assert (SENSOR.modality, SENSOR.output_shape) == ("table", (1, 3, 2))
    for spec in (ROW, SENSOR, ROW.with_quantize("uint8", 0.1, 3)):
        assert ProcessingSpec.from_json(spec.to_json()) == spec
        assert ProcessingSpec.from_json(spec.to_json()).digest == spec.digest
    assert ROW.digest != SENSOR.digest
    table = ProcessingSpec.table(["a", "b"], categories={"b": ["x"]}, impute=0, clip=(-1, 1), mean=3, std=2)
    assert [step.op for step in table.steps] == ["columns", "categories", "impute", "clip", "standardize"]
    assert ProcessingSpec.table(["a"]).steps == (Columns(("a",)),)


def test_what_is_asked_of_a_picture_is_refused_in_one_line():
    for ask in (ROW.fold, lambda: ROW.place(3, 4), lambda: ROW.channels):
        with pytest.raises(ProcessingError, match="it is of table inputs"):
            ask()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Categories("a", (1.0,))], "a columns step is required, it names what the model takes"),
        ([Columns(())], r"step 0 \(columns\): need 1 to 4096 names, not 0"),
        ([Columns(("a", "b", "a"))], "column 'a' is there twice"),
        ([Columns(("a", ""))], "none of them empty"),
        ([Columns("ab")], "names must be a list of texts"),
        ([Columns(("a",)), Categories("b", (1.0,))], r"step 1 \(categories\): there is no column 'b'"),
        ([Columns(("a",)), Categories("a", (1.0,)), Categories("a", (2.0,))], r"step 2 .*'a' is looked up twice"),
        ([Columns(("a",)), Categories("a", ())], "values must be a list of 1 to 4096"),
        ([Columns(("a",)), Categories("a", ("x", 1.0))], "all texts or all numbers"),
        ([Columns(("a",)), Categories("a", (1.0, 1.0 + 1e-12))], "holds one twice"),
        ([Columns(("a",)), Categories("a", ("x", "x"))], "holds one twice"),
        ([Columns(("a",)), Categories("a", ("x",), "hash")], "encoding must be index or one_hot, not 'hash'"),
        ([Columns(("a", "b", "c")), Impute((1.0, 2.0))], r"step 1 \(impute\): has 2 values for 3 columns that are not"),
        ([Columns(("a",)), Impute(())], "one number for all columns"),
        ([Columns(("a",)), Clip((1.0,), (0.0,))], "low must not be above high"),
        ([Columns(("a",)), Clip((1.0,), (2.0, 3.0))], "as many values of low as of high"),
        ([Columns(("a",)), Clip((-1e31,), (2.0,))], "leaves the range of float32"),
        ([Columns(("a",)), Standardize((0.0,), (0.0,))], "std must be above 0"),
        ([Columns(("a",)), Standardize((1e20,), (1e-20,))], "its constants leave the range of float32"),
        ([Columns(("a",)), Window(0)], "length must be an integer from 1"),
        ([Columns(("a",) * 1), Window(1_000_000), Quantize("int8", 0.0, 0)], "scale must be above 0"),
        ([Columns(tuple(map(str, range(100)))), Window(1_000_000)], "is over the limit of"),
        ([Columns(("a",)), Window(3), Clip((0.0,), (1.0,))], r"step 2 \(clip\): must come before window: the order is"),
        ([Columns(("a",)), Clip((0.0,), (1.0,)), Clip((0.0,), (1.0,))], "this step is there twice"),
    ],
    ids=lambda value: None,
)
def test_a_bad_specification_is_refused_with_one_line(steps, message):
    with pytest.raises(ProcessingError, match=message) as caught:
        ProcessingSpec(tuple(steps))
    assert "\n" not in str(caught.value)


def test_steps_of_one_modality_are_no_steps_of_another():
    picture = ProcessingSpec.image(4, 4, 3).steps
    with pytest.raises(ProcessingError, match=r"step 4 \(columns\): must|step 0 \(color\): is no step of table inputs"):
        ProcessingSpec((*picture, Columns(("a",))))
    with pytest.raises(ProcessingError, match=r"step 4 \(standardize\): is no step of image inputs"):
        ProcessingSpec((*picture, Standardize((0.0,), (1.0,))))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array([1, 0, 1, np.inf]), "table: column 'weight' is infinite"),
        (np.array([1, -np.inf, 1, 1]), "table: column 'sex' is infinite"),
        (np.zeros(3), r"need a row, float32 or float64 of shape \(4,\), not float64 of shape \(3,\)"),
        (np.zeros((1, 4)), "need a row"),
        (np.zeros(4, np.int64), "not int64 of shape"),
        ([1.0, 2.0, 3.0, 4.0], "not list"),
    ],
)
def test_a_bad_row_is_refused_by_device_and_reference(value, message):
    for run in (DeviceProcessor(ROW), lambda x: reference(ROW, x)):
        with pytest.raises(InputError, match=message):
            run(value)


def test_a_gap_that_nothing_fills_is_refused_and_its_column_and_row_are_named():
    window = np.ones((3, 2))
    window[1, 1] = np.nan
    with pytest.raises(InputError, match=r"column 'y' is missing \(NaN\), and there is no impute step in row 1"):
        DeviceProcessor(SENSOR)(window)
    filled = ProcessingSpec.sensor(["x", "y"], 3, impute=2, mean=(1, 2), std=(2, 4))
    assert DeviceProcessor(filled)(window).tolist() == [[[0, -0.25], [0, 0], [0, -0.25]]]


def test_what_float32_cannot_hold_is_refused():
    spec = ProcessingSpec.table(["a"], mean=0, std=1e-9)
    with pytest.raises(InputError, match="too large for float32 after processing"):
        DeviceProcessor(spec)(np.array([1e38]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"age": 1, "sex": "m", "floor": 3}, "table: column 'weight' is not given"),
        ({"age": 1, "sex": "m", "floor": 3, "weight": 1, "size": 2}, "there is no column 'size'"),
        ({"age": "old", "sex": "m", "floor": 3, "weight": 1}, "column 'age' needs a number, not 'old'"),
        ({"age": 1, "sex": 1, "floor": 3, "weight": 1}, "column 'sex' needs a text, not 1"),
        ({"age": [1, 2], "sex": "m", "floor": 3, "weight": 1}, "column 'age' needs a number, not list"),
        ("row.csv", "a table should be an array of numbers, a list of them, or a mapping of column names, not str"),
        ([1, "m", 3, 4], "a list of them"),
        ([[1, 2], [3]], "a list of them"),
        (np.array(["a"]), "table: need numbers, not <U1"),
    ],
)
def test_what_is_no_row_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        DeviceProcessor(ROW)(as_input(ROW, value))


def test_lists_and_mappings_of_lists_are_windows():
    expected = DeviceProcessor(SENSOR)(np.array([[1.0, 2], [3, 6], [-1, 2]]))
    for value in ([[1, 2], [3, 6], [-1, 2]], {"x": [1, 3, -1], "y": [2, 6, 2]}, np.array([[1, 2], [3, 6], [-1, 2]])):
        assert np.array_equal(DeviceProcessor(SENSOR)(as_input(SENSOR, value)), expected)
    with pytest.raises(InputError, match="column 'y' needs 3 values, not 2"):
        as_input(SENSOR, {"x": [1, 3, -1], "y": [2, 6]})


def test_a_batch_and_a_buffer_are_filled_alike():
    processor, rows = DeviceProcessor(ROW), samples(ROW, 5)
    batch = processor.batch(rows)
    buffer = np.empty((1, 6), np.float32)
    for row, tensor in zip(rows, batch, strict=True):
        assert processor(row, out=buffer) is buffer
        assert np.array_equal(buffer[0], tensor)


NAMES = ("a", "b", "c", "d", "e")
NUMBERS = st.floats(-1e6, 1e6, width=32)


@st.composite
def specs(draw):
    """Any valid specification of tables."""
    names = NAMES[: draw(st.integers(1, 5))]
    steps = [Columns(names)]
    looked_up = [name for name in names if draw(st.booleans()) and draw(st.booleans())]
    for name in looked_up:
        values = draw(st.sampled_from([("x", "y", "z"), ("x",), (1.0, 2.0, 7.5), (0.1, -3.0)]))
        steps.append(Categories(name, values, draw(st.sampled_from(["index", "one_hot"]))))
    count = draw(st.sampled_from([1, max(1, len(names) - len(looked_up))]))

    def each(values):
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    if draw(st.booleans()):
        steps.append(Impute(each(NUMBERS)))
    if draw(st.booleans()):
        low = each(NUMBERS)
        steps.append(Clip(low, tuple(value + draw(st.floats(0, 1e6)) for value in low)))
    if draw(st.booleans()):
        steps.append(Standardize(each(NUMBERS), each(st.floats(1e-3, 1e6))))
    if draw(st.booleans()):
        steps.append(Window(draw(st.integers(1, 9))))
    if draw(st.booleans()):
        dtype, low = draw(st.sampled_from([("int8", -128), ("uint8", 0)]))
        steps.append(Quantize(dtype, draw(st.floats(1e-3, 100)), low + draw(st.integers(0, 255))))
    elif draw(st.booleans()):
        steps.append(Cast("float16"))
    return ProcessingSpec(tuple(steps))


@st.composite
def tables(draw, spec):
    """A row or window that fits: values of any size, known and unknown ones, gaps where they are filled."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    table = samples(spec, 1, draw(st.integers(0, 2**32)))[0].astype(draw(st.sampled_from([np.float32, np.float64])))
    if draw(st.booleans()):
        other = rng.normal(size=table.shape) * 10.0 ** rng.integers(-6, 7, table.shape)
        table = np.where(rng.random(table.shape) < 0.5, other.astype(table.dtype), table)
    return table if draw(st.booleans()) else table[..., ::-1].copy()[..., ::-1]


@settings(derandomize=True, deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_device_and_reference_agree_on_any_specification_and_table(data):
    spec = data.draw(specs())
    check_skew(spec, [data.draw(tables(spec))])
    assert ProcessingSpec.from_json(spec.to_json()) == spec


@settings(derandomize=True, deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_keras_agrees_on_any_specification_and_table(data):
    layers = pytest.importorskip("edge_sdk.processing.keras")
    spec = data.draw(specs())
    report = check_skew(spec, [data.draw(tables(spec))], keras=layers.ProcessingLayer)
    assert report.keras_error is not None


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda step: Standardize((50.0, 75.0), (10.0, 5.01)), r"step 5 \(standardize\)"),
        (lambda step: Categories("floor", (1.0, 3.0)), r"step 2 \(categories\)"),
        (lambda step: Clip((0.0, 31.0), (100.0, 149.0)), r"step 4 \(clip\)"),
        (lambda step: Impute((40.0, 71.0)), r"step 3 \(impute\)"),
    ],
    ids=["standardize", "categories", "clip", "impute"],
)
def test_a_departure_names_the_step_and_the_worst_element(change, step):
    def device(spec):
        wrong = type(change(None))
        same = [isinstance(one, wrong) and getattr(one, "column", "floor") == "floor" for one in spec.steps]
        return DeviceProcessor(
            ProcessingSpec(tuple(change(one) if bad else one for one, bad in zip(spec.steps, same, strict=True)))
        )

    rows = [np.array([1.0, 0, 3, 30.5]), np.array([1.0, 0, 3, 200]), np.array([np.nan, 1, 1, np.nan])]
    with pytest.raises(SkewError, match=rf"at {step}, table \d: worst element \[0, \d\] is"):
        check_skew(ROW, rows, device=device)
