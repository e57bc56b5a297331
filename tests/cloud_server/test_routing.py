"""Which version answers: shares that hold, keys that stay, bandits that learn, and shadows that change nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_sdk.cloud.server.core import Answer, Core, Request
from edge_sdk.cloud.server.exchange import key_of
from edge_sdk.cloud.server.families import as_text
from edge_sdk.cloud.server.metrics import metrics_of
from edge_sdk.cloud.server.routes import compare
from edge_sdk.cloud.server.routing import MOST_REMEMBERED, Router, Routing, share_of
from edge_sdk.cloud.server.settings import ModelSettings, Serving, read_model_config
from edge_sdk.errors import InputError, UnknownModelError
from edge_sdk.protocol import add_input, messages, read_parameters, set_parameter
from outside.models import adding_onnx
from outside.services import Service, edge_sdk

KEYS = [f"device-{number}" for number in range(4000)]
WEIGHTS = st.dictionaries(st.sampled_from("12345"), st.floats(0.01, 100), min_size=2)


def within(count: int, trials: int, share: float) -> bool:
    """Tell whether a count is one that a binomial gives but for one case in 10^9 (Hoeffding)."""
    return abs(count - trials * share) <= math.sqrt(trials * math.log(2e9) / 2)


def ready(*versions: str) -> dict[str, str]:
    return {version: f"sha256:{version}" for version in versions}


def assign(routing: Routing, keys: list[str] = KEYS, there: str = "12345", model: str = "m") -> dict[str, str]:
    router = Router(model)
    return {key: router.choose(routing, ready(*there), key) for key in keys}


@settings(max_examples=20, deadline=None)
@given(WEIGHTS, st.text(max_size=9))
def test_each_version_gets_its_share_of_keys_whatever_the_salt(split, salt):
    count = Counter(assign(Routing(split=split, salt=salt), KEYS[:600]).values())
    for version, share in split.items():
        assert within(count[version], 600, share / sum(split.values()))


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.sampled_from("12345"), st.floats(0.01, 100))
def test_a_share_that_changes_moves_only_the_keys_it_must(split, version, share):
    before = assign(Routing(split=split), KEYS[:300])
    after = assign(Routing(split={**split, version: share}), KEYS[:300])
    for key in before:
        if before[key] != after[key]:
            grew = share > split.get(version, 0)
            assert (after if grew else before)[key] == version, (
                "only to the version that grew, or from the one that shrank"
            )


def test_a_canary_that_grows_keeps_those_it_had_and_takes_no_more_than_its_share():
    had: set[str] = set()
    for percent in (0, 1, 5, 25, 50, 100):
        routing = Routing(primary="1", canary="2", percent=percent)
        has = {key for key, version in assign(routing).items() if version == "2"}
        assert had <= has
        assert within(len(has), len(KEYS), percent / 100)
        had = has
    assert len(had) == len(KEYS)


def test_a_key_gets_the_same_version_on_every_server_and_models_draw_apart():
    routing = Routing(split={"1": 1, "2": 1})
    first = assign(routing)
    assert assign(routing) == first
    other = assign(routing, model="n")
    assert within(sum(first[key] == other[key] for key in KEYS), len(KEYS), 0.5)
    assert assign(Routing(split={"1": 1, "2": 1}, salt="m"), model="n") == first


def test_a_hash_is_the_same_for_ever():
    assert [round(share_of("teacher", key), 12) for key in ("", "a", "\ud800")] == [
        0.602507449598,
        0.848437563243,
        0.576805894173,
    ]


@settings(max_examples=50, deadline=None)
@given(WEIGHTS, st.sets(st.sampled_from("12345")))
def test_the_keys_of_a_version_that_is_not_there_go_to_the_others_and_no_other_key_moves(split, away):
    there = "".join(version for version in "12345" if version not in away)
    if not there:
        return
    before, after = assign(Routing(split=split), KEYS[:100]), assign(Routing(split=split), KEYS[:100], there)
    for key in before:
        assert after[key] in there
        if before[key] in there:
            assert after[key] == before[key]


def test_a_request_without_a_key_is_assigned_by_chance():
    router = Router("m")
    routing = Routing(primary="1", canary="2", percent=20)
    count = Counter(router.choose(routing, ready("1", "2"), "") for _ in range(4000))
    assert within(count["2"], 4000, 0.2)
    assert router.counts == {("1", "primary"): count["1"], ("2", "canary"): count["2"]}


def test_where_none_of_its_versions_is_there_the_highest_answers_but_the_shadow():
    router = Router("m")
    routing = Routing(primary="7", shadow="3")
    assert router.choose(routing, ready("1", "2", "3"), "k") == "2"
    assert router.choose(routing, ready("3"), "k") == "3"
    assert router.counts == {("2", "fallback"): 1, ("3", "fallback"): 1}


def play(means: dict[str, float], rounds: int, floor: float, seed: int) -> tuple[Router, float]:
    """Return a bandit after so many rewards, and what it gave away against always choosing the best."""
    router, routing = Router("m"), Routing(bandit=tuple(means), floor=floor, seed=seed)
    chance, regret = random.Random(seed + 1), 0.0
    for _ in range(rounds):
        version = router.choose(routing, ready(*means), "")
        router.reward(routing, ready(*means), version, float(chance.random() < means[version]))
        regret += max(means.values()) - means[version]
    return router, regret


@pytest.mark.parametrize("seed", range(3))
def test_a_bandit_finds_the_better_version_and_keeps_every_floor(seed):
    means = {"1": 0.5, "2": 0.7, "3": 0.4}
    router, regret = play(means, 4000, floor=4, seed=seed)
    counts = {version: router.arms[version, f"sha256:{version}"].chosen for version in means}
    for count in counts.values():
        assert count >= 160 - 6 * math.sqrt(160), "the floor of 4000, but for one case in 10^7 (Chernoff)"
    forced = 4000 * 0.04 * (0.2 + 0.3)  # what the floor costs
    assert regret - forced < 120, "uniform choice gives away 667"
    assert counts["2"] > 3000


def test_a_bandit_without_a_floor_gives_a_bad_version_up():
    router, _ = play({"1": 0.9, "2": 0.1}, 3000, floor=0, seed=0)
    assert router.arms["2", "sha256:2"].chosen < 60


def test_a_bandit_without_rewards_shares_equally():
    router = Router("m")
    routing = Routing(bandit=("1", "2"), seed=3)
    count = Counter(router.choose(routing, ready("1", "2"), "same key") for _ in range(3000))
    assert within(count["1"], 3000, 0.5)


def test_rewards_are_refused_that_no_answer_stands_behind():
    router, routing = Router("m"), Routing(bandit=("1", "2"), seed=0)
    there = ready("1", "2", "3")
    version = router.choose(routing, there, "")
    for says, chosen, reward in (
        ("number from 0 to 1", version, 1.5),
        ("number from 0 to 1", version, "1"),
        ("number from 0 to 1", version, True),
        ("number from 0 to 1", version, math.nan),
        ("learns from no rewards; 1, 2 do", "3", 1),
    ):
        with pytest.raises(InputError, match=says):
            router.reward(routing, there, chosen, reward)
    router.reward(routing, there, version, 0.25)
    with pytest.raises(InputError, match="all its answers"):
        router.reward(routing, there, version, 1)
    with pytest.raises(InputError, match="none do"):
        router.reward(None, there, version, 1)
    arm = router.arms[version, there[version]]
    assert (arm.chosen, arm.rewards, arm.reward) == (1, 1, 0.25)
    with pytest.raises(InputError, match="all its answers"):
        router.reward(routing, {version: "sha256:another"}, version, 1)


def test_a_version_with_another_model_in_it_is_learned_anew():
    router, routing = Router("m"), Routing(bandit=("1", "2"), floor=0, seed=0)
    for _ in range(200):
        version = router.choose(routing, ready("1", "2"), "")
        router.reward(routing, ready("1", "2"), version, float(version == "1"))
    count = Counter(router.choose(routing, {"1": "sha256:1", "2": "sha256:new"}, "") for _ in range(200))
    assert count["2"] > 0
    assert router.arms["2", "sha256:new"].rewards == 0


def test_what_is_known_of_versions_that_came_and_went_stays_bounded():
    router, routing = Router("m"), Routing(bandit=("1", "2"), floor=0, seed=0)
    for number in range(300):  # version 1 stays, and version 2 is another model each time
        there = {"1": "sha256:1", "2": f"sha256:{number}"}
        version = router.choose(routing, there, "")
        router.reward(routing, there, version, float(version == "1"))
    assert len(router.arms) == MOST_REMEMBERED
    assert router.arms["1", "sha256:1"].rewards > 100, "what is still there is not forgotten"
    for number in range(300):
        router.choose(Routing(primary=str(number)), {str(number): "sha256:1"}, "")
    assert len(router.counts) == MOST_REMEMBERED
    assert router.counts["299", "primary"] == 1
    many = Routing(bandit=tuple(map(str, range(100))), floor=0, seed=0)
    for _ in range(3):
        router.choose(many, ready(*many.bandit), "")
    assert {*ready(*many.bandit).items()} <= {*router.arms}


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["primary", "canary", "percent", "split", "bandit", "floor", "seed", "shadow", "mirror", "x"]),
        st.one_of(
            st.text(max_size=2),
            st.floats(),
            st.integers(-5, 105),
            st.booleans(),
            st.lists(st.text(max_size=2), max_size=3),
            st.dictionaries(st.text(max_size=2), st.one_of(st.floats(), st.integers()), max_size=3),
        ),
    )
)
def test_any_table_is_a_routing_that_chooses_or_refused_in_one_line(values):
    try:
        routing = Routing.of(values)
    except InputError as error:
        said = str(error)
    else:
        said = "routing to " + Router("m").choose(routing, ready("1", "2"), "k")
    assert said.startswith("routing")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "one of primary, split and bandit"),
        ({"primary": "1", "bandit": ["2", "3"]}, "one of primary, split and bandit"),
        ({"primary": 1}, 'such as "3"'),
        ({"primary": "1", "percent": 5}, "of a canary"),
        ({"primary": "1", "canary": "1", "percent": 5}, "beside another version"),
        ({"primary": "1", "canary": "2", "percent": 101}, "from 0 to 100"),
        ({"split": {"1": 0}}, "add up to nothing"),
        ({"split": {"1": -1, "2": 3}}, "it should be shares"),
        ({"bandit": ["1", "2", "3"], "floor": 40}, "100 together"),
        ({"primary": "1", "shadow": "1"}, "cannot answer and be the shadow"),
        ({"primary": "1", "cannary": "2"}, "no setting 'cannary'"),
    ],
)
def test_what_cannot_be_meant_is_refused(values, says):
    with pytest.raises(InputError, match=says):
        Serving(models={"m": {"routing": values}})


def test_a_request_is_known_by_its_key_or_decision_or_id():
    assert key_of({"edge_key": "k", "edge_decision_id": "d"}, "i") == "k"
    assert key_of({"edge_decision_id": "d"}, "i") == "d"
    assert key_of({}, "i") == "i"
    with pytest.raises(InputError, match="edge_key"):
        key_of({"edge_key": 5}, "i")


def test_answers_are_compared_number_by_number_and_class_by_class():
    a = np.array([[0.0, 1.0], [2.0, 1.0], [np.nan, 0.0]], np.float32)
    b = np.array([[0.5, 1.0], [0.0, 1.0], [np.nan, 0.0]], np.float32)
    same = compare({"y": a}, {"y": b})
    assert (same.items, same.same, same.difference) == (3, 2, 2.0)
    assert compare({"y": a}, {"y": np.zeros_like(a)}).difference == math.inf
    assert compare({"y": np.full((1, 2), 255, np.uint8)}, {"y": np.zeros((1, 2), np.uint8)}).difference == 255
    assert compare({"y": np.full((1, 1), np.inf)}, {"y": np.full((1, 1), np.inf)}).difference == 0
    for other in ({"z": a}, {"y": a[:2]}, {"y": a.astype(object)}, {}):
        with pytest.raises(ValueError, match="output"):
            compare({"y": a}, other)


# in a server


def put(root: Path, version: str, offset: float) -> None:
    folder = root / "add" / version
    folder.mkdir(parents=True, exist_ok=True)
    (root / "new").write_bytes(adding_onnx(offset))
    (root / "new").replace(folder / "model.onnx")


@pytest.fixture
def load(tmp_path):
    root, cores = tmp_path / "models", []
    for version in ("1", "2", "3"):
        put(root, version, float(version))

    def start(**routing: object) -> Core:
        cores.append(Core.load([root], Serving(models={"add": {"routing": routing}} if routing else {})))
        return cores[-1]

    yield start
    for core in cores:
        core.close()


async def infer(core: Core, key: str = "", version: str = "", items: int = 1) -> Answer:
    x = np.zeros((items, 2), np.float32)
    return await core.infer(Request("add", version, {"a": x, "b": x}, "tensor", None, key=key))


async def settle(core: Core) -> None:
    for _ in range(2000):
        if not core.routes.busy:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("a mirrored request never ended")


def test_a_server_assigns_requests_and_a_named_version_is_what_answers(load):
    core = load(primary="1", canary="2", percent=30)
    assert core.versions("add") == ("1", "2", "3"), "the latest, and what is routed to"
    expected = assign(Routing(primary="1", canary="2", percent=30), KEYS[:200], model="add")

    async def ask() -> dict[str, str]:
        return {key: (await infer(core, key)).model.version for key in KEYS[:200]}

    assert asyncio.run(ask()) == expected
    counts = dict(core.routes.routers["add"].counts)
    for version in ("1", "2", "3"):
        answer = asyncio.run(infer(core, "device-1", version))
        assert (answer.model.version, float(answer.outputs["sum"][0, 0])) == (version, float(version))
    assert dict(core.routes.routers["add"].counts) == counts, "who names a version passes by"
    assert core.model("add").version == "1", "metadata without a version is of the primary one"
    canaries = list(expected.values()).count("2")
    assert f'edge_routed_requests_total{{model="add",version="2",route="canary"}} {canaries}' in as_text(
        metrics_of(core)
    )


def test_without_routing_the_highest_version_answers_and_nothing_is_counted(load):
    core = load()
    assert asyncio.run(infer(core, "k")).model.version == "3"
    assert "edge_routed" not in as_text(metrics_of(core))


def test_a_shadow_is_compared_and_never_returned(load):
    core = load(primary="1", shadow="3")

    async def ask() -> None:
        for key in KEYS[:20]:
            assert float((await infer(core, key)).outputs["sum"][0, 0]) == 1
            await settle(core)

    asyncio.run(ask())
    counts = core.routes.shadows["add", "3"]
    assert (counts.compared, counts.failed, counts.skipped) == (20, 0, 0)
    assert (counts.items, counts.same, counts.difference) == (20, 20, 2.0)
    said = as_text(metrics_of(core))
    assert 'edge_shadow_requests_total{model="add",version="3",result="compared"} 20' in said
    assert 'edge_shadow_difference_max{model="add",version="3"} 2' in said


def test_a_share_is_mirrored_whichever_version_answers(load):
    core = load(split={"1": 1, "2": 1}, shadow="3", mirror=25)

    async def ask() -> None:
        for key in KEYS[:400]:
            assert (await infer(core, key)).model.version != "3"
            await settle(core)

    asyncio.run(ask())
    assert within(core.routes.shadows["add", "3"].compared, 400, 0.25)


def test_a_shadow_that_is_not_there_or_has_no_room_costs_no_answer(load):
    core = load(primary="1", shadow="9")
    assert asyncio.run(infer(core)).model.version == "1"
    assert core.routes.shadows["add", "9"].skipped == 1
    busy = load(primary="1", shadow="3")

    async def flood() -> list[Answer]:
        answers = await asyncio.gather(*(infer(busy, key, items=256) for key in KEYS[:40]))
        await settle(busy)
        return answers

    assert {answer.model.version for answer in asyncio.run(flood())} == {"1"}
    counts = busy.routes.shadows["add", "3"]
    assert counts.compared + counts.skipped == 40
    assert counts.failed == 0


def test_a_shadow_that_fails_is_counted_and_the_request_is_answered(load, tmp_path):
    folder = tmp_path / "models" / "add" / "4"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(adding_onnx(4.0).replace(b"sum", b"som"))
    core = load(primary="1", shadow="4")

    async def ask() -> Answer:
        answer = await infer(core)
        await settle(core)
        return answer

    assert asyncio.run(ask()).model.version == "1"
    assert core.routes.shadows["add", "4"].failed == 1


def test_shares_change_with_the_file_in_the_models_folder_while_it_is_served(load, tmp_path):
    core = load()
    config = tmp_path / "models" / "add" / "config.pbtxt"
    for version, other in (("1", "2"), ("2", "1")):
        text = f"primary = '{version}'\\nshadow = '{other}'"
        config.write_text(f'parameters {{ key: "routing" value {{ string_value: "{text}" }} }}')
        for _ in range(2):
            for repository in core._repositories:
                repository.sync()
        assert asyncio.run(infer(core)).model.version == version
    config.write_text('parameters { key: "routing" value { string_value: "primary = " } }')
    with pytest.raises(InputError, match="parameter routing"):
        read_model_config(config, "add")
    assert isinstance(core.settings("add"), ModelSettings)


def test_a_bandit_in_a_server_learns_from_feedback(load):
    core = load(bandit=["1", "2"], floor=5, seed=1)

    async def ask() -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(400):
            version = (await infer(core)).model.version
            seen[version] += 1
            core.reward("add", version, 1.0 if version == "2" else 0.0)
        return seen

    seen = asyncio.run(ask())
    assert seen["2"] > 300
    assert seen["1"] > 0
    with pytest.raises(UnknownModelError):
        core.reward("add", "7", 1)
    assert f'edge_bandit_rewards_total{{model="add",version="2",digest="{core.model("add", "2").digest}"}}' in (
        as_text(metrics_of(core))
    )


def test_each_item_of_a_request_may_be_rewarded(load):
    core = load(bandit=["1", "2"], seed=1)
    x = np.zeros((3, 2), np.float32)
    version = asyncio.run(core.infer(Request("add", "", {"a": x, "b": x}, "tensor", None))).model.version
    for _ in range(3):
        core.reward("add", version, 1.0)
    with pytest.raises(InputError, match="all its answers"):
        core.reward("add", version, 1.0)


# over the wire


def http(service: Service, front: str, path: str, body: object = None) -> tuple[int, bytes]:
    host, _, port = service.ready[front].rpartition(":")
    connection = HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def metric(service: Service, sample: str) -> float:
    text = http(service, "metrics", "/metrics")[1].decode()
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(sample + " ")), 0.0)


def asked(key: str, path: str = "add") -> tuple[str, dict]:
    tensors = [{"name": name, "datatype": "FP32", "shape": [1, 2], "data": [0, 0]} for name in "ab"]
    return f"/v2/models/{path}/infer", {"inputs": tensors, "parameters": {"edge_key": key}}


def test_a_server_with_a_canary_and_a_shadow_keeps_keys_over_both_fronts(service, tmp_path):
    for version in ("1", "2", "3"):
        put(tmp_path / "models", version, float(version))
    (tmp_path / "serve.toml").write_text(
        '[models.add.routing]\nprimary = "1"\ncanary = "2"\npercent = 40\nshadow = "3"\n'
    )
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    process = service("serve", tmp_path / "models", "--config", tmp_path / "serve.toml", *ports)
    keys = KEYS[:30]
    expected = assign(Routing(primary="1", canary="2", percent=40), keys, model="add")
    assert {*expected.values()} == {"1", "2"}

    takes, gives = messages.METHODS["ModelInfer"]
    digests = {}
    with grpc.insecure_channel(process.ready["grpc"]) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", takes.SerializeToString, gives.FromString
        )
        for key in keys:
            said = json.loads(http(process, "http", *asked(key))[1])
            assert said["model_version"] == expected[key]
            assert said["outputs"][0]["data"] == [float(expected[key])] * 2
            request = takes(model_name="add")
            for name in "ab":
                add_input(request, name, np.zeros((1, 2), np.float32))
            set_parameter(request.parameters, "edge_key", key)
            answer = infer(request, timeout=20, wait_for_ready=True)
            assert answer.model_version == expected[key]
            digest = read_parameters(answer.parameters)["edge_model_digest"]
            assert digests.setdefault(answer.model_version, digest) == digest
            assert said["parameters"]["edge_model_digest"] == digest
    assert len({*digests.values()}) == 2

    assert json.loads(http(process, "http", *asked("k", "add/versions/3"))[1])["model_version"] == "3"
    for version, route in (("1", "primary"), ("2", "canary")):
        sample = f'edge_routed_requests_total{{model="add",version="{version}",route="{route}"}}'
        assert metric(process, sample) == 2 * list(expected.values()).count(version)
    shadow = 'edge_shadow_requests_total{model="add",version="3",result="'
    for _ in range(400):
        results = {one: metric(process, f'{shadow}{one}"}}') for one in ("compared", "failed", "skipped")}
        if sum(results.values()) == 60:
            break
        time.sleep(0.05)
    assert results["failed"] == 0
    assert results["compared"] + results["skipped"] == 60
    assert metric(process, 'edge_shadow_difference_max{model="add",version="3"}') == 2.0
    status, said = http(process, "http", "/v2/models/add/feedback", {"version": "1", "reward": 1})
    assert (status, b"learns from no rewards" in said) == (400, True)
    assert process.stop() == 0
    assert process.errors == ""


def test_feedback_over_http_teaches_a_bandit_and_bad_feedback_is_refused(service, tmp_path):
    for version in ("1", "2"):
        put(tmp_path / "models", version, float(version))
    (tmp_path / "serve.toml").write_text('[models.add.routing]\nbandit = ["1", "2"]\nseed = 7\n')
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    process = service("serve", tmp_path / "models", "--config", tmp_path / "serve.toml", *ports)
    seen: Counter[str] = Counter()
    for number in range(120):
        version = json.loads(http(process, "http", *asked(str(number)))[1])["model_version"]
        seen[version] += 1
        reward = {"version": version, "reward": float(version == "1")}
        named = reward if number else {**reward, "decision_id": "a"}
        for _ in range(1 if number else 2):  # what comes twice of one decision counts once
            assert http(process, "http", "/v2/models/add/feedback", named) == (200, b"{}")
    assert seen["1"] > 80
    sample = f'edge_bandit_rewards_total{{model="add",version="1",digest="{digest_of(tmp_path, "1")}"}}'
    assert metric(process, sample) == seen["1"]
    for path, body, status in (
        ("add", {"version": "1", "reward": 1}, 400),  # no answer is left to be rewarded
        ("add", {"version": "1"}, 400),
        ("add", {"version": 1, "reward": 1}, 400),
        ("add", {"version": "1", "reward": 2}, 400),
        ("add", {"version": "1", "reward": 1, "weight": 9}, 400),
        ("add", {"version": "1", "reward": 1, "decision_id": 9}, 400),
        ("add", [1], 400),
        ("add", {"version": "9", "reward": 1}, 404),
        ("sub", {"version": "1", "reward": 1}, 404),
    ):
        got, said = http(process, "http", f"/v2/models/{path}/feedback", body)
        assert got == status, said
        assert "\n" not in json.loads(said)["error"]


def digest_of(folder: Path, version: str) -> str:
    return f"sha256:{hashlib.sha256((folder / 'models' / 'add' / version / 'model.onnx').read_bytes()).hexdigest()}"


def test_a_routing_that_cannot_be_meant_ends_the_start_in_one_line(tmp_path):
    put(tmp_path / "models", "1", 1.0)
    (tmp_path / "serve.toml").write_text('[models.add.routing]\nprimary = "1"\nshadow = "1"\n')
    done = edge_sdk("serve", tmp_path / "models", "--config", tmp_path / "serve.toml", "--grpc-port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "model add: routing: version 1 cannot answer and be the shadow" in line
