"""Packing somebody's model, and proving on another machine that it computes the same."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_sdk.bundle import Bundle, GoldenSet, build_bundle
from edge_sdk.cascade import Certificate, Policy
from edge_sdk.errors import (
    BundleFormatError,
    CertificateError,
    GoldenError,
    InputError,
    ModelError,
    ProcessingError,
    SkewError,
    StorageError,
)
from edge_sdk.model import EdgeModel
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from edge_sdk.validity import certified_for
from edge_sdk.verification import verify

MODELS = ["onnx", "int8_logits", "int8_probabilities"]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_members(bundle: Bundle, **changes: object) -> Bundle:
    """Return the bundle with other golden members, well-formed in every other way."""
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    for name, value in changes.items():
        members[f"golden/{name}.npy"] = value if isinstance(value, bytes) else npy(value)
    return build_bundle(bundle.manifest, members)


def onnx_model(node, shape_in, shape_out, dtype=TensorProto.FLOAT, constants=()) -> bytes:
    graph = helper.make_graph(
        [node],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape_in)],
        [helper.make_tensor_value_info("y", dtype, shape_out)],
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_a_policy_is_packed_with_the_model_it_is_certified_for_and_with_no_other(made, tmp_path):
    def policy(**validity: str) -> dict:
        seen = {"n": 300, "harms": 0, "p_value": 0.04, "local_share": 0.5}
        return Policy(0.5, certificate=Certificate(0.01, 0.95, validity=validity, **seen)).to_json()

    own = certified_for(made.pack(tmp_path / "first.edge").manifest)
    assert made.pack(tmp_path / "m.edge", cascade=policy(**own)).manifest.cascade == policy(**own)
    for key in own:
        with pytest.raises(CertificateError, match=f"certified for another {key.replace('_', ' ')}; certify this one"):
            made.pack(tmp_path / "n.edge", cascade=policy(**{**own, key: "another"}))
    with pytest.raises(CertificateError, match="certified for another edge model"):
        made.pack(tmp_path / "n.edge", cascade=policy())
    with pytest.raises(CertificateError, match="policy format 2 cannot be read"):
        made.pack(tmp_path / "n.edge", cascade={**policy(**own), "format": 2})
    assert not (tmp_path / "n.edge").exists()


@pytest.mark.parametrize("model", MODELS)
def test_a_packed_bundle_verifies_and_says_how_well(made, tmp_path, model):
    result = verify(made.pack(tmp_path / "m.edge", model))
    assert result == {"examples": 4, "processed_error": 0.0, "output_error": 0.0}


@pytest.mark.parametrize("model", MODELS)
def test_packing_twice_gives_the_same_bytes(made, tmp_path, model):
    first, again = made.pack(tmp_path / "a.edge", model), made.pack(tmp_path / "b.edge", model)
    assert first.path.read_bytes() == again.path.read_bytes()


def test_the_quantize_step_comes_from_the_model(made, tmp_path):
    manifest = made.pack(tmp_path / "m.edge").manifest
    assert manifest.processing["steps"][-1] == {"op": "quantize", "dtype": "int8", "scale": 1.0, "zero_point": -128}
    assert (manifest.artifacts[0].file, manifest.artifacts[0].precision) == ("model.tflite", "int8")
    assert manifest.requirements == {"runtime": "litert"}


def test_a_quantize_step_that_disagrees_with_the_model_is_refused(made, tmp_path):
    with pytest.raises(ModelError, match="quantizes with scale and zero point"):
        made.pack(tmp_path / "m.edge", processing=made.processing.with_quantize("int8", 1 / 255, -128))
    assert list(tmp_path.iterdir()) == []
    made.pack(tmp_path / "m.edge", processing=made.processing.with_quantize("int8", 1.0, -128))


def test_golden_frames_are_those_given(made, pictures, tmp_path):
    bundle = made.pack(tmp_path / "m.edge", golden_inputs=list(pictures[0][:3]))
    golden = GoldenSet.from_bundle(bundle)
    np.testing.assert_array_equal(np.stack(golden.inputs), pictures[0][:3])
    with EdgeModel(bundle) as model:
        np.testing.assert_array_equal(golden.outputs[0], [model.infer(f).probabilities for f in pictures[0][:3]])
        np.testing.assert_array_equal(golden.processed, np.concatenate([model.processor(f) for f in pictures[0][:3]]))


def test_the_card_tells_what_was_packed(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge", metrics={"accuracy": 0.9}, lineage={"teacher": {"digest": "sha256:ab"}})
    card = bundle.read("MODEL_CARD.md").decode()
    for part in ("# colours 1.0.0", "red, green, blue", "- accuracy: 0.9", "- teacher.digest: sha256:ab"):
        assert part in card
    assert bundle.manifest.model_digest in card
    assert "the device answers alone" in card
    certified = bundle.rewrite(tmp_path / "c.edge", cascade={"threshold": 0.123456789, "certificate": {"n": 300}})
    card = certified.read("MODEL_CARD.md").decode()
    assert "- threshold: 0.123457\n- certificate.n: 300\n" in card


@pytest.mark.parametrize("model", ["onnx", "int8_logits"])
def test_logits_called_probabilities_are_refused(made, tmp_path, model):
    with pytest.raises(ModelError, match=r"not probabilities.*are they logits"):
        made.pack(tmp_path / "m.edge", model, output="probabilities")
    assert list(tmp_path.iterdir()) == []


def test_probabilities_called_logits_are_refused(made, tmp_path):
    with pytest.raises(ModelError, match="its outputs are probabilities"):
        made.pack(tmp_path / "m.edge", "int8_probabilities", output="logits")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_nan_is_refused(tmp_path):
    log = helper.make_node("Log", ["x"], ["y"])
    spec = ProcessingSpec.image(1, 3, 1, mean=300.0)
    data = onnx_model(log, ["n", 1, 3, 1], ["n", 1, 3, 1])
    with pytest.raises(ModelError, match="NaN or an infinity"):
        pack(
            data,
            runtime="onnx",
            path=tmp_path / "m.edge",
            name="m",
            version="1.0.0",
            labels="abc",
            processing=spec,
            output="logits",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_output_is_not_one_row_of_classes_is_refused(tmp_path):
    spec = ProcessingSpec.image(4, 3, 1)
    per_pixel = onnx_model(helper.make_node("Relu", ["x"], ["y"]), ["n", 4, 3, 1], ["n", 4, 3, 1])
    squeezed = onnx_model(helper.make_node("ReduceMean", ["x"], ["y"], axes=[0, 1, 3], keepdims=0), [1, 4, 3, 1], [3])
    for data, shape in ((per_pixel, r"\[-1, 4, 3, 1\]"), (squeezed, r"\[3\]")):
        with pytest.raises(ModelError, match=rf"output is {shape}; for 3 labels"):
            pack(
                data,
                runtime="onnx",
                path=tmp_path / "m.edge",
                name="m",
                version="1.0.0",
                labels="abc",
                processing=spec,
                output="logits",
            )


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"name": "My Model"}, InputError, "name is 'My Model'"),
        ({"version": "1"}, InputError, "version is '1'"),
        ({"labels": ()}, InputError, "labels are empty"),
        ({"labels": ("a", "b", "a")}, InputError, "a name twice"),
        ({"labels": ("a", "b")}, ModelError, "for 2 labels"),
        ({"output": "votes"}, InputError, "output is 'votes'"),
        ({"runtime": "magic"}, ModelError, "there is no runtime 'magic'"),
        ({"runtime": None}, InputError, "say which runtime"),
        ({"golden_inputs": []}, InputError, "0 golden inputs"),
        ({"golden_inputs": [np.zeros((4, 4), np.float32)]}, (InputError, ProcessingError), "uint8"),
        ({"metrics": {"accuracy": float("nan")}}, InputError, "not a JSON value"),
        ({"processing": ProcessingSpec.image(9, 9, 3, std=1.0)}, ModelError, "the model takes"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_and_nothing_is_written(made, tmp_path, change, error, why):
    with pytest.raises(error, match=why):
        made.pack(tmp_path / "m.edge", **change)
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_is_recognised_by_its_suffix_and_a_missing_one_is_named(made, tmp_path):
    arguments = {
        "name": "m",
        "version": "1.0.0",
        "labels": made.labels,
        "processing": made.processing,
        "output": "logits",
    }
    path = tmp_path / "m.onnx"
    path.write_bytes(made.onnx)
    assert pack(path, path=tmp_path / "m.edge", **arguments).manifest.artifacts[0].runtime == "onnx"
    with pytest.raises(InputError, match=r"there is no model file at .*none\.onnx"):
        pack(tmp_path / "none.onnx", path=tmp_path / "n.edge", **arguments)
    with pytest.raises(InputError, match=r"should end in \.tflite or \.onnx"):
        pack(tmp_path / "m.pt", path=tmp_path / "n.edge", **arguments)
    assert not (tmp_path / "n.edge").exists()


def test_a_failed_packing_leaves_the_bundle_that_was_there(made, tmp_path, read_only_folder):
    before = made.pack(tmp_path / "m.edge").path.read_bytes()
    with pytest.raises(ModelError):
        made.pack(tmp_path / "m.edge", "int8_logits", output="probabilities")
    assert (tmp_path / "m.edge").read_bytes() == before
    with pytest.raises(StorageError, match="cannot write"):
        made.pack(read_only_folder / "m.edge")
    assert list(read_only_folder.iterdir()) == []


# ---- verify


def test_other_golden_answers_are_noticed(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    golden = GoldenSet.from_bundle(bundle)
    spoilt = golden.outputs[0].copy()
    spoilt[2] = spoilt[2][[1, 2, 0]] + np.float32(0.1)
    with pytest.raises(GoldenError, match="golden example 2 differs by"):
        verify(with_members(bundle, outputs=spoilt))
    with pytest.raises(GoldenError, match="golden example 0 differs by nan"):
        verify(with_members(bundle, outputs=np.full_like(golden.outputs[0], np.nan)))
    with pytest.raises(GoldenError, match="golden example 0 differs by inf"):
        verify(with_members(bundle, outputs=golden.outputs[0][:, :2]))


def test_other_processed_tensors_are_noticed_as_skew(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    golden = GoldenSet.from_bundle(bundle)
    spoilt = golden.processed.copy()
    spoilt[1, 3, 3, 0] ^= 0x0F
    with pytest.raises(SkewError, match="processing of golden example 1 differs"):
        verify(with_members(bundle, processed=spoilt))
    with pytest.raises(SkewError, match="example 0 differs by inf"):
        verify(with_members(bundle, processed=golden.processed[:, :4]))


def test_differences_within_tolerance_pass_and_are_told(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    golden = GoldenSet.from_bundle(bundle)
    near = golden.outputs[0] + np.float32(bundle.manifest.golden.output_atol / 2)
    result = verify(with_members(bundle, outputs=near))
    assert result["output_error"] == pytest.approx(bundle.manifest.golden.output_atol / 2, rel=1e-3)


def header_of(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an array",
        b"PK\x03\x04" + bytes(100),
        header_of((4, 10**12)),
        header_of((4, 3)) + bytes(47),
        header_of((4, 3)) + bytes(49),
        npy(np.float32(1)),
        npy(np.zeros(4, np.float32)),
        npy(np.zeros((3, 3), np.float32)),
        npy(np.zeros((4, 3), "U5")),
        npy(np.zeros((4, 0), np.float32)),
    ],
    ids=["empty", "text", "zip", "huge", "short", "long", "scalar", "flat", "few", "words", "hollow"],
)
def test_golden_members_that_are_no_arrays_are_refused(made, tmp_path, content):
    bundle = made.pack(tmp_path / "m.edge")
    with pytest.raises(BundleFormatError, match=r"golden/outputs\.npy"):
        verify(with_members(bundle, outputs=content))


def test_golden_members_that_hold_pickled_objects_are_refused(made, tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}] * 4, dtype=object), allow_pickle=True)
    with pytest.raises(BundleFormatError, match="is not an array"):
        verify(with_members(made.pack(tmp_path / "m.edge"), outputs=stream.getvalue()))


def test_a_bundle_without_golden_examples_cannot_be_verified(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    for count, why in ((0, "0 golden examples"), (5, "input-004.npy is missing"), (65, "65 golden examples")):
        manifest = replace(bundle.manifest, golden=replace(bundle.manifest.golden, count=count))
        with pytest.raises(BundleFormatError, match=why):
            verify(build_bundle(manifest, members))
