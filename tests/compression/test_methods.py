"""Pruning and clustering as steps: exact shares, exact values, and a model that goes in stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from compressing import SHORT, accuracy, clustered, inexact, kernels, pruned, stripes_data, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.training import architecture
from edge_sdk.cloud.training.data import augmentation_for, frames
from edge_sdk.cloud.training.evaluate import logits_of, model_digest
from edge_sdk.cloud.training.specification import processing_for
from edge_sdk.compression import distill
from edge_sdk.compression.cluster import cells, centres, cluster
from edge_sdk.compression.export import device_logits, zstd_bytes
from edge_sdk.compression.fitting import Fitting, FittingData, copied, fit
from edge_sdk.compression.prune import prune, shares, sparsity
from edge_sdk.compression.qat import quantize_aware
from edge_sdk.compression.quantize import float_tensors, to_int8_tflite
from edge_sdk.compression.tflite import convert, saved
from edge_sdk.compression.weights import distinct
from edge_sdk.datasets import load_splits
from edge_sdk.errors import CompressionError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# ---- every step


@pytest.mark.parametrize(
    ("given", "step", "made"),
    [
        (trained, lambda *given: prune(*given, share=0.6, fitting=SHORT), pruned),
        (pruned, lambda *given: cluster(*given, clusters=6, fitting=SHORT), clustered),
    ],
    ids=["prune", "cluster"],
)
def test_a_step_leaves_the_model_it_is_given_and_repeats_itself(
    given: Callable[[], keras.Model], step: Callable[..., keras.Model], made: Callable[[], keras.Model]
) -> None:
    model, before = given(), model_digest(given())
    first, second = made(), step(model, stripes_data())
    assert model_digest(model) == before
    assert model_digest(first) == model_digest(second) != before
    assert [layer.name for layer in first.layers] == [layer.name for layer in model.layers]


@pytest.mark.slow
def test_an_interrupted_step_leaves_the_model_it_is_given() -> None:
    before = model_digest(trained())

    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    for step in (prune, cluster):
        with pytest.raises(KeyboardInterrupt):
            step(trained(), stripes_data(), fitting=SHORT, on_progress=stop)
    assert model_digest(trained()) == before


# ---- prune


def test_layers_get_the_shares_that_their_names_say() -> None:
    names = list(kernels(trained()))
    layers = {names[0]: 0.0, "logits": 0.25}
    found = sparsity(prune(trained(), stripes_data(), share=0.8, layers=layers, fitting=SHORT)).by_layer
    assert found[names[0]] == 0.0
    assert found["logits"] == pytest.approx(0.25, abs=0.01)
    assert found[names[1]] == pytest.approx(0.8, abs=0.01)


def test_two_of_four_consecutive_inputs_stay_where_their_number_allows_it() -> None:
    first, *others = kernels(prune(trained(), stripes_data(), pattern="2:4", fitting=SHORT)).values()
    assert first.shape[-2] == 1
    assert first.all()  # one input: no four to choose from
    for kernel in others:
        assert (np.count_nonzero(kernel.reshape(-1, 4, kernel.shape[-1]), axis=1) == 2).all()


def test_whole_blocks_go() -> None:
    blocky = prune(trained(), stripes_data(), share=0.5, pattern="4x2", fitting=SHORT)
    kernel = list(kernels(blocky).values())[1]
    matrix = kernel.reshape(-1, kernel.shape[-1]) != 0.0
    blocks = matrix.reshape(matrix.shape[0] // 4, 4, -1, 2).sum(axis=(1, 3))
    assert set(np.unique(blocks)) == {0, 8}
    assert np.mean(blocks == 0) == pytest.approx(0.5, abs=0.02)


def test_zeros_stay_through_later_training_and_more_can_come() -> None:
    masks = {name: kernel == 0.0 for name, kernel in kernels(pruned()).items()}
    later = copied(pruned())
    fit(later, stripes_data(), SHORT, stage="train")
    assert all(np.array_equal(kernel == 0.0, masks[name]) for name, kernel in kernels(later).items())
    more = prune(pruned(), stripes_data(), share=0.8, fitting=SHORT)
    assert all((kernel[masks[name]] == 0.0).all() for name, kernel in kernels(more).items())
    assert sparsity(more).share == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "prune is 1.0"),
        ({"layers": {"conv*": -0.1}}, r"conv\* is -0.1"),
        ({"layers": {"none": 0.5}}, "no layer is named 'none'; those with kernels are conv2d"),
        ({"pattern": "4:2"}, "pattern is '4:2'"),
        ({"pattern": "2:4", "share": 0.8}, "pattern 2:4 zeroes 0.5"),
        ({"ramp": 2.0}, "ramp is 2.0"),
        ({"shares": 0.5}, "unknown option 'shares' of Pruning; there are share, layers"),
    ],
)
def test_pruning_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        prune(trained(), stripes_data(), fitting=SHORT, **options)


def test_a_pattern_that_fits_no_layer_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"no layer of 'body' can be pruned by pattern 4:7: it needs"):
        prune(trained(), stripes_data(), pattern="4:7", share=1 - 4 / 7, fitting=SHORT)


def test_a_share_is_spread_so_that_large_kernels_lose_more_and_small_ones_nothing() -> None:
    model = trained()
    sizes = {name: kernel.size for name, kernel in kernels(model).items()}
    for share in (0.0, 0.3, 0.8, 0.99):
        found = shares(model, share)
        assert sum(found[name] * size for name, size in sizes.items()) == pytest.approx(share * sum(sizes.values()))
        ordered = [found[name] for name in sorted(sizes, key=sizes.__getitem__)]
        assert ordered == sorted(ordered)
        assert 0.0 <= ordered[0] <= ordered[-1] < 1.0
    with pytest.raises(CompressionError, match=r"prune is 1\.0"):
        shares(model, 1.0)


# ---- cluster


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60),
    st.integers(1, 12),
    st.sampled_from(["kmeans++", "density", "linear"]),
)
def test_centres_are_few_sorted_and_each_the_mean_of_what_is_nearest(
    values: list[float], count: int, start: str
) -> None:
    found = centres(np.array(values), count, start, np.random.default_rng(0))  # type: ignore[arg-type]
    assert 1 <= len(found) <= count
    assert (np.diff(found) >= 0).all()
    assert min(values) - 1e-9 <= found[0]
    assert found[-1] <= max(values) + 1e-9
    if len(set(values)) <= count:
        assert set(found) == set(values)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["kmeans++", "density", "linear"])
def test_kernels_have_as_many_values_as_wanted_and_the_model_still_knows_its_classes(start: str) -> None:
    clustered = cluster(trained(), stripes_data(300), clusters=8, start=start, layers={"logits": 4}, fitting=SHORT)
    found = distinct(clustered)
    assert found.pop("logits") <= 4
    assert all(2 <= count <= 8 for count in found.values())
    assert accuracy(clustered) >= accuracy(trained()) - 0.05


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 80)), min_size=1, max_size=12),
    st.lists(st.integers(-600, 600), max_size=30),
)
def test_each_weight_is_in_the_cell_of_the_centre_whose_distance_and_penalty_are_the_smallest(
    centre: list[tuple[int, int]], weights: list[int]
) -> None:
    found, penalties = (np.array(column, float) for column in zip(*sorted(centre), strict=True))
    used, borders = cells(found, penalties)
    assert (np.diff(borders) > 0).all()
    at = np.array(weights, float) / 10
    costs = (at[:, None] - found) ** 2 + penalties
    chosen = used[np.searchsorted(borders, at)]
    np.testing.assert_allclose(costs[np.arange(len(at)), chosen], costs.min(axis=1), atol=1e-9)


@pytest.mark.slow
def test_thrift_makes_the_usual_values_more_usual_and_the_file_smaller() -> None:
    still = Fitting(epochs=1, batch=32, rate=1e-30, momentum=0.0)

    def bits(thrift: float) -> float:
        clustered = cluster(trained(), stripes_data(32), clusters=16, thrift=thrift, fitting=still)
        counts = [np.unique(kernel, return_counts=True)[1] for kernel in kernels(clustered).values()]
        return float(-sum((count * np.log2(count / count.sum())).sum() for count in counts))

    assert bits(8.0) < 0.95 * bits(0.0)


def test_pruned_zeros_are_a_cluster_of_their_own() -> None:
    before = kernels(pruned())
    assert not any(kernel[before[name] == 0.0].any() for name, kernel in kernels(clustered()).items())
    assert max(distinct(clustered()).values()) <= 6


def test_shared_values_stay_shared_through_later_training_and_a_file(tmp_path: Path) -> None:
    clustered().save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    fit(again, stripes_data(), SHORT, stage="train")
    old, new = kernels(clustered()), kernels(again)
    assert any(not np.array_equal(old[name], new[name]) for name in old)
    for name in old:
        pairs = {(a, b) for a, b in zip(old[name].flat, new[name].flat, strict=True)}
        assert len(pairs) == len(np.unique(old[name])) <= 6


@pytest.mark.slow
def test_weights_go_over_to_another_value_where_training_moves_them() -> None:
    still, fast = (
        cluster(trained(), stripes_data(32), clusters=5, thrift=0.0, fitting=Fitting(epochs=1, batch=8, rate=rate))
        for rate in (1e-30, 5e-3)
    )
    start, end = kernels(still)["logits"], kernels(fast)["logits"]
    assert len(np.unique(end)) == len(np.unique(start)) == 5
    assert len(set(zip(start.flat, end.flat, strict=True))) > 5


def test_factors_of_norms_are_positive_after_clustering_and_the_model_computes_the_same() -> None:
    model = copied(trained())
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    norm.gamma.assign(-norm.gamma)
    inputs = stripes_data().taken(32)
    values = logits_of(model, inputs)
    still = Fitting(epochs=1, batch=32, rate=1e-30, momentum=0.0)
    clustered = cluster(model, stripes_data(32), clusters=256, fitting=still)
    factor = next(layer for layer in clustered.layers if layer.name == norm.name).gamma
    assert (keras.ops.convert_to_numpy(factor) > 0.0).all()
    assert np.corrcoef(logits_of(clustered, inputs).ravel(), values.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 1}, "clusters is 1; it must be from 2 to 256"),
        ({"clusters": 300}, "clusters is 300"),
        ({"start": "random"}, "start is 'random'"),
        ({"thrift": -1.0}, "thrift is -1.0; it must be at least 0"),
        ({"layers": {"none": 4}}, "no layer is named 'none'"),
    ],
)
def test_clustering_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        cluster(trained(), stripes_data(), fitting=SHORT, **options)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_zeros_clusters_and_integers_together_leave_a_twentieth_of_the_demos_network_to_send() -> None:
    splits = load_splits("mnist", seed=0)
    spec, change = processing_for(splits.train), augmentation_for(splits.train)
    data = FittingData(frames(splits.train, spec), splits.train.labels, processing=spec)

    def fitting(epochs: int, rate: float) -> Fitting:
        return Fitting(epochs, rate=rate, augmentation=change)

    def right(file: bytes) -> float:
        unseen = (splits.test, splits.calibration, splits.validation)
        answers = [device_logits(file, "litert", spec, part).argmax(axis=1) == part.labels for part in unseen]
        return float(np.mean(np.concatenate(answers)))

    def floats(model: keras.Model) -> bytes:
        with saved(model, data.taken(1)) as folder:
            return convert(folder, "float32")

    keras.utils.set_random_seed(0)
    model = architecture.plain((28, 28, 1), 10, "float32")
    fit(model, data, fitting(14, 4e-3), stage="train")
    taught = distill.Guidance(teachers=[copied(model)])
    plans = (replace(fitting(*plan), learning=taught) for plan in ((20, 2e-3), (4, 1e-3), (4, 5e-4)))
    pruned = prune(model, data, layers=shares(model, 0.8), pattern="4x1", fitting=next(plans))
    few = cluster(pruned, data, clusters=16, start="linear", thrift=2.0, fitting=next(plans))
    small = to_int8_tflite(quantize_aware(few, data, fitting=next(plans)))
    control = copied(model)
    fit(control, data, fitting(28, 2e-3), stage="control")
    assert sparsity(few).share >= 0.799
    assert inexact(small, few, values=16) == []
    assert float_tensors(small) == ()
    assert zstd_bytes(small) <= 0.05 * len(floats(model))
    # half a point, and what 2,500 images of one seed cannot tell apart
    assert right(small) >= right(floats(control)) - 0.005 - 0.004
