"""The detection kernels against their twin in NumPy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_sdk.errors import InputError
from edge_sdk.ext.detection import decode_ssd, decode_yolo
from edge_sdk.ext.pure.detection import decode_ssd as reference_ssd
from edge_sdk.ext.pure.detection import decode_yolo as reference_yolo

INTEGERS = [np.int8, np.uint8]
LARGEST = float(np.finfo(np.float32).max)

# few different numbers: ties, equal boxes and scores on the threshold are common
COARSE = st.sampled_from([-0.5, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 2.0])
ANY = st.floats(width=32)
TENSORS = st.tuples(st.integers(5, 15), st.integers(1, 150))
LIMITS = st.fixed_dictionaries(
    {
        "score_threshold": st.sampled_from([0.0, 0.25, 0.3, 1.0]) | st.floats(0, 1),
        "iou_threshold": st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        "max_detections": st.integers(1, 20) | st.just(1000),
        "size": st.none() | st.sampled_from([(480, 640), (0.5, 3.0)]),
    }
)
check = settings(derandomize=True, deadline=None)


def assert_same(found, expected):
    for ours, reference, dtype in zip(found, expected, [np.float32, np.float32, np.int32, np.int32], strict=True):
        assert ours.dtype == reference.dtype == dtype
        np.testing.assert_array_equal(ours, reference)


def column(cx, cy, w, h, *scores):
    return np.array([cx, cy, w, h, *scores], np.float32)


def output(*columns):
    return np.stack(columns, axis=1)


@check
@given(TENSORS.flatmap(lambda shape: arrays(np.float32, shape, elements=COARSE | ANY)), LIMITS)
def test_yolo_equals_the_reference_on_any_float32(x, limits):
    assert_same(decode_yolo(x, **limits), reference_yolo(x, **limits))


@check
@given(
    st.sampled_from(INTEGERS).flatmap(
        lambda dtype: st.tuples(TENSORS.flatmap(lambda shape: arrays(dtype, shape)), st.integers(0, 255))
    ),
    st.floats(1e-3, 1e-2) | st.floats(1e-44, 1e35),
    LIMITS,
)
def test_yolo_equals_the_reference_on_any_integers(tensor, scale, limits):
    x, shift = tensor
    given_scale = (scale, shift + np.iinfo(x.dtype).min)
    assert_same(
        decode_yolo(x, quantization=given_scale, **limits), reference_yolo(x, quantization=given_scale, **limits)
    )


@check
@given(st.data(), st.sampled_from(["xy", "yx"]), st.booleans(), LIMITS)
def test_ssd_corners_equal_the_reference(data, order, background, limits):
    anchors, classes = data.draw(st.integers(1, 60)), data.draw(st.integers(2, 40))
    boxes = data.draw(arrays(np.float32, (anchors, 4), elements=COARSE | ANY))
    scores = data.draw(arrays(np.float32, (anchors, classes), elements=COARSE | ANY))
    options = {"order": order, "background": background, **limits}
    assert_same(decode_ssd(boxes, scores, **options), reference_ssd(boxes, scores, **options))


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("kind", [np.float32, *INTEGERS])
@pytest.mark.parametrize("classes", [2, 21, 91, 200])
def test_ssd_offsets_equal_the_reference(order, kind, classes):
    random = np.random.default_rng(classes)
    anchors = random.uniform(0.05, 0.9, (500, 4)).astype(np.float32)
    boxes, scores = random.normal(0, 1, (500, 4)), random.beta(0.3, 5, (500, classes))
    options = {"anchors": anchors, "order": order, "background": True, "size": (300, 320), "variances": (0.1, 0.2)}
    if kind == np.float32:
        boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    else:
        low = np.iinfo(kind).min
        boxes = np.rint(boxes * 30 + low + 128).clip(low, low + 255).astype(kind)
        scores = np.rint(scores * 255 + low).clip(low, low + 255).astype(kind)
        options |= {"boxes_quantization": (1 / 30, low + 128), "scores_quantization": (1 / 255, low)}
    found, expected = decode_ssd(boxes, scores, **options), reference_ssd(boxes, scores, **options)
    assert 10 < len(found[0]) <= 300
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    for ours, reference in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 127, 128, 256, 257, 8400])
@pytest.mark.parametrize("classes", [1, 3, 4, 80])
def test_sizes_around_the_kernels_blocks_equal_the_reference(count, classes):
    random = np.random.default_rng(count * classes)
    x = np.vstack(
        [
            random.uniform(0, 640, (2, count)),
            random.uniform(5, 200, (2, count)),
            random.beta(0.2, 20 + classes, (classes, count)),
        ]
    )
    assert_same(decode_yolo(x.astype(np.float32)), reference_yolo(x.astype(np.float32)))
    for dtype in INTEGERS:
        low = np.iinfo(dtype).min
        q = np.rint(np.vstack([x[:4] / 640, x[4:]]) * 255 + low)
        options = {"quantization": (1 / 255, low), "size": (640, 640), "score_threshold": 0.1}
        assert_same(decode_yolo(q.astype(dtype), **options), reference_yolo(q.astype(dtype), **options))


def test_integers_give_what_their_float32_values_give():
    q = np.random.default_rng(5).integers(-128, 128, (10, 300)).astype(np.int8)
    q[4:] = np.minimum(q[4:], 100)
    scale, zero = np.float32(0.004), -120
    real = (q.astype(np.float32) - zero) * scale
    assert_same(decode_yolo(q, quantization=(scale, zero), size=(64, 64)), decode_yolo(real, size=(64, 64)))


def test_a_box_is_given_by_its_corners_score_class_and_anchor():
    x = output(column(0, 0, 1, 1, 0, 0), column(50, 40, 20, 10, 0.1, 0.9))
    boxes, scores, classes, anchors = decode_yolo(x)
    np.testing.assert_array_equal(boxes, [[40, 35, 60, 45]])
    np.testing.assert_array_equal(scores, np.array([0.9], np.float32))
    assert (classes.tolist(), anchors.tolist()) == ([1], [1])
    np.testing.assert_array_equal(decode_yolo(x, size=(2, 10))[0], [[400, 70, 600, 90]])


def test_tensorflow_offsets_become_corners():
    anchors = np.array([[0.5, 0.25, 0.2, 0.1]], np.float32)  # y, x, height, width
    boxes = np.array([[1, -1, 5 * np.log(2), 0]], np.float32)
    found = decode_ssd(boxes, np.array([[0.1, 0.8]], np.float32), anchors=anchors, order="yx", background=True)
    # centre y 0.5 + 0.1 * 0.2, x 0.25 - 0.1 * 0.1; height doubled
    np.testing.assert_allclose(found[0], [[0.19, 0.32, 0.29, 0.72]], rtol=1e-6)
    assert found[2].tolist() == [1]


def test_equal_scores_are_in_the_order_of_their_anchors_and_equal_classes_give_the_first():
    x = np.stack([column(100 * i, 0, 10, 10, 0.5, 0.5) for i in range(100)], axis=1)
    _, _, classes, anchors = decode_yolo(x)
    np.testing.assert_array_equal(anchors, np.arange(100))
    np.testing.assert_array_equal(classes, 0)
    assert decode_yolo(x, max_detections=3)[3].tolist() == [0, 1, 2]


def test_zeros_of_either_sign_are_equal_scores():
    x = output(*(column(100 * i, 0, 10, 10, score) for i, score in enumerate([-0.0, 0.0, -0.0])))
    assert decode_yolo(x, score_threshold=0)[3].tolist() == [0, 1, 2]


def test_where_nothing_passes_the_results_are_empty():
    for x in (np.zeros((84, 1000), np.float32), np.full((5, 1), np.nan, np.float32)):
        boxes, scores, classes, anchors = decode_yolo(x)
        assert (boxes.shape, scores.shape, classes.shape, anchors.shape) == ((0, 4), (0,), (0,), (0,))


def test_of_equal_boxes_each_class_keeps_its_best():
    scores = np.eye(3, dtype=np.float32)[np.arange(90) % 3] * np.linspace(0.3, 0.9, 90, dtype=np.float32)[:, None]
    x = np.vstack([np.full((2, 90), 50), np.full((2, 90), 20), scores.T]).astype(np.float32)
    assert decode_yolo(x)[3].tolist() == [89, 88, 87]
    assert len(decode_yolo(x, iou_threshold=1)[3]) == 90


def test_an_overlap_equal_to_the_threshold_stays():
    x = output(column(5, 5, 10, 10, 0.9), column(10, 5, 10, 10, 0.8))  # IoU 1/3
    third = 50 / 150
    assert len(decode_yolo(x, iou_threshold=third)[0]) == 2
    assert len(decode_yolo(x, iou_threshold=third - 1e-9)[0]) == 1
    assert len(decode_yolo(x, iou_threshold=0)[0]) == 1


def test_boxes_that_touch_do_not_overlap():
    x = output(column(5, 5, 10, 10, 0.9), column(15, 5, 10, 10, 0.8))
    assert len(decode_yolo(x, iou_threshold=0)[0]) == 2


def test_a_score_equal_to_the_threshold_passes():
    x = output(column(5, 5, 10, 10, 0.7), column(50, 5, 10, 10, 1.0))
    assert len(decode_yolo(x, score_threshold=0.7)[0]) == 2
    assert decode_yolo(x, score_threshold=1)[3].tolist() == [1]
    assert len(decode_yolo(x, score_threshold=0)[0]) == 2


def test_an_integer_threshold_is_the_first_step_that_reaches_it():
    q = np.array([[0, 20, 40, 60], [0] * 4, [9] * 4, [9] * 4, [126, 127, 128, 129]], np.uint8)
    for threshold, first in ((126 / 255, 0), (126.5 / 255, 1), (128 / 255, 2), (129.01 / 255, 4)):
        found = decode_yolo(q, quantization=(1 / 255, 0), score_threshold=threshold)
        assert sorted(found[3]) == list(range(first, 4))


def test_boxes_of_any_finite_size_are_compared():
    x = output(
        column(0, 0, LARGEST, LARGEST, 0.9), column(0, 0, LARGEST, LARGEST, 0.8), column(0, 0, 1e-38, 1e-38, 0.7)
    )
    assert decode_yolo(x)[3].tolist() == [0, 2]
    assert_same(decode_yolo(x), reference_yolo(x))


@pytest.mark.parametrize(
    "box", [(np.nan, 0, 1, 1), (0, 0, np.inf, 1), (LARGEST, 0, LARGEST, 1), (0, 0, 0, 5), (0, 0, 5, -1), (1e9, 0, 1, 1)]
)
def test_a_box_that_is_not_finite_or_has_no_area_is_left_out(box):
    x = output(column(*box, 0.9), column(5, 5, 10, 10, 0.5))
    assert decode_yolo(x, max_detections=1)[3].tolist() == [1]


def test_a_nan_score_is_never_the_best():
    x = output(
        column(5, 5, 10, 10, np.nan, 0.5), column(50, 5, 10, 10, 0.4, np.nan), column(90, 5, 9, 9, *[np.nan] * 2)
    )
    _, scores, classes, anchors = decode_yolo(x)
    assert (anchors.tolist(), classes.tolist()) == ([0, 1], [1, 0])
    np.testing.assert_array_equal(scores, np.array([0.5, 0.4], np.float32))


def test_views_and_a_batch_of_one_are_read_as_their_copies():
    x = np.random.default_rng(7).uniform(0, 1, (200, 12)).astype(np.float32)
    expected = decode_yolo(x.T.copy())
    assert_same(decode_yolo(x.T), expected)
    assert_same(decode_yolo(x.T[None]), expected)
    assert_same(decode_yolo(np.repeat(x.T, 2, axis=1)[:, ::2]), expected)
    corners = np.sort(x[:, :4].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    wide = np.asfortranarray(x[:, 4:])
    assert_same(decode_ssd(corners[None], wide[None]), decode_ssd(corners, x[:, 4:].copy()))


def test_read_only_tensors_are_read():
    x = output(column(5, 5, 10, 10, 0.9))
    x.flags.writeable = False
    assert len(decode_yolo(x)[0]) == 1


def test_out_is_filled_and_the_rest_of_it_is_left_alone():
    x = output(column(5, 5, 10, 10, 0.9), column(50, 5, 10, 10, 0.8))
    out = (
        np.full((6, 4), -1, np.float32),
        np.full(6, -1, np.float32),
        np.full(6, -1, np.int32),
        np.full(6, -1, np.int32),
    )
    found = decode_yolo(x, max_detections=5, out=out)
    assert_same(found, decode_yolo(x))
    for view, array in zip(found, out, strict=True):
        assert view.base is array
        assert (array[2:] == -1).all()


def test_threads_give_equal_results():
    x = np.random.default_rng(8).beta(0.3, 5, (84, 2000)).astype(np.float32)
    expected = decode_yolo(x)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(decode_yolo, [x] * 40):
            assert_same(found, expected)


X = np.zeros((6, 3), np.float32)
Q = X.astype(np.int8)
B, S = np.zeros((3, 4), np.float32), np.zeros((3, 2), np.float32)


def outs(n=300, **changed):
    arrays = {
        "boxes": np.zeros((n, 4), np.float32),
        "scores": np.zeros(n, np.float32),
        "classes": np.zeros(n, np.int32),
        "anchors": np.zeros(n, np.int32),
    }
    return tuple((arrays | changed).values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decode_yolo([[0.0]]), "x: need an array of float32, int8 or uint8"),
        (lambda: decode_yolo(X.astype(np.float64)), "x: need an array of float32, int8 or uint8"),
        (lambda: decode_yolo(X.astype(">f4")), "x: need an array of float32, int8 or uint8"),
        (lambda: decode_yolo(X[:, :0]), "not empty"),
        (lambda: decode_yolo(X[0]), r"x: need shape \(4 \+ classes, anchors\)"),
        (lambda: decode_yolo(X[:4]), "x: need shape"),
        (lambda: decode_yolo(np.zeros((2, 6, 3), np.float32)), "x: need shape"),
        (lambda: decode_yolo(X, score_threshold=1.1), "score_threshold: need a number from 0 to 1"),
        (lambda: decode_yolo(X, score_threshold=np.nan), "score_threshold: need a number from 0 to 1"),
        (lambda: decode_yolo(X, score_threshold="high"), "score_threshold: need a number, not str"),
        (lambda: decode_yolo(X, iou_threshold=-0.1), "iou_threshold: need a number from 0 to 1"),
        (lambda: decode_yolo(X, max_detections=0), "max_detections: need 1 to"),
        (lambda: decode_yolo(X, max_detections=1.5), "max_detections: need an integer"),
        (lambda: decode_yolo(X, size=640), "size: need a pair"),
        (lambda: decode_yolo(X, size=(640, 0)), "size: need finite numbers above 0"),
        (lambda: decode_yolo(X, quantization=(1.0, 0)), "quantization: float32 has none"),
        (lambda: decode_yolo(Q), "quantization: int8 needs a pair"),
        (lambda: decode_yolo(Q, quantization=(1.0, 0.5)), "quantization: int8 needs a pair"),
        (lambda: decode_yolo(Q, quantization=(0.0, 0)), "quantization: need a scale above 0"),
        (lambda: decode_yolo(Q, quantization=(np.nan, 0)), "quantization: need a scale above 0"),
        (lambda: decode_yolo(Q, quantization=(1e-60, 0)), "quantization: need a scale above 0"),
        (lambda: decode_yolo(Q, quantization=(1e38, 0)), "quantization: need a scale above 0"),
        (lambda: decode_yolo(Q, quantization=(1.0, 128)), "quantization: zero point 128 is not within -128..127"),
        (lambda: decode_yolo(X, out=outs()[:3]), "out: need four arrays"),
        (lambda: decode_yolo(X, out=outs(299)), r"out: boxes needs float32 of shape \(300, 4\)"),
        (lambda: decode_yolo(X, out=outs(classes=np.zeros(300))), r"out: classes needs int32 of shape \(300\)"),
        (lambda: decode_yolo(X, out=outs(scores=np.zeros(600, np.float32)[::2])), "out: scores needs a writeable"),
        (lambda: decode_ssd(B[:, :3], S), r"boxes: need shape \(n, 4\)"),
        (lambda: decode_ssd(B, S[:2]), r"scores: need shape \(3, C\)"),
        (lambda: decode_ssd(B, S[:, :1], background=True), "at least 2 classes"),
        (lambda: decode_ssd(B, S, order="wh"), "order: need 'xy' or 'yx'"),
        (lambda: decode_ssd(B, S, anchors=B[:2]), r"anchors: need float32 of shape \(3, 4\)"),
        (lambda: decode_ssd(B, S, anchors=B, variances=(0.1,)), "variances: need a pair"),
        (lambda: decode_ssd(B, S.astype(np.uint8)), "scores_quantization: uint8 needs a pair"),
    ],
)
def test_bad_input_is_refused_with_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
