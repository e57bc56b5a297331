"""Runs in a process that has legacy Keras and tfmot, and never Keras 3; see `tfmot`.

Run as a file, ``python tfmot_worker.py FOLDER``: it needs nothing of edge-sdk. It reads ``task.json``, the
weights and the data of the folder, and writes ``model.tflite``, ``report.json`` and, of a model that was pruned or
clustered, its weights. On standard output it says after each step how far it is.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["LAYERS", "PROGRESS", "WORDS"]

LAYERS = frozenset(
    {
        "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv1D",
        "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten",
        "GlobalAveragePooling2D", "GlobalMaxPooling2D", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum",
        "Multiply", "PReLU", "ReLU", "Rescaling", "Reshape", "SeparableConv2D", "Softmax", "Subtract",
        "UpSampling2D", "ZeroPadding2D",
    }
)  # fmt: skip
"""Types of layers that are the same in both Kerases, weights and their order included."""
WORDS = frozenset(
    {
        "activation", "alpha", "axis", "center", "cropping", "data_format", "depth_multiplier",
        "dilation_rate", "epsilon", "filters", "groups", "interpolation", "keepdims", "kernel_size",
        "max_value", "momentum", "name", "negative_slope", "offset", "padding", "pool_size", "rate", "scale",
        "shared_axes", "size", "strides", "target_shape", "threshold", "units", "use_bias",
    }
)  # fmt: skip
"""Words of configurations that both understand; the others are of initializers, regularizers and dtypes."""

PROGRESS = "edge-sdk progress:"
"""Begins a line of standard output; then come the stage, steps done and steps in all."""

RAMP = 0.5  # of the steps in which sparsity rises
EVERY = 8  # steps between two choices of masks


def main(folder: Path) -> dict[str, Any]:
    """Do the task; return the report."""
    stage = "the environment"
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras
    except ImportError as error:
        return {"missing": str(error)}
    try:
        task = json.loads((folder / "task.json").read_text())
        stage = "the model in legacy Keras"
        model = built(tf_keras, task["graph"], folder)
        method = task["options"]["method"]
        for name in ("prune", "cluster", "qat") if method == "pcqat" else (method,):
            stage = f"the stage {name}"
            model = STAGES[name](tf_keras, tfmot, model, task, folder)
        if method in ("prune", "cluster"):
            store(model, task["graph"], folder)
        stage = "the conversion"
        (folder / "model.tflite").write_bytes(converted(model, integer=method in ("qat", "pcqat")))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent says it
        return {"stage": stage, "refused": " ".join(str(error).split()) or type(error).__name__}
    return {}


def built(keras: Any, graph: dict[str, Any], folder: Path) -> Any:
    """Build a written model of legacy layers."""
    tensors = {graph["input"]: keras.Input(graph["shape"], name="input")}
    made: dict[str, Any] = {}
    for step in graph["steps"]:
        name = step["name"]
        if name not in made:
            config = dict(step["config"])
            if step["kind"] == "LeakyReLU":
                config["alpha"] = config.pop("negative_slope", 0.3)
            made[name] = getattr(keras.layers, step["kind"])(**config)
        given = [tensors[at] for at in step["takes"]]
        tensors[step["gives"]] = made[name](given if len(given) > 1 else given[0])
    model = keras.Model(tensors[graph["input"]], tensors[graph["output"]], name=graph["name"])
    for step in graph["steps"]:
        made[step["name"]].set_weights([np.load(folder / f"weight{at}.npy") for at in step["weights"]])
    return model


def store(model: Any, graph: dict[str, Any], folder: Path) -> None:
    """Write the weights of a model over those that it was built with."""
    for step in graph["steps"]:
        values = model.get_layer(step["name"]).get_weights()
        for at, value in zip(step["weights"], values, strict=True):
            np.save(folder / f"weight{at}.npy", value, allow_pickle=False)


def fit(
    keras: Any, model: Any, task: dict[str, Any], folder: Path, stage: str, callbacks: tuple[Any, ...] = ()
) -> None:
    """Train as the native steps do: the same order of samples, rate and loss."""
    import tensorflow as tf

    options = task["options"]["fitting"]
    x, y = np.load(folder / "inputs.npy"), np.load(folder / "labels.npy")
    batch = min(options["batch"], len(x))
    steps = len(x) // batch
    total = steps * options["epochs"]
    rate: Any = options["rate"]
    if options["schedule"] == "cosine":
        rise = max(total // 10, 1)
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 40, max(total - rise, 1), warmup_target=rate, warmup_steps=rise
        )
    keras.utils.set_random_seed(options["seed"])
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, keras.layers.BatchNormalization):
            inner.momentum = min(inner.momentum, options["momentum"])
    model.compile(
        keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=task["from_logits"])
    )
    source = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=options["seed"])
    source = source.batch(batch, drop_remainder=True).repeat()
    done = itertools.count(1)
    said = keras.callbacks.LambdaCallback(
        on_batch_end=lambda *_, **__: print(PROGRESS, stage, next(done), total, flush=True)  # noqa: T201 - the parent reads it
    )
    model.fit(source, epochs=options["epochs"], steps_per_epoch=steps, callbacks=[*callbacks, said], verbose=0)


def prune(keras: Any, tfmot: Any, model: Any, task: dict[str, Any], folder: Path) -> Any:
    """Prune by magnitude with a polynomial schedule."""
    options = task["options"]
    count = len(np.load(folder / "labels.npy", mmap_mode="r"))
    total = options["fitting"]["epochs"] * (count // min(options["fitting"]["batch"], count))
    rise = max(int(total * RAMP), 1)
    every = min(EVERY, rise)
    # masks are chosen in multiples of a frequency, the last of which has to be the end, or the share is not reached
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        0.0, options["share"], begin_step=0, end_step=rise // every * every, frequency=every
    )
    wrapped = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_schedule=schedule)
    fit(keras, wrapped, task, folder, "prune", (tfmot.sparsity.keras.UpdatePruningStep(),))
    return tfmot.sparsity.keras.strip_pruning(wrapped)


def cluster(keras: Any, tfmot: Any, model: Any, task: dict[str, Any], folder: Path) -> Any:
    """Share weights; after pruning, zeros stay."""
    options = task["options"]
    wrapped = tfmot.clustering.keras.cluster_weights(
        model,
        number_of_clusters=options["clusters"],
        cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=options["method"] == "pcqat" or task["zeros"],
    )
    fit(keras, wrapped, task, folder, "cluster")
    return tfmot.clustering.keras.strip_clustering(wrapped)


def qat(keras: Any, tfmot: Any, model: Any, task: dict[str, Any], folder: Path) -> Any:
    """Train with fake quantization; after clustering, zeros and clusters stay."""
    quantization = tfmot.quantization.keras
    combine, all_of_it = tfmot.experimental.combine, task["options"]["method"] == "pcqat"
    zeros, clusters = all_of_it or task["zeros"], all_of_it or task["clusters"]
    if zeros or clusters:
        scheme = (
            combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=zeros)
            if clusters
            else combine.Default8BitPrunePreserveQuantizeScheme()
        )
        wrapped = quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)
    else:
        wrapped = quantization.quantize_model(model)
    fit(keras, wrapped, task, folder, "quantize")
    return wrapped


def converted(model: Any, *, integer: bool) -> bytes:
    """Convert to TFLite."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


STAGES = {"prune": prune, "cluster": cluster, "qat": qat}

if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "report.json").write_text(json.dumps(main(target)))
