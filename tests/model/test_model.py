"""EdgeModel: from a bundle and a picture to a class."""

from __future__ import annotations

import io
import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import edge_sdk
from edge_sdk.bundle import Bundle, build_bundle
from edge_sdk.cascade import Certificate, Policy
from edge_sdk.encodings import encode_jpeg
from edge_sdk.errors import (
    BundleError,
    CertificateError,
    EdgeSdkError,
    InputError,
    ModelClosedError,
    ModelError,
    ProcessingError,
)
from edge_sdk.model import EdgeModel
from edge_sdk.validity import certified_for

MODELS = ["onnx", "int8_logits", "int8_probabilities"]


def certified(threshold: float, **validity: str) -> Policy:
    return Policy(threshold, certificate=Certificate(0.01, 0.95, 1000, 0, 0.0, 0.5, validity))


def changed(bundle: Bundle, **changes: object) -> Bundle:
    """Return a bundle whose manifest says something else of the same members."""
    members = {name: bundle.read(name) for name in bundle.manifest.files}
    return build_bundle(replace(bundle.manifest, **changes), members)


@pytest.mark.parametrize("model", MODELS)
def test_a_packed_model_classifies_pictures_it_has_not_seen(made, pictures, tmp_path, model):
    made.pack(tmp_path / "m.edge", model)
    with edge_sdk.load(tmp_path / "m.edge") as loaded:
        answers = loaded.predict_many(pictures[0])
    assert np.mean([answer.index == label for answer, label in zip(answers, pictures[1], strict=True)]) > 0.8


def test_the_three_forms_of_one_model_agree(made, pictures, tmp_path):
    rows = {}
    for model in MODELS:
        with EdgeModel(made.pack(tmp_path / f"{model}.edge", model)) as loaded:
            rows[model] = np.stack([loaded.infer(picture).probabilities for picture in pictures[0]])
            np.testing.assert_allclose(rows[model].sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(rows["int8_logits"], rows["onnx"], atol=0.06)
    np.testing.assert_allclose(rows["int8_probabilities"], rows["onnx"], atol=0.06)


def test_an_answer_says_who_what_why_and_how_fast(made, pictures, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    with EdgeModel(bundle) as model:
        answer = model.predict(pictures[0][0])
        assert answer.label == model.labels[answer.index]
        assert answer.index == int(np.argmax(answer.scores))
        assert answer.confidence == pytest.approx(max(answer.scores))
        assert (answer.source, answer.reason, answer.certified) == ("edge", "forced", False)
        assert answer.model_digest == bundle.manifest.model_digest == model.digest
        assert answer.decision_id != model.predict(pictures[0][0]).decision_id
        parts = answer.timing
        assert 0 < parts.pre_ms + parts.infer_ms + parts.post_ms <= parts.total_ms
        assert edge_sdk.Classification(**{**answer.to_dict(), "timing": parts, "scores": answer.scores}) == answer


def test_array_path_bytes_and_pillow_image_give_the_same_answer(made, pictures, tmp_path):
    image = Image.fromarray(pictures[0][0])
    image.save(tmp_path / "p.png")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        frames = [pictures[0][0], tmp_path / "p.png", str(tmp_path / "p.png"), stream.getvalue(), image]
        scores = [model.predict(frame).scores for frame in frames]
    assert len(set(scores)) == 1


def test_a_file_and_its_unpacked_folder_give_the_same_answer(made, pictures, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    bundle.unpack(tmp_path / "slot")
    with edge_sdk.load(tmp_path / "m.edge") as one, edge_sdk.load(tmp_path / "slot") as other:
        for picture in pictures[0][:5]:
            assert one.predict(picture).scores == other.predict(picture).scores


@pytest.mark.parametrize("model", MODELS)
def test_processed_tensors_give_the_answers_of_their_frames(made, pictures, tmp_path, model):
    with EdgeModel(made.pack(tmp_path / "m.edge", model)) as loaded:
        tensors = np.concatenate([loaded.processor(picture) for picture in pictures[0][:6]])
        rows = np.stack([loaded.infer(picture).probabilities for picture in pictures[0][:6]])
        np.testing.assert_allclose(loaded.infer_tensor(tensors), rows, atol=1e-6)
        with pytest.raises(InputError, match="processed tensors should be"):
            loaded.infer_tensor(tensors[:0])
        with pytest.raises(InputError, match="processed tensors should be"):
            loaded.infer_tensor(tensors[:, :4])
        with pytest.raises(ModelError):
            loaded.infer_tensor(tensors.astype(np.float64))


def test_threads_share_one_model_and_get_the_answers_of_one(made, pictures, tmp_path):
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        alone = [model.infer(picture).probabilities for picture in pictures[0]]
        together: dict[int, list[np.ndarray]] = {}

        def work(number: int) -> None:
            together[number] = [model.infer(picture).probabilities for picture in pictures[0]]

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(together) == 6
    for rows in together.values():
        np.testing.assert_array_equal(rows, alone)


def test_a_closed_model_says_so_and_may_be_closed_again(made, pictures, tmp_path):
    model = EdgeModel(made.pack(tmp_path / "m.edge"))
    model.close()
    model.close()
    for call in (model.predict, model.infer):
        with pytest.raises(ModelClosedError, match=r"colours 1\.0\.0 has been closed"):
            call(pictures[0][0])
    with pytest.raises(ModelClosedError):
        model.infer_tensor(np.zeros((1, 8, 8, 3), np.int8))


def test_closing_while_others_predict_raises_nothing_else(made, pictures, tmp_path):
    model = EdgeModel(made.pack(tmp_path / "m.edge"))
    seen: list[Exception] = []
    begun = threading.Barrier(4)

    def work() -> None:
        begun.wait()
        try:
            while True:
                model.predict(pictures[0][0])
        except EdgeSdkError as error:
            seen.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    model.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in seen] == [ModelClosedError] * 3


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3), np.float32), "/nowhere/x.png", b"text", None])
def test_a_wrong_frame_is_refused_and_the_model_goes_on(made, pictures, tmp_path, frame):
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        with pytest.raises(InputError):
            model.predict(frame)
        assert model.predict(pictures[0][0]).label in model.labels


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((0, 24, 3), np.uint8),
        np.zeros((24, 0, 3), np.uint8),
        np.zeros((24, 24, 0), np.uint8),
        np.broadcast_to(np.uint8(7), (10**6, 10**6, 3)),
        np.broadcast_to(np.uint8(7), (1, 2**31, 3)),
        np.zeros((1, 24, 24, 3), np.uint8),
        np.zeros(24, np.uint8),
        np.zeros((24, 24, 3), object),
        np.zeros((24, 24, 3), np.complex64),
        np.full((24, 24, 3), np.nan, np.float32),
        np.array("x"),
    ],
    ids=lambda frame: f"{frame.dtype}{list(frame.shape)}".replace(" ", ""),
)
def test_an_array_that_is_no_picture_is_refused_in_one_line(made, tmp_path, frame):
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model, pytest.raises(InputError) as refused:
        model.predict(frame)
    assert "\n" not in str(refused.value)


def test_frames_of_any_strides_get_the_answer_of_their_copy(made, pictures, tmp_path):
    wide = np.zeros((48, 60, 4), np.uint8)
    wide[::2, 5:53:2, :3] = pictures[0][0]
    frames = [wide[::2, 5:53:2, :3], pictures[0][0][::-1], pictures[0][0][:, ::-1], pictures[0][0].transpose(1, 0, 2)]
    frames += [pictures[0][0][..., ::-1], np.asfortranarray(pictures[0][0]), pictures[0][0][:1].repeat(24, 0)]
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        for frame in frames:
            want = model.infer(np.ascontiguousarray(frame)).probabilities
            np.testing.assert_array_equal(model.infer(frame).probabilities, want)


def test_a_jpeg_that_is_cut_anywhere_is_refused_and_the_model_goes_on(made, pictures, tmp_path):
    whole = encode_jpeg(pictures[0][0])
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        for end in range(0, len(whole) - 2, 7):
            with pytest.raises(InputError):
                model.predict(whole[:end])
        assert model.predict(whole).label in model.labels


# ---- the policy it carries


def test_the_policy_decides_and_the_certificate_is_said(made, pictures, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    digest = bundle.manifest.model_digest
    reasons = {}
    for name, policy in {
        "keeps": certified(0.0, edge_model=digest),
        "escalates": certified(1.1, edge_model=digest),
        "bare": Policy(0.0),
    }.items():
        with EdgeModel(changed(bundle, cascade=policy.to_json())) as model:
            answer = model.predict(pictures[0][0])
            reasons[name] = (answer.reason, answer.certified)
    assert reasons == {"keeps": ("confident", True), "escalates": ("forced", False), "bare": ("confident", False)}


@pytest.mark.parametrize("validity", [{"edge_model": "sha256:" + "0" * 64}, {}], ids=["another", "unnamed"])
def test_a_certificate_that_does_not_name_the_model_is_void(made, pictures, tmp_path, caplog, validity):
    bundle = made.pack(tmp_path / "m.edge")
    foreign = changed(bundle, cascade=certified(0.0, **validity).to_json())
    with caplog.at_level(logging.WARNING, "edge_sdk.model"), EdgeModel(foreign) as model:
        answer = model.predict(pictures[0][0])
    assert (answer.reason, answer.certified) == ("confident", False)
    assert "void" in caplog.text


@pytest.mark.parametrize("changes", ["processing", "runtime", "delegate"])
def test_a_certificate_for_another_way_of_running_the_model_is_void(made, pictures, tmp_path, caplog, changes):
    bundle = made.pack(tmp_path / "m.edge")
    validity = certified_for(bundle.manifest)
    with EdgeModel(changed(bundle, cascade=certified(0.0, **validity).to_json())) as model:
        assert model.predict(pictures[0][0]).certified
    foreign = changed(bundle, cascade=certified(0.0, **{**validity, changes: "another"}).to_json())
    with caplog.at_level(logging.WARNING, "edge_sdk.model"), EdgeModel(foreign) as model:
        assert not model.predict(pictures[0][0]).certified
    assert f"its certificate is for another {changes}, and void" in caplog.text


def test_a_policy_from_the_future_is_refused(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    with pytest.raises(CertificateError, match="policy format 2"):
        EdgeModel(changed(bundle, cascade={"format": 2}))


def test_probabilities_that_were_all_rounded_to_zero_are_nobodys(made, tmp_path):
    with EdgeModel(made.pack(tmp_path / "m.edge")) as model:
        row = model._reader.probabilities(np.full((1, 3), -128, np.int8))
    np.testing.assert_allclose(row, 1 / 3)
    assert Policy(0.5).decide(row[0]).escalate


# ---- a model that is not what its manifest says


def test_a_manifest_of_other_tensors_is_refused(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    artifact = bundle.manifest.artifacts[0]
    for change in (
        {"inputs": (replace(artifact.inputs[0], scale=0.5),)},
        {"outputs": (replace(artifact.outputs[0], dtype="uint8"),)},
        {"inputs": (replace(artifact.inputs[0], shape=(1, 9, 8, 3)),)},
    ):
        with pytest.raises(ModelError, match="not those of its manifest"):
            EdgeModel(changed(bundle, artifacts=(replace(artifact, **change),)))


def test_processing_that_does_not_fit_the_model_is_refused(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    for spec, why in (
        (edge_sdk.ProcessingSpec.image(9, 8, 3, std=1.0).with_quantize("int8", 1.0, -128), "the model takes"),
        (edge_sdk.ProcessingSpec.image(8, 8, 3, std=1.0), "processing gives float32"),
        (made.processing.with_quantize("int8", 0.5, -128), "quantizes with scale and zero point"),
        (made.processing.with_quantize("int8", 1.0, 0), "quantizes with scale and zero point"),
    ):
        with pytest.raises(ModelError, match=why):
            EdgeModel(changed(bundle, processing=spec.to_json()))
    with pytest.raises(ProcessingError, match="unknown step"):
        EdgeModel(changed(bundle, processing={"steps": [{"op": "bless"}]}))


def test_labels_that_are_not_as_many_as_the_outputs_are_refused(made, tmp_path):
    bundle = made.pack(tmp_path / "m.edge")
    with pytest.raises(ModelError, match=r"output is \[1, 3\]; for 2 labels it should be \[1, 2\]"):
        EdgeModel(changed(bundle, labels=("red", "green")))


def test_a_bundle_that_is_none_is_refused_by_path(tmp_path):
    with pytest.raises(InputError, match="there is no bundle at"):
        edge_sdk.load(tmp_path / "none.edge")
    (tmp_path / "text.edge").write_text("hello")
    with pytest.raises(BundleError, match=r"text\.edge: this is not a \.edge bundle"):
        edge_sdk.load(tmp_path / "text.edge")


@pytest.mark.parametrize("wrong", [None, 3, io.StringIO("text")], ids=["None", "number", "text"])
def test_what_is_no_bundle_at_all_is_refused_by_its_type(wrong):
    with pytest.raises(InputError, match="a bundle"):
        edge_sdk.load(wrong)


def test_a_file_that_has_been_closed_is_refused_and_any_buffer_is_read(made, tmp_path):
    made.pack(tmp_path / "m.edge")
    with (tmp_path / "m.edge").open("rb") as file:
        pass
    with pytest.raises(InputError, match="cannot read the bundle: read of closed file"):
        edge_sdk.load(file)
    with edge_sdk.load(bytearray((tmp_path / "m.edge").read_bytes())) as model:
        assert model.name == "colours"


def test_a_tensor_of_another_batch_or_no_array_is_refused(made, tmp_path):
    made.pack(tmp_path / "m.edge", "onnx")
    with edge_sdk.load(tmp_path / "m.edge") as model:
        shape, dtype = model.processor.spec.output_shape, model.processor.spec.output_dtype
        assert model.predict_tensor(np.zeros(shape, dtype)).label in model.labels
        for wrong in (np.zeros((2, *shape[1:]), dtype), np.zeros((0, *shape[1:]), dtype), [0.0], None):
            with pytest.raises(ModelError, match="a processed tensor is "):
                model.predict_tensor(wrong)
        for wrong in ([0.0], None):
            with pytest.raises(ModelError, match="a processed tensor is an array, not "):
                model.run(wrong)
            with pytest.raises(InputError, match="processed tensors should be "):
                model.infer_tensor(wrong)
