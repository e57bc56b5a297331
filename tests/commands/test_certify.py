"""``edge-sdk certify``: two bundles and data in, a promise out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import edge_sdk
from edge_sdk.bundle import Bundle
from edge_sdk.cascade import Policy
from edge_sdk.cascade.evaluation import harm
from edge_sdk.datasets import Splits, load_splits
from edge_sdk.packing import pack
from edge_sdk.processing import ProcessingSpec
from outside.bundles import CLASSES, SIDE, tiny_onnx, train_tiny
from outside.services import edge_sdk as run

SPEC = ProcessingSpec.image(SIDE, SIDE, 3)
LOSS = 0.05


@dataclass(frozen=True)
class Pair:
    """A weaker and a better model of the same task, and data that neither was trained on."""

    edge: Path
    cloud: Path
    data: str
    splits: Splits

    def certify(self, out: Path, *more: object, edge: Path | None = None, data: str | None = None):
        command = ["certify", edge or self.edge, "--cloud", self.cloud, "--data", data or self.data, "-o", out]
        return run(*command, "--max-accuracy-loss", LOSS, *more)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, images) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    np.savez(folder / "data.npz", x=images[0], y=images[1], classes=np.array(CLASSES))
    weights, bias = train_tiny(SPEC)
    noise = np.random.default_rng(0).normal(0, np.abs(weights).mean() * 1.5, weights.shape)
    noisy = (weights + noise).astype(np.float32)
    offset = (bias - 0.325 * noise.sum(axis=0)).astype(np.float32)  # noise that favours no class at the mean level
    for name, model in (("edge", tiny_onnx(noisy, offset)), ("cloud", tiny_onnx(weights, bias))):
        pack(
            model,
            runtime="onnx",
            path=folder / f"{name}.edge",
            name=name,
            version="1.0.0",
            labels=CLASSES,
            processing=SPEC,
            output="logits",
        )
    data = f"npz:{folder / 'data.npz'}"
    return Pair(folder / "edge.edge", folder / "cloud.edge", data, load_splits(data))


@pytest.fixture(scope="module")
def certified(pair, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("certified") / "certified.edge"
    done = pair.certify(out, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return out, json.loads(done.stdout)


def test_the_promise_is_printed_and_is_in_the_bundle(pair, certified):
    out, record = certified
    bundle = Bundle.open(out)
    assert record.pop("bundle") == str(out)
    assert record == bundle.manifest.cascade
    certificate = Policy.from_json(record).certificate
    assert (certificate.max_accuracy_loss, certificate.confidence) == (LOSS, 0.95)
    assert certificate.n == len(pair.splits.calibration)
    assert certificate.validity == {
        "edge_model": Bundle.open(pair.edge).manifest.model_digest,
        "cloud_model": Bundle.open(pair.cloud).manifest.model_digest,
        "cloud_name": "cloud",
        "processing": SPEC.digest,
        "runtime": "onnx",
        "delegate": "default",
        "encoding": "captured",
        "calibration_data": pair.splits.calibration.digest,
    }
    assert bundle.manifest.model_digest == Bundle.open(pair.edge).manifest.model_digest


def test_the_promise_holds_on_test_data_and_answers_stand_under_it(pair, certified):
    test = pair.splits.test
    with edge_sdk.load(certified[0]) as edge, edge_sdk.load(pair.cloud) as cloud:
        answers = edge.predict_many(test.images)
        edge_right = np.array([answer.index for answer in answers]) == test.labels
        cloud_right = np.array([answer.index for answer in cloud.predict_many(test.images)]) == test.labels
        kept = np.array([answer.certified for answer in answers])
    assert 0.05 < kept.mean() < 1.0, "a rule that keeps all or nothing would prove nothing"
    assert cloud_right.mean() > edge_right.mean()
    assert harm(kept, edge_right, cloud_right) / len(test) <= LOSS
    assert {(answer.reason, answer.certified) for answer in answers} == {("confident", True), ("forced", False)}


def test_people_are_told_the_promise_in_words(pair, tmp_path):
    done = pair.certify(tmp_path / "c.edge")
    assert done.returncode == 0
    assert "certified: harm ≤ 0.05 at confidence 0.95" in done.stdout
    assert "answered locally" in done.stdout


def test_another_signal_can_be_chosen_and_devices_decide_by_it(pair, tmp_path):
    done = pair.certify(tmp_path / "c.edge", "--signal", "margin")
    assert (done.returncode, done.stderr) == (0, "")
    assert " on margin, " in done.stdout
    with edge_sdk.load(tmp_path / "c.edge") as edge:
        scored = edge.infer(pair.splits.test.images[0])
        decision, answer = edge.decide(scored), edge.predict(pair.splits.test.images[0])
    assert edge.policy.signal == "margin"
    assert answer.certified == (decision.value >= edge.policy.threshold)
    assert answer.confidence == decision.confidence >= 1 / len(CLASSES), "a probability, whatever the signal"


@pytest.mark.parametrize(
    ("risk", "words"),
    [
        ("net", "certified: net loss of accuracy against the cloud alone ≤ 0.05 at confidence 0.95"),
        ("agreement", "certified: disagreement with the cloud where the edge answers ≤ 0.05 at confidence 0.95"),
    ],
)
def test_another_risk_can_be_bounded_and_is_named(pair, tmp_path, risk, words):
    done = pair.certify(tmp_path / "c.edge", "--risk", risk)
    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout
    assert Policy.from_json(Bundle.open(tmp_path / "c.edge").manifest.cascade).certificate.risk == risk
    assert words.removeprefix("certified: ") in run("inspect", tmp_path / "c.edge").stdout.replace("\n", " ")


def test_certifying_again_gives_the_same_bytes(pair, certified, tmp_path):
    assert pair.certify(tmp_path / "c.edge").returncode == 0
    assert (tmp_path / "c.edge").read_bytes() == certified[0].read_bytes()


def refused(done, out: Path) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-sdk: error: ")
    assert done.stdout == ""
    assert not out.exists()
    return line


def test_too_little_data_is_refused_with_the_number_that_would_do(pair, tmp_path):
    out = tmp_path / "c.edge"
    done = pair.certify(out, "--max-accuracy-loss", 0.001)
    assert "at least 2995 are needed" in refused(done, out)


@pytest.mark.parametrize("side", ["edge", "cloud"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_calibration_data_that_a_model_was_trained_on_is_refused(pair, tmp_path, side, split):
    seen = {"data": "elsewhere", "splits": {split: pair.splits.calibration.digest}}
    bundle = Bundle.open(getattr(pair, side)).rewrite(tmp_path / "seen.edge", lineage=seen)
    out = tmp_path / "c.edge"
    edge, cloud = (bundle.path, pair.cloud) if side == "edge" else (pair.edge, bundle.path)
    done = run("certify", edge, "--cloud", cloud, "--data", pair.data, "-o", out)
    assert f"the calibration data is the {split} split of the {side} bundle" in refused(done, out)


def test_splits_of_another_seed_are_refused_and_those_of_training_are_not(pair, tmp_path):
    lineage = {"data": pair.data, "splits": pair.splits.digests, "split_seed": 0}
    trained = Bundle.open(pair.edge).rewrite(tmp_path / "trained.edge", lineage=lineage).path
    out = tmp_path / "c.edge"
    assert "trained on other splits" in refused(pair.certify(out, "--seed", 1, edge=trained), out)
    assert "trained on other splits" in refused(pair.certify(out, "--limit", 900, edge=trained), out)
    done = pair.certify(out, edge=trained)
    assert (done.returncode, done.stderr) == (0, "")


def test_data_of_other_classes_and_data_that_is_none_are_refused(pair, images, tmp_path):
    np.savez(tmp_path / "other.npz", x=images[0][:600], y=images[1][:600])
    (tmp_path / "text.npz").write_text("hello")
    out = tmp_path / "c.edge"
    for data, why in (
        (f"npz:{tmp_path / 'other.npz'}", "the edge bundle's 3 labels are not the data's 3 classes"),
        (f"npz:{tmp_path / 'text.npz'}", "text.npz"),
        (f"npz:{tmp_path / 'none.npz'}", "cannot read"),
        ("pictures", "unknown data 'pictures'"),
    ):
        assert why in refused(pair.certify(out, data=data), out)


def test_an_impossible_promise_is_refused(pair, tmp_path):
    out = tmp_path / "c.edge"
    assert "max_accuracy_loss is 1.5" in refused(pair.certify(out, "--max-accuracy-loss", 1.5), out)
    assert "confidence is 1.0" in refused(pair.certify(out, "--confidence", 1), out)


def test_an_output_that_cannot_be_written_is_named(pair, unmakeable_path):
    line = refused(pair.certify(unmakeable_path / "c.edge"), unmakeable_path / "c.edge")
    assert f"cannot write {unmakeable_path / 'c.edge'}" in line


def test_a_learned_head_is_used_where_it_is_better_and_said_where_it_is_not(pair, tmp_path):
    done = pair.certify(tmp_path / "c.edge", "--signal", "learned")
    assert (done.returncode, done.stderr) == (0, "")
    policy = Policy.from_json(Bundle.open(tmp_path / "c.edge").manifest.cascade)
    assert policy.signal in {"learned", "max_probability"}
    assert ("was not better on held-out data" in done.stdout) == (policy.head is None)
    assert f" on {policy.signal}, " in done.stdout


# ---- edge-sdk cascade evaluate


def evaluate(pair, *more: object, edge: Path | None = None):
    return run("cascade", "evaluate", edge or pair.edge, "--cloud", pair.cloud, "--data", pair.data, *more)


def test_routers_are_compared_on_the_test_split_beside_the_bundles_own_rule(pair, certified, tmp_path):
    done = evaluate(pair, "--json", "--plot", tmp_path / "routers.png", edge=certified[0])
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads(done.stdout)
    assert record["n"] == len(pair.splits.test)
    by_name = {row["router"]: row for row in record["routers"]}
    assert {"random", "oracle", "max_probability", "margin", "entropy", "energy", "learned"} == set(by_name)
    for share, best in by_name["oracle"]["accuracy"].items():
        assert all(row["accuracy"][share] <= best + 1e-9 for row in by_name.values())
    with edge_sdk.load(certified[0]) as edge:
        kept = np.mean([answer.certified for answer in edge.predict_many(pair.splits.test.images)])
    rule = record["rules"][-1]
    assert rule["name"] == "the bundle's rule on max_probability"
    assert rule["escalated"] == pytest.approx(1 - kept)
    assert rule["harm"] <= LOSS
    assert (tmp_path / "routers.png").read_bytes().startswith(b"\x89PNG")


def test_people_get_a_table_of_routers(pair):
    done = evaluate(pair)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{len(pair.splits.test)} test images; edge ")
    assert [line.split()[0] for line in lines[2:9]][:2] == ["random", "oracle"]
    assert "Sedna Threshold at 0.5: " in done.stdout
    assert "the bundle's rule" not in done.stdout, "this one has none"


@pytest.mark.parametrize("option", ["--plot", "--html"])
def test_a_picture_that_cannot_be_written_is_named(pair, unmakeable_path, option):
    done = evaluate(pair, option, unmakeable_path / "routers")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"cannot write {unmakeable_path / 'routers'}" in line


def test_the_page_shows_every_router_in_a_real_browser_without_a_complaint(pair, certified, tmp_path, browse):
    done = evaluate(pair, "--html", tmp_path / "routers.html", "--encoding", "jpeg", edge=certified[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"wrote {tmp_path / 'routers.html'}" in done.stdout
    page = browse(tmp_path / "routers.html")
    assert page.complaints == ()
    assert "<svg" in page.html
    assert "bytes sent, mean over all inputs (jpeg:95)" in page.html
    for name in ("random", "oracle", "max_probability", "learned", "Sedna CrossEntropy at 0.5", "the bundle's rule on"):
        assert f"<td>{name}" in page.html, name
    assert not re.search(r"(?:src|href)=[\"']https?:", page.html), "it needs nothing else"


def test_bytes_are_what_the_encoding_sends(pair):
    captured, jpeg = (json.loads(evaluate(pair, "--json", "--encoding", e).stdout) for e in ("captured", "jpeg:50"))
    assert (captured["encoding"], jpeg["encoding"]) == ("captured", "jpeg:50")
    for record in (captured, jpeg):
        for row in record["routers"]:
            assert row["curve"]["sent"][0] == 0.0
            assert row["curve"]["sent"][-1] == pytest.approx(record["routers"][0]["curve"]["sent"][-1])
    size = captured["routers"][0]["curve"]["sent"][-1]
    assert size == np.mean([image.nbytes for image in pair.splits.test.images])
    assert jpeg["routers"][0]["curve"]["sent"][-1] < size
    by_name = {row["router"]: row["curve"] for row in captured["routers"]}
    np.testing.assert_allclose(by_name["margin"]["sent"], np.array(by_name["margin"]["share"]) * size)
    rule = captured["rules"][0]
    assert rule["sent"] == pytest.approx(rule["escalated"] * size), "every picture here is as large as any other"


# ---- encodings and strata


def test_the_cloud_is_certified_on_what_it_will_be_sent(pair, certified, tmp_path):
    done = pair.certify(tmp_path / "c.edge", "--encoding", "jpeg:5", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    compressed, captured = Policy.from_json(json.loads(done.stdout)), Policy.from_json(certified[1])
    assert compressed.certificate.validity == {**captured.certificate.validity, "encoding": "jpeg:5"}
    assert compressed.temperature == captured.temperature, "the edge sees what it saw before"
    assert compressed.certificate.disagreements != captured.certificate.disagreements, "the cloud does not"


@pytest.mark.parametrize("bad", ["jpeg:0", "jpeg:101", "jpeg:x", "png", "captured:1"])
def test_an_encoding_that_there_is_not_is_refused(pair, tmp_path, bad):
    out = tmp_path / "c.edge"
    line = refused(pair.certify(out, "--encoding", bad), out)
    assert "it should be captured, resized, jpeg or jpeg:QUALITY" in line or "it should be from 1 to 100" in line


def test_one_promise_is_made_for_all_encodings_of_a_ladder(pair, certified, tmp_path):
    several = ("--encoding", "captured,jpeg:60", "--encoding", "jpeg:5,resized")
    done = pair.certify(tmp_path / "c.edge", *several, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    ladder, one = (Policy.from_json(json.loads(text)).certificate for text in (done.stdout, json.dumps(certified[1])))
    assert ladder.encodings == ("captured", "jpeg:60", "jpeg:5", "resized")
    assert one.encodings == ("captured",)
    assert ladder.validity == one.validity, "readers of one encoding hold it for the best"
    assert ladder.harms <= one.harms or ladder.local_share <= one.local_share
    captured, fine, coarse, resized = ladder.rungs
    assert captured.mean_bytes > resized.mean_bytes == SIDE * SIDE * 3
    assert captured.cloud_accuracy == pytest.approx(resized.cloud_accuracy, abs=0.02)
    assert captured.cloud_accuracy > coarse.cloud_accuracy
    assert coarse.mean_bytes < fine.mean_bytes
    assert max(rung.harms for rung in ladder.rungs) <= ladder.harms
    assert "captured, jpeg:60, jpeg:5, resized" in run("inspect", tmp_path / "c.edge").stdout
    words = pair.certify(tmp_path / "d.edge", *several).stdout
    assert f"as jpeg:5: cloud {coarse.cloud_accuracy:.2%} right, {coarse.mean_bytes:,.0f} bytes each" in words


@pytest.mark.parametrize("bad", ["captured,captured", "jpeg:60,", "jpeg,jpeg:95"])
def test_a_ladder_with_a_rung_twice_or_none_is_refused(pair, tmp_path, bad):
    out = tmp_path / "c.edge"
    line = refused(pair.certify(out, "--encoding", bad), out)
    assert "is there twice" in line or "encoding is" in line


def test_what_is_no_picture_is_not_sent_as_one(pair, images, tmp_path):
    np.savez(tmp_path / "rows.npz", x=images[0].astype(np.float32), y=images[1], classes=np.array(CLASSES))
    out, data = tmp_path / "c.edge", f"npz:{tmp_path / 'rows.npz'}"
    assert "only pictures can be sent as jpeg:95" in refused(pair.certify(out, "--encoding", "jpeg", data=data), out)
    done = run("cascade", "evaluate", pair.edge, "--cloud", pair.cloud, "--data", data, "--encoding", "jpeg")
    assert done.returncode == 2
    assert "only pictures can be sent as jpeg:95" in done.stderr


@pytest.mark.parametrize("strata", ["class", "answer"])
def test_the_promise_can_be_made_for_every_class_by_itself(pair, tmp_path, strata):
    done = pair.certify(tmp_path / "c.edge", "--strata", strata, "--max-accuracy-loss", 0.1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in each of 3 strata" in done.stdout
    certificate = Policy.from_json(Bundle.open(tmp_path / "c.edge").manifest.cascade).certificate
    assert sorted(stratum.name for stratum in certificate.strata) == sorted(CLASSES)
    calibration = pair.splits.calibration
    with edge_sdk.load(pair.edge) as edge:
        said = np.array([edge.predict(image).index for image in calibration.images])
    of = calibration.labels if strata == "class" else said
    counted = {CLASSES[k]: int(count) for k, count in enumerate(np.bincount(of))}
    assert {stratum.name: stratum.n for stratum in certificate.strata} == counted
    for stratum in certificate.strata:
        assert f"{stratum.name}: {stratum.n} samples" in done.stdout


def test_the_promise_can_be_made_for_every_group_that_the_data_names(pair, images, tmp_path):
    night = images[0].mean(axis=(1, 2, 3)) < np.median(images[0].mean(axis=(1, 2, 3)))
    names = np.where(night, "night", "day")
    np.savez(tmp_path / "data.npz", x=images[0], y=images[1], classes=np.array(CLASSES), strata=names)
    out = tmp_path / "c.edge"
    done = pair.certify(out, "--strata", "data", data=f"npz:{tmp_path / 'data.npz'}")
    assert (done.returncode, done.stderr) == (0, "")
    strata = Policy.from_json(Bundle.open(out).manifest.cascade).certificate.strata
    calibration = load_splits(f"npz:{tmp_path / 'data.npz'}").calibration
    dark = calibration.images.mean(axis=(1, 2, 3)) < np.median(images[0].mean(axis=(1, 2, 3)))
    assert {stratum.name: stratum.n for stratum in strata} == {"day": (~dark).sum(), "night": dark.sum()}
    assert calibration.digest == pair.splits.calibration.digest, "names make it no other data"
    none = tmp_path / "none.edge"
    assert "names no strata" in refused(pair.certify(none, "--strata", "data"), none)
    np.savez(tmp_path / "bad.npz", x=images[0], y=images[1], classes=np.array(CLASSES), strata=names[:5])
    line = refused(pair.certify(none, "--strata", "data", data=f"npz:{tmp_path / 'bad.npz'}"), none)
    assert "bad.npz: strata is <U5 [5]; expected 2400 names" in line


def test_a_class_of_too_few_samples_is_named(pair, tmp_path):
    out = tmp_path / "c.edge"
    line = refused(pair.certify(out, "--strata", "class", "--max-accuracy-loss", 0.01), out)
    assert "stratum " in line
    assert "at least 299 are needed" in line


def test_a_stratum_that_calibration_never_saw_is_refused_and_not_left_out(pair, images, tmp_path):
    splits, out = pair.splits, tmp_path / "c.edge"
    rare = np.array(["usual"] * len(images[1]), dtype="<U5")
    x, y = images
    seen = {image.tobytes() for image in splits.calibration.images}
    unseen = [n for n in range(len(x)) if x[n].tobytes() not in seen]
    rare[unseen[:30]] = "night"
    np.savez(tmp_path / "data.npz", x=x, y=y, classes=np.array(CLASSES), strata=rare)
    line = refused(pair.certify(out, "--strata", "data", data=f"npz:{tmp_path / 'data.npz'}"), out)
    assert "stratum night: no calibration sample is of it" in line
    never = np.full(len(CLASSES), 0.0, np.float32)
    weights, bias = train_tiny(SPEC)
    never[0] = -1e4  # a model that never says the first class
    mute = pack(
        tiny_onnx(weights, (bias + never).astype(np.float32)),
        runtime="onnx",
        path=tmp_path / "mute.edge",
        name="mute",
        version="1.0.0",
        labels=CLASSES,
        processing=SPEC,
        output="logits",
    )
    line = refused(pair.certify(out, "--strata", "answer", "--max-accuracy-loss", 0.5, edge=mute.path), out)
    assert f"stratum {CLASSES[0]}: no calibration sample is of it" in line
