"""What channel pruning promises: shapes always fit, and nothing is lost but the channels that went."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from edge_sdk.cloud.training.evaluate import model_digest
from edge_sdk.compression.channels import Narrowing, Plan, narrow, narrowed, plan
from edge_sdk.compression.fitting import Fitting, FittingData
from edge_sdk.errors import CompressionError

# Keras turns TensorFlow's tensors into arrays in a way that NumPy 2 finds old
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs`:UserWarning"),
]

SIDE = 8


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Give a model weights that no initializer would: shifted statistics, biases that are not zero."""
    rng = np.random.default_rng(seed)
    values = [
        rng.uniform(0.5, 2.0, weight.shape) if "variance" in weight.path else rng.normal(0.0, 0.4, weight.shape)
        for weight in model.weights
    ]
    model.set_weights([value.astype(np.float32) for value in values])
    return model


def zeroed(model: keras.Model, chosen: Plan) -> keras.Model:
    """Return the model at full width, in which the channels that go are zero wherever a layer makes or shifts them."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        if layer.name not in chosen.gives or not layer.weights:
            continue
        width = layer.output.shape[-1]
        gone = np.setdiff1d(np.arange(width), chosen.gives[layer.name])
        changed = []
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            new = value.copy()
            if isinstance(layer, layers.Conv2DTranspose) and variable.name == "kernel":
                new[..., gone, :] = 0.0
            elif isinstance(layer, layers.DepthwiseConv2D) and variable.name == "kernel":
                new.reshape(*new.shape[:2], -1)[..., gone] = 0.0
            elif variable.name != "depthwise_kernel" and new.shape[-1] == width:
                new[..., gone] = 0.0
            changed.append(new)
        layer.set_weights(changed)
    return copy


def residual(x: Any, width: int, activation: str) -> Any:
    y = layers.Conv2D(width, 1, activation=activation)(x)
    return layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same")(y)])


def projected(x: Any, width: int, activation: str) -> Any:
    y = layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same", use_bias=False)(x))
    return layers.Activation(activation)(layers.Add()([layers.Conv2D(width, 1)(x), y]))


def branches(x: Any, width: int, activation: str) -> Any:
    y, z = (layers.Conv2D(w, 1, activation=activation)(x) for w in (width, 12))
    return layers.Concatenate()([y, layers.MaxPooling2D(3, strides=1, padding="same")(z), y])


def gate(x: Any, width: int, activation: str) -> Any:
    squeezed = layers.Dense(width, activation=activation)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(squeezed)])


# each keeps zero zero
BLOCKS = {
    "conv": lambda x, w, act: layers.Conv2D(w, 3, padding="same", activation=act)(x),
    "strided": lambda x, w, act: layers.Conv2D(w, 2, strides=min(x.shape[1], 2), padding="same", use_bias=False)(x),
    "separable": lambda x, w, act: layers.SeparableConv2D(w, 3, padding="same", depth_multiplier=2, activation=act)(x),
    "depthwise": lambda x, w, act: layers.DepthwiseConv2D(3, padding="same", activation=act)(x),
    "doubling": lambda x, w, act: layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2 - (x.shape[-1] > 40))(x),
    "transposed": lambda x, w, act: layers.Conv2DTranspose(w, 2, padding="same", activation=act)(x),
    "residual": residual,
    "projected": projected,
    "dense": lambda x, w, act: layers.Dense(w, activation=act)(x),
    "branches": branches,
    "pool": lambda x, w, act: layers.AveragePooling2D(2)(x) if x.shape[1] > 2 else layers.UpSampling2D()(x),
    "norm": lambda x, w, act: layers.ReLU()(layers.BatchNormalization()(x)),
    "prelu": lambda x, w, act: layers.PReLU(shared_axes=[1, 2] if w > 8 else None)(x),
    "gate": gate,
}
ENDS = {
    "flatten": layers.Flatten,
    "average": layers.GlobalAveragePooling2D,
    "largest": layers.GlobalMaxPooling2D,
    "reshape": lambda: lambda x: layers.Reshape((int(np.prod(x.shape[1:])),))(x),
}
STEPS = st.tuples(
    st.sampled_from(sorted(BLOCKS)), st.sampled_from((4, 8, 12, 16)), st.sampled_from(("relu", "tanh", "silu"))
)
RECIPES = st.tuples(st.lists(STEPS, min_size=1, max_size=5), st.sampled_from(sorted(ENDS)), st.integers(0, 1000))
OPTIONS = st.builds(
    Narrowing,
    ratio=st.floats(0.0, 0.9),
    importance=st.sampled_from(("l1", "l2", "gamma")),
    multiple=st.sampled_from((1, 4, 8)),
    across=st.booleans(),
    tied=st.booleans(),
)


def built(recipe: Any) -> keras.Model:
    steps, end, seed = recipe
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, padding="same")(inputs)
    for kind, width, activation in steps:
        x = BLOCKS[kind](x, width, activation)
    x = layers.Dense(8, activation="relu")(ENDS[end]()(x))
    return randomized(keras.Model(inputs, layers.Dense(5)(x)), seed)


def check(recipe: Any, options: Narrowing) -> None:
    model = built(recipe)
    before = model_digest(model)
    chosen = plan(model, options)
    small = narrowed(model, chosen)
    assert model_digest(model) == before
    for name, (width, left) in chosen.widths.items():
        assert 1 <= left <= width
        assert small.get_layer(name).output.shape[-1] == left
    x = np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(zeroed(model, chosen)(x))
    scale = max(float(np.abs(expected).max()), 1.0)
    assert np.abs(keras.ops.convert_to_numpy(small(x)) - expected).max() <= 1e-4 * scale
    assert small.output_shape == model.output_shape


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_block_loses_channels_and_nothing_else(kind: str) -> None:
    recipe = ([("conv", 16, "relu"), (kind, 16, "tanh"), ("conv", 8, "silu")], "flatten", 3)
    check(recipe, Narrowing(multiple=4))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RECIPES, OPTIONS)
def test_a_narrow_network_answers_as_the_whole_one_without_the_channels_that_went(
    recipe: Any, options: Narrowing
) -> None:
    check(recipe, options)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RECIPES, OPTIONS)
def test_and_so_it_does_in_many_more_networks(recipe: Any, options: Narrowing) -> None:
    check(recipe, options)


def chain() -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 3, name="first", use_bias=False)(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(24, 3, name="second", activation="relu")(x)
    return randomized(keras.Model(inputs, layers.Dense(5, name="last")(layers.Flatten()(x)), name="chain"))


def test_the_weakest_channels_go() -> None:
    model = chain()
    kernel = model.get_layer("first").get_weights()[0]
    kernel[..., [1, 4, 5, 6, 9, 11, 12, 15]] *= 1e-3
    model.get_layer("first").set_weights([kernel])
    assert plan(model).gives["first"].tolist() == [0, 2, 3, 7, 8, 10, 13, 14]
    gamma, *others = model.get_layer("norm").get_weights()
    gamma[:8] = 1e-3
    model.get_layer("norm").set_weights([gamma, *others])
    assert plan(model, Narrowing(importance="gamma")).gives["first"].tolist() == list(range(8, 16))


def test_channels_are_left_in_multiples_and_small_layers_are_left_whole() -> None:
    assert plan(chain(), Narrowing(ratio=0.4, multiple=8)).widths == {"first": (16, 8), "second": (24, 16)}
    assert plan(chain(), Narrowing(ratio=0.9, multiple=16)).widths == {"first": (16, 16), "second": (24, 16)}
    chosen = plan(chain(), Narrowing(ratio=0.0, ratios={"second": 0.7}, multiple=4))
    assert chosen.widths == {"first": (16, 16), "second": (24, 8)}
    assert chosen.removed == pytest.approx(16 / 40)


def test_ranked_across_layers_the_weaker_layer_loses_more() -> None:
    model = chain()
    kernel = model.get_layer("second").get_weights()[0]
    kernel[..., :20] *= 1e-2  # against the mean of their layer these are weak
    model.get_layer("second").set_weights([kernel, model.get_layer("second").get_weights()[1]])
    chosen = plan(model, Narrowing(ratio=0.5, across=True, multiple=4))
    assert chosen.widths == {"first": (16, 16), "second": (24, 4)}


def test_channels_of_a_sum_go_together_or_with_tied_false_not_at_all() -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(16, 1, name="stem")(inputs)
    y = layers.Conv2D(16, 3, padding="same", name="inner")(x)
    y = layers.Conv2D(16, 3, padding="same", name="outer")(y)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    model = randomized(keras.Model(inputs, layers.Dense(5)(x)))
    chosen = plan(model)
    assert chosen.widths == {"inner": (16, 8), "outer": (16, 8), "stem": (16, 8)}
    assert chosen.gives["stem"].tolist() == chosen.gives["outer"].tolist()
    assert plan(model, Narrowing(tied=False)).widths == {"inner": (16, 8)}
    with pytest.raises(CompressionError, match=r"stem, outer are tied together; ratios gives them \[0.2, 0.5\]"):
        plan(model, Narrowing(ratios={"stem": 0.2, "outer": 0.5}))


def test_a_layer_that_is_called_twice_is_cut_once() -> None:
    shared = layers.Conv2D(16, 3, padding="same", name="shared")
    inputs = keras.Input((SIDE, SIDE, 16))
    x = layers.Conv2D(16, 1, name="before")(inputs)
    x = layers.GlobalAveragePooling2D()(shared(shared(x)))
    model = randomized(keras.Model(inputs, layers.Dense(5)(x)))
    small = narrowed(model, plan(model))
    assert small.get_layer("shared").kernel.shape == (3, 3, 8, 8)
    assert small.get_layer("before").kernel.shape == (1, 1, 16, 8)


def test_the_step_fits_the_narrow_model_and_leaves_its_input(tmp_path: Any) -> None:
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *chain().layers[1:]], name="chain")
    before = model_digest(model)
    rng = np.random.default_rng(0)
    data = FittingData(rng.normal(size=(64, SIDE, SIDE, 3)).astype(np.float32), rng.integers(0, 5, 64))
    steps: list[tuple[str, int, int]] = []
    small = narrow(
        model, data, fitting=Fitting(epochs=2, batch=16), on_progress=lambda *step: steps.append(step), ratio=0.5
    )
    assert model_digest(model) == before
    assert steps[-1] == ("narrow", 8, 8)
    assert small.get_layer("second").kernel.shape == (3, 3, 8, 16)  # of 24 the half, in eights
    unfitted = narrow(model, data, fitting=None)
    assert model_digest(unfitted) != model_digest(small)
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras", compile=False)
    assert model_digest(again) == model_digest(small)


def with_layer(layer: Any) -> keras.Model:
    inputs = keras.Input((SIDE, SIDE, 3))
    x = layer(layers.Conv2D(16, 3, name="first")(inputs))
    x = layers.Conv2D(16, 3, name="second")(x)
    return randomized(keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)), name="odd"))


def test_an_unknown_layer_is_named_and_may_be_kept() -> None:
    model = with_layer(layers.LayerNormalization(name="strange"))
    with pytest.raises(CompressionError, match=r"'strange' \(LayerNormalization\) is not known .* name it in keep="):
        plan(model)
    chosen = plan(model, Narrowing(keep=("strange",)))
    assert chosen.widths == {"second": (16, 8)}
    x = np.ones((1, SIDE, SIDE, 3), np.float32)
    small, whole = narrowed(model, chosen), zeroed(model, chosen)
    np.testing.assert_allclose(small(x), whole(x), rtol=1e-4, atol=1e-5)


def test_grouped_convolutions_softmaxes_and_nested_models_do_not_lose_channels_by_mistake() -> None:
    with pytest.raises(CompressionError, match=r"'grouped' \(Conv2D\) is not known"):
        plan(with_layer(layers.Conv2D(16, 3, groups=4, name="grouped")))
    nested = keras.Sequential([keras.Input((6, 6, 16)), layers.Conv2D(16, 1)], name="nested")
    with pytest.raises(CompressionError, match=r"'nested' \(Sequential\) is not known"):
        plan(with_layer(nested))
    assert plan(with_layer(layers.Softmax())).widths == {"second": (16, 8)}
    assert plan(with_layer(layers.Activation("softmax"))).widths == {"second": (16, 8)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "it must be at least 0 and less than 1"),
        ({"ratios": {"first": -0.1}}, "first: -0.1 of the channels cannot go"),
        ({"ratios": {"last": 0.5}}, "'last', which has no channels that may go; these have: first, second"),
        ({"importance": "size"}, "importance is 'size'; it must be one of l1, l2, gamma"),
        ({"multiple": 0}, "multiple is 0"),
        ({"keep": ("nobody",)}, "keep names nobody, which 'chain' does not have"),
        ({"speed": 2}, "unknown option 'speed' of Narrowing"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    data = FittingData(np.zeros((4, SIDE, SIDE, 3), np.float32), np.zeros(4, np.int64))
    with pytest.raises(CompressionError, match=message):
        narrow(chain(), data, **options)


def test_a_plan_of_another_model_and_weights_that_are_not_finite_are_refused() -> None:
    model = chain()
    chosen = plan(model)
    narrower = narrowed(model, chosen)
    with pytest.raises(CompressionError, match="the plan does not fit the model 'chain'"):
        narrowed(narrower, chosen)
    kernel = model.get_layer("first").get_weights()[0]
    kernel[0, 0, 0, 0] = np.nan
    model.get_layer("first").set_weights([kernel])
    with pytest.raises(CompressionError, match="of first are not finite"):
        plan(model)
