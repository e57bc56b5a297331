"""What a manifest must say, and how it is refused when it does not."""

from __future__ import annotations

import contextlib
import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_sdk import canonical
from edge_sdk.bundle import FORMAT, Bundle, Detector
from edge_sdk.bundle.archive import decode, encode
from edge_sdk.errors import BundleError, BundleFormatError, BundleVersionError, InputError


def at(path: str, value: object):
    """Return a change that sets one field, named by keys and positions with dots between."""

    def change(document):
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in way:
            document = document[part]
        document[last] = value

    return change


def test_a_newer_major_format_is_refused_by_its_number(with_manifest):
    with pytest.raises(BundleVersionError, match=r"format 2\.7 cannot be read; this SDK reads 1\.x"):
        Bundle.from_bytes(with_manifest(at("format", {"major": 2, "minor": 7})))


def test_a_newer_minor_format_with_unknown_fields_is_read(tmp_path, with_manifest):
    def newer(document):
        document["format"] = {"major": 1, "minor": 9, "name": "next"}
        document["colour"] = {"of": "the future"}
        document["golden"]["more"] = 1
        document["artifacts"][0]["delegate"] = "npu"

    bundle = Bundle.from_bytes(with_manifest(newer))
    assert bundle.manifest.format == (1, 9)
    assert bundle.manifest.name == "digits"
    folder = bundle.unpack(tmp_path / "slot")
    assert folder.digest == bundle.digest, "unpacking keeps what it does not understand"
    copied = bundle.rewrite(tmp_path / "copy.edge", version="1.2.4")
    assert copied.manifest.format == FORMAT, "a copy without the new fields does not claim the new format"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("format", 1, "manifest.format"),
        ("format.major", "1", "format.major"),
        ("format.minor", -1, "format.minor"),
        ("format.major", True, "format.major"),
        ("name", "Digits", "manifest.name"),
        ("name", "../digits", "manifest.name"),
        ("name", 7, "manifest.name"),
        ("version", "1.2", "manifest.version"),
        ("version", "1.2.3\n", "manifest.version"),
        ("task", "mind-reading", "manifest.task"),
        ("labels", "zero", "manifest.labels"),
        ("labels", ["zero", ""], "manifest.labels"),
        ("labels", ["zero", 1], "manifest.labels"),
        ("labels", ["zero", "zero"], "manifest.labels"),
        ("labels", ["zero", "\x1b[2Jone"], "manifest.labels"),
        ("processing", [], "manifest.processing"),
        ("artifacts", [], "manifest.artifacts"),
        ("artifacts", ["model.tflite"], "artifacts[0]"),
        ("artifacts.0.file", "../model", "artifacts[0].file"),
        ("artifacts.0.file", "MODEL_CARD.md", "MODEL_CARD.md"),
        ("artifacts.0.runtime", "no name", "artifacts[0].runtime"),
        ("artifacts.0.sha256", "sha256:00", "artifacts[0].sha256"),
        ("artifacts.0.size", 1.5, "artifacts[0].size"),
        ("artifacts.0.size", 7, "model.tflite"),
        ("artifacts.0.inputs", [], "model.tflite"),
        ("artifacts.0.outputs", [], "model.tflite"),
        ("artifacts.0.inputs.0.shape", [1, -2], "artifacts[0].inputs.shape"),
        ("artifacts.0.inputs.0.shape", [1] * 9, "artifacts[0].inputs.shape"),
        ("artifacts.0.inputs.0.dtype", "object", "artifacts[0].inputs.dtype"),
        ("artifacts.0.inputs.0.scale", None, "artifacts[0].inputs"),
        ("artifacts.0.inputs.0.scale", 0.0, "artifacts[0].inputs"),
        ("artifacts.0.inputs.0.scale", "1", "artifacts[0].inputs.scale"),
        ("outputs", "feelings", "manifest.outputs"),
        ("cascade", 1, "manifest.cascade"),
        ("golden.count", -1, "golden.count"),
        ("golden.output_atol", "0", "golden.output_atol"),
        ("golden.output_atol", 10**400, "golden.output_atol"),
        ("golden.processed_atol", -0.5, "golden.processed_atol"),
        ("files", {"manifest.json": "sha256:" + "0" * 64}, "manifest.files"),
        ("files", {"../x": "sha256:" + "0" * 64}, "manifest.files"),
        ("files", {"model.tflite": "md5:00"}, "manifest.files"),
        ("lineage", None, "manifest.lineage"),
        ("metrics", [1], "manifest.metrics"),
        ("requirements", "numpy", "manifest.requirements"),
        ("model_digest", "sha256:" + "0" * 64, "manifest.model_digest"),
    ],
)
def test_a_field_that_cannot_be_is_refused_by_name(with_manifest, path, value, named):
    with pytest.raises(BundleError) as caught:
        Bundle.from_bytes(with_manifest(at(path, value)))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["format", "name", "version", "labels", "processing", "artifacts", "golden", "files"])
def test_a_field_that_is_missing_is_named(with_manifest, field):
    with pytest.raises(BundleFormatError, match=rf"manifest\.{field} is missing"):
        Bundle.from_bytes(with_manifest(lambda document: document.pop(field)))


def test_a_whole_number_does_for_a_scale(with_manifest):
    manifest = Bundle.from_bytes(with_manifest(at("artifacts.0.inputs.0.scale", 1))).manifest
    assert manifest.artifacts[0].inputs[0].scale == 1.0


def test_changed_processing_is_noticed_by_the_model_digest(with_manifest):
    with pytest.raises(BundleFormatError, match="model_digest"):
        Bundle.from_bytes(with_manifest(at("processing.steps.0.mode", "rgb")))


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2]",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"\xff\xfe{}",
        b"",
        b'{"a": 1} x',
    ],
    ids=["list", "repeated", "nan", "infinity", "overflow", "surrogate", "digits", "deep", "utf-16", "empty", "more"],
)
def test_hostile_json_is_refused(text):
    with pytest.raises(BundleFormatError):
        Bundle.from_bytes(encode({"manifest.json": text}))


@pytest.mark.parametrize("text", [b'{"a": 1e999}', b'"\\udc00"', b"9" * 5000, b'{"a":1,"a":2}', b"[" * 100_000])
def test_json_that_canonical_json_cannot_say_is_refused(text):
    with pytest.raises(InputError, match=r"not (a )?JSON"):
        canonical.loads(text)


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_json_is_nested_a_hundred_deep_and_no_deeper(left, right):
    value = canonical.loads(f"{left * 99}[]{right * 99}".encode())
    assert canonical.loads(canonical.dumps(value)) == value
    with pytest.raises(InputError, match="deep"):
        canonical.loads(f"{left * 100}[]{right * 100}".encode())


def test_canonical_json_is_sorted_dense_and_exact():
    assert canonical.dumps({"b": 0.1, "a": [1, None, "é"]}) == '{"a":[1,null,"é"],"b":0.1}'.encode()
    assert canonical.loads(b'"\\u00e9\\ud83d\\ude00"') == "é😀"
    with pytest.raises(InputError):
        canonical.dumps({"a": float("nan")})
    with pytest.raises(InputError):
        canonical.dumps({"a": object()})
    with pytest.raises(InputError, match="over the limit of 3"):
        canonical.loads(b"[1, 2]", limit=3)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_canonical_json_says_again_what_it_was_told(value):
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert canonical.dumps(canonical.loads(data)) == data


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_any_field_replaced_by_anything_is_read_or_refused(archive, data):
    members = {name: bytes(content) for name, content in decode(archive).items()}
    document = canonical.loads(members["manifest.json"])
    place, parent = copy.deepcopy(document), None
    root = place
    while isinstance(place, dict | list) and place and (parent is None or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else 0
        parent, place = (place, key), place[key]
    parent[0][parent[1]] = data.draw(JSON)
    with contextlib.suppress(BundleError):
        bundle = Bundle.from_bytes(encode({**members, "manifest.json": canonical.dumps(root)}))
        assert bundle.manifest.to_bytes()


# ---- tasks beside classification

DETECTION = {
    "decoder": "ssd",
    "score_threshold": 0.5,
    "iou_threshold": 0.5,
    "max_detections": 10,
    "normalized": True,
    "boxes": 1,
    "scores": 0,
    "anchors": None,
    "variances": [0.1, 0.2],
    "order": "yx",
    "background": True,
}


def as_detector(**changes: object):
    """Return a change that makes a manifest a detector's; ``changes`` are of its ``detection``."""

    def change(document):
        detection = {**DETECTION, **changes}
        document.update(task="detection", outputs="tensors", detection=detection)
        document["golden"]["output_atols"] = [0.5]
        document["model_digest"] = "sha256:" + "0" * 64
        if "anchors" not in changes:
            with contextlib.suppress(InputError):
                document["model_digest"] = canonical.digest_of(
                    {
                        "artifacts": [artifact["sha256"] for artifact in document["artifacts"]],
                        "processing": document["processing"],
                        "detection": Detector.from_json(detection).to_json(),
                        "anchors": None,
                    }
                )

    return change


def test_a_detector_says_how_its_outputs_are_read(tmp_path, with_manifest):
    bundle = Bundle.from_bytes(with_manifest(as_detector()))
    assert bundle.manifest.detection == Detector.from_json(DETECTION)
    assert bundle.manifest.detection.to_json() == DETECTION
    copy = bundle.rewrite(tmp_path / "copy.edge", version="1.2.4")
    assert (copy.manifest.detection, copy.manifest.golden) == (bundle.manifest.detection, bundle.manifest.golden)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder", "magic"),
        ("decoder", None),
        ("score_threshold", 1.5),
        ("score_threshold", "high"),
        ("iou_threshold", -0.1),
        ("iou_threshold", True),
        ("max_detections", 0),
        ("max_detections", 10**9),
        ("max_detections", 1.5),
        ("normalized", 1),
        ("boxes", -1),
        ("boxes", 256),
        ("scores", 1),
        ("anchors", "anchors.npy"),
        ("anchors", "../anchors"),
        ("anchors", 7),
        ("variances", [0.1]),
        ("variances", [0.1, 0.0]),
        ("variances", "ab"),
        ("variances", [0.1, 10**400]),
        ("order", "yz"),
        ("background", "yes"),
        ("colour", "red"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused_by_name(with_manifest, key, value):
    with pytest.raises(BundleFormatError, match=rf"manifest\.detection\.{key}"):
        Bundle.from_bytes(with_manifest(as_detector(**{key: value})))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda document: document.update(detection={"decoder": "yolo"}), "for no other"),
        (lambda document: document.update(task="detection", outputs="tensors"), "should be there for the task"),
        (lambda document: document.update(task="detection"), "manifest.outputs"),
        (lambda document: document.update(task="embedding", outputs="tensors"), "2 names"),
        (lambda document: document.update(labels=[]), "0 names"),
        (lambda document: document.update(task="embedding", outputs="tensors", labels=[]), "0 numbers for 1 outputs"),
        (lambda document: document["golden"].update(output_atols=[0.1]), "1 numbers for 1 outputs"),
        (lambda document: document["golden"].update(output_atols=["x"]), "output_atols"),
        (lambda document: document["golden"].update(output_atols=[-1]), "output_atols"),
        (as_detector(decoder="yolo"), "detection.boxes is for the decoder ssd"),
    ],
)
def test_what_belongs_to_another_task_is_refused(with_manifest, change, why):
    with pytest.raises(BundleFormatError, match=why):
        Bundle.from_bytes(with_manifest(change))


def test_other_thresholds_are_noticed_by_the_model_digest(with_manifest):
    def relaxed(document):
        as_detector()(document)
        document["detection"]["score_threshold"] = 0.01

    with pytest.raises(BundleFormatError, match="model_digest"):
        Bundle.from_bytes(with_manifest(relaxed))
