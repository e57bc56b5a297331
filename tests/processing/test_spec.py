"""The processing specification: JSON, validation, digest."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from edge_sdk import canonical
from edge_sdk.errors import ProcessingError
from edge_sdk.processing import Color, Normalize, ProcessingSpec, Quantize, Resize

COLOR = {"op": "color", "mode": "rgb"}
RESIZE = {"op": "resize", "height": 8, "width": 6, "method": "bilinear", "antialias": False}
LETTERBOX = {"op": "letterbox", "height": 8, "width": 6, "fill": 114.0}
NORMALIZE = {"op": "normalize", "mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
LAYOUT = {"op": "layout", "order": "NCHW"}
QUANTIZE = {"op": "quantize", "dtype": "int8", "scale": 0.5, "zero_point": -3}
FULL = [COLOR, RESIZE, NORMALIZE, LAYOUT, QUANTIZE]


def parse(*steps):
    return ProcessingSpec.from_json({"steps": list(steps)})


def test_json_goes_in_and_comes_out_the_same():
    assert parse(*FULL).to_json() == {"steps": FULL}
    assert ProcessingSpec.from_json(json.loads(json.dumps(parse(*FULL).to_json()))) == parse(*FULL)


def test_the_digest_is_that_of_the_canonical_json_and_does_not_depend_on_how_numbers_were_written():
    spec = parse(*FULL)
    assert spec.digest == canonical.digest_of({"steps": FULL})
    same = parse(COLOR, {"op": "resize", "height": 8, "width": 6}, NORMALIZE | {"mean": [1, 2, 3]}, LAYOUT, QUANTIZE)
    assert same == spec
    assert same.digest == spec.digest
    zero, minus_zero = (parse(RESIZE, {"op": "normalize", "mean": [m], "std": [1]}) for m in (0, -0.0))
    assert zero.digest == minus_zero.digest


@pytest.mark.parametrize(
    "change",
    [
        {"height": 9},
        {"width": 9},
        {"method": "nearest"},
        {"antialias": True},
    ],
    ids=str,
)
def test_the_digest_changes_with_what_is_done(change):
    assert parse(COLOR, RESIZE | change).digest != parse(COLOR, RESIZE).digest


def test_shape_type_and_channels_follow_from_the_steps():
    spec = parse(*FULL)
    assert (spec.output_shape, spec.output_dtype, spec.order) == ((1, 3, 8, 6), np.int8, "NCHW")
    spec = parse({"op": "color", "mode": "grey"}, RESIZE)
    assert (spec.output_shape, spec.output_dtype, spec.order) == ((1, 8, 6, 1), np.float32, "NHWC")
    assert parse(RESIZE, NORMALIZE).channels == 3


def test_the_quantize_step_can_be_added_replaced_and_left_out():
    plain = parse(*FULL[:4])
    assert plain.with_quantize("int8", 0.5, -3) == parse(*FULL)
    assert parse(*FULL).with_quantize("uint8", 1, 4).steps[-1] == Quantize("uint8", 1.0, 4)
    assert parse(*FULL).without_quantize() == plain == plain.without_quantize()


def test_the_usual_image_specification_has_a_short_form():
    spec = ProcessingSpec.image(8, 6, 3, mean=127.5, std=(1, 2, 3), order="NCHW")
    assert spec.steps[:3] == (Color("rgb"), Resize(8, 6), Normalize((127.5,) * 3, (1.0, 2.0, 3.0)))
    assert ProcessingSpec.image(8, 6, 1).steps[0] == Color("grey")
    with pytest.raises(ProcessingError, match="channels must be 1 or 3, not 2"):
        ProcessingSpec.image(8, 6, 2)
    with pytest.raises(ProcessingError, match="need 1 or 3 values"):
        ProcessingSpec.image(8, 6, 3, mean=(1, 2))


def test_a_specification_is_a_value():
    spec = parse(*FULL)
    assert hash(spec) == hash(parse(*FULL))
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    with pytest.raises(AttributeError):
        spec.steps = ()


NOT_NUMBERS = [True, None, "1", [1], float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "a resize or letterbox step is required, it fixes the shape of the model's input"),
        ([COLOR, NORMALIZE], "a resize or letterbox step is required"),
        ([RESIZE], "a color step is required where no normalize step fixes the channels"),
        (
            [RESIZE, COLOR],
            r"step 1 \(color\): must come before resize: the order is color, crop, resize or letterbox, normalize",
        ),
        ([COLOR, NORMALIZE, RESIZE], r"step 2 \(resize\): must come before normalize"),
        ([COLOR, RESIZE, QUANTIZE, LAYOUT], r"step 3 \(layout\): must come before quantize"),
        ([COLOR, RESIZE, RESIZE], r"step 2 \(resize\): this step is there twice"),
        ([*FULL, QUANTIZE], r"step 5 \(quantize\): this step is there twice"),
        ([*FULL, QUANTIZE, QUANTIZE], "7 steps are too many"),
        ([COLOR, RESIZE, LETTERBOX], r"step 2 \(letterbox\): stands in place of resize"),
        ([COLOR, RESIZE, QUANTIZE, {"op": "cast", "dtype": "float16"}], "stands in place of quantize"),
        ([COLOR, RESIZE, {"op": "crop"}], r"step 2 \(crop\): must come before resize"),
        ([COLOR, {"op": "crop", "fraction": 0}, RESIZE], "fraction must be above 0 and at most 1, not 0"),
        ([COLOR, {"op": "crop", "fraction": 1.5}, RESIZE], "fraction must be above 0 and at most 1, not 1.5"),
        ([COLOR, LETTERBOX | {"fill": 256}], "fill must be a grey level from 0 to 255, not 256"),
        ([COLOR, LETTERBOX | {"width": 0}], r"step 1 \(letterbox\): width must be an integer"),
        ([COLOR, LETTERBOX | {"method": "nearest"}], "unknown key 'method'"),
        ([COLOR, RESIZE, {"op": "cast", "dtype": "float64"}], r"step 2 \(cast\): dtype must be float16, not 'float64'"),
        ([{"op": "blur"}], "step 0: unknown step 'blur'; there are color, crop, resize or letterbox"),
        ([{"op": "x\n" * 999}], r"step 0: unknown step 'x\\nx.*\.\.\.; there are"),
        ([{"op": 3}], 'step 0: need a JSON object with a text "op"'),
        (["color"], "step 0: need a JSON object"),
        ([{"mode": "rgb"}], "step 0: need a JSON object"),
        ([COLOR | {"gamma": 2}, RESIZE], r"step 0 \(color\): unknown key 'gamma'"),
        ([{"op": "color"}, RESIZE], r"step 0 \(color\): key 'mode' is missing"),
        ([COLOR, {"op": "resize", "height": 3}], r"step 1 \(resize\): key 'width' is missing"),
        ([COLOR | {"mode": "bgr"}, RESIZE], r"step 0 \(color\): mode must be rgb or grey, not 'bgr'"),
        ([COLOR | {"mode": ["rgb"]}, RESIZE], "mode must be rgb or grey, not list"),
        ([COLOR, RESIZE | {"height": 0}], r"step 1 \(resize\): height must be an integer from 1 to 8192, not 0"),
        ([COLOR, RESIZE | {"width": 8193}], "width must be an integer"),
        ([COLOR, RESIZE | {"width": 8.0}], "width must be an integer"),
        ([COLOR, RESIZE | {"width": True}], "width must be an integer"),
        ([COLOR, RESIZE | {"width": 10**5000}], "width must be an integer .* not a huge integer"),
        ([COLOR, RESIZE | {"method": "cubic"}], "method must be bilinear or nearest, not 'cubic'"),
        ([COLOR, RESIZE | {"antialias": True, "method": "nearest"}], "antialias needs the bilinear method"),
        ([COLOR, RESIZE | {"antialias": 0}], "antialias must be true or false, not 0"),
        (
            [COLOR, RESIZE, NORMALIZE | {"mean": [1], "std": [1]}],
            r"step 2 \(normalize\): mean and std have 1 values for 3 rgb",
        ),
        ([RESIZE, NORMALIZE | {"mean": [1, 2]}], "need 1 or 3 values of mean and of std, not 2 and 3"),
        ([RESIZE, NORMALIZE | {"mean": [], "std": []}], "need 1 or 3 values"),
        ([RESIZE, NORMALIZE | {"mean": 0}], "mean must be a list of numbers, not 0"),
        ([RESIZE, NORMALIZE | {"std": [1, 0, 1]}], "std must be above 0"),
        ([RESIZE, NORMALIZE | {"std": [1, -1, 1]}], "std must be above 0"),
        (
            [RESIZE, NORMALIZE | {"std": [1, 1e-300, 1]}],
            r"step 1 \(normalize\): its constants leave the range of float32",
        ),
        ([RESIZE, NORMALIZE | {"std": [1, 1e300, 1]}], "its constants leave the range of float32"),
        ([RESIZE, NORMALIZE | {"mean": [1, 1e300, 1]}], "its constants leave the range of float32"),
        ([COLOR, RESIZE, LAYOUT | {"order": "HWC"}], r"step 2 \(layout\): order must be NHWC or NCHW, not 'HWC'"),
        (
            [COLOR, RESIZE, QUANTIZE | {"dtype": "int16"}],
            r"step 2 \(quantize\): dtype must be int8 or uint8, not 'int16'",
        ),
        ([COLOR, RESIZE, QUANTIZE | {"scale": 0}], "scale must be above 0"),
        (
            [COLOR, RESIZE, QUANTIZE | {"scale": 1e-60}],
            r"step 2 \(quantize\): its constants leave the range of float32",
        ),
        ([COLOR, RESIZE, QUANTIZE | {"zero_point": 128}], "zero_point must be an integer from -128 to 127, not 128"),
        ([COLOR, RESIZE, QUANTIZE | {"dtype": "uint8"}], "zero_point must be an integer from 0 to 255, not -3"),
        *[([COLOR, RESIZE, QUANTIZE | {"scale": bad}], "scale must be a finite number") for bad in NOT_NUMBERS],
        *[([RESIZE, NORMALIZE | {"mean": [0, bad, 0]}], "mean must be a finite number") for bad in NOT_NUMBERS],
    ],
    ids=lambda value: None,
)
def test_a_bad_specification_is_refused_with_one_line_that_names_the_step(steps, message):
    with pytest.raises(ProcessingError, match=message) as caught:
        parse(*steps)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [None, [], "steps", {}, {"steps": FULL, "more": 1}, {"steps": "color"}, {"steps": 3}])
def test_json_of_another_shape_is_refused_with_one_line(value):
    with pytest.raises(ProcessingError, match=r"^processing: .*$"):
        ProcessingSpec.from_json(value)


def test_what_is_not_a_step_is_refused():
    with pytest.raises(ProcessingError, match="step 0: str is not a step"):
        ProcessingSpec(("color",))


def test_the_documented_file_and_the_documented_code_are_the_same_specification():
    page = (Path(__file__).parents[2] / "docs" / "processing.md").read_text(encoding="utf-8")
    file, code = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL)[1] for kind in ("json", "python"))
    names = {}
    exec(code, names)
    assert ProcessingSpec.from_json(json.loads(file)) == names["spec"]
