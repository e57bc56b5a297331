"""What each of several processes gets, and how what they count is added up."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_sdk.cloud.server.config import ServerConfig
from edge_sdk.cloud.server.families import Family, as_text
from edge_sdk.cloud.server.rates import Bucket, SharedBucket, SharedRates
from edge_sdk.cloud.server.settings import Serving
from edge_sdk.cloud.server.shares import available_cores, environment_of, share_of
from edge_sdk.cloud.server.sums import Arms, Sums, sum_statistics
from edge_sdk.errors import InputError

PATIENT = 30.0


def shared_out(workers: int, **serving: object) -> Serving:
    config = ServerConfig(paths=[Path("a.onnx")], workers=workers, serving=Serving(**serving))
    return share_of(config, {"grpc": 4711}).serving


def test_threads_are_the_cores_shared_out_unless_somebody_says_otherwise() -> None:
    cores = available_cores()
    assert shared_out(1).of("any").threads == cores
    assert shared_out(10_000).of("any").threads == 1
    said = shared_out(1, models={"*": {"threads": 7}, "mine": {"threads": 9}})
    assert (said.of("any").threads, said.of("mine").threads) == (7, 9)
    assert shared_out(1, models={"mine": {"instances": 2}}).of("mine").threads == cores
    assert shared_out(1).of("any", {"threads": 5}).threads == 5, "a model's own configuration"


def test_memory_for_inputs_is_divided_but_holds_a_large_request() -> None:
    config = ServerConfig(paths=[], workers=4)
    whole, most = config.serving.max_pending_bytes, config.max_message_bytes
    assert shared_out(4).max_pending_bytes == whole // 4
    assert shared_out(10_000).max_pending_bytes == 2 * most
    assert shared_out(4, max_pending_bytes=1000).max_pending_bytes == 1000


def test_a_worker_is_told_its_ports_and_to_keep_no_workers() -> None:
    config = ServerConfig(paths=[], workers=3, max_worker_bytes=1, gpus=("0",), http_port=0, metrics_port=0)
    share = share_of(config, {"grpc": 4711, "http": 4712})
    assert share.addresses == {"grpc": ("127.0.0.1", 4711), "http": ("127.0.0.1", 4712)}
    assert share.workers is None


def test_workers_see_gpus_in_turn() -> None:
    base = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "5"}
    seen = [environment_of(place, ("0", "GPU-8a1b"), base)["CUDA_VISIBLE_DEVICES"] for place in range(3)]
    assert seen == ["0", "GPU-8a1b", "0"]
    assert environment_of(0, (), base) == base
    for wrong in ((" ",), ("0,1",)):
        with pytest.raises(InputError, match="one by one"):
            ServerConfig(paths=[], workers=2, gpus=wrong)


@pytest.mark.parametrize(
    ("said", "most"),
    [("max 100000", 10_000), ("150000 100000", 1), ("50000 100000", 1), ("none", 10_000), ("", 10_000)],
)
def test_the_quota_of_a_container_counts(said: str, most: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(said)
    assert available_cores(tmp_path / "cpu.max") == min(most, available_cores(tmp_path / "none"))


def counted(**values: float) -> list[Family]:
    samples = [("", {"model": name}, value) for name, value in values.items()]
    return [Family("n", "counter", "N.", samples), Family("now", "gauge", "Now.", list(samples))]


events = st.lists(
    st.tuples(st.sampled_from(["count", "end", "restart"]), st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 9))
)


@given(events)
def test_sums_never_fall_and_are_all_that_was_counted(events: list[tuple[str, int, str, int]]) -> None:
    sums, names, numbers = Sums(), {0: 0, 1: 1, 2: 2}, 3
    held: dict[int, dict[str, float]] = {place: {"a": 0, "b": 0} for place in names}
    total = {"a": 0.0, "b": 0.0}
    for place, number in names.items():
        sums.take(number, counted(**held[place]))
    for what, place, name, more in events:
        if what == "count":
            held[place][name] += more
            total[name] += more
        elif what == "end":  # and another takes its place
            sums.end(names[place])
            names[place], numbers, held[place] = numbers, numbers + 1, {"a": 0, "b": 0}
        else:  # a model is loaded anew: what it counts begins anew
            held[place][name] = 0
        sums.take(names[place], counted(**held[place]))
        found = {
            family.name: {labels["model"]: value for _, labels, value in family.samples} for family in sums.families()
        }
        assert found["n"] == total
        assert found["now"] == {key: sum(one[key] for one in held.values()) for key in total}


def test_what_nobody_serves_any_more_is_not_counted_any_more() -> None:
    sums = Sums()
    sums.take(1, counted(a=1, b=2))
    sums.take(2, counted(a=3, b=4))
    sums.take(1, counted(a=1))
    assert 'n{model="b"} 6' in as_text(sums.families())
    sums.take(2, counted(a=3))
    assert 'model="b"' not in as_text(sums.families())
    assert 'n{model="a"} 4' in as_text(sums.families())
    sums.end(1)
    sums.end(2)
    assert 'n{model="a"} 4' in as_text(sums.families())
    assert "now{" not in as_text(sums.families())


def test_a_model_is_ready_where_every_process_has_it_so() -> None:
    sums = Sums()
    for process, ready in ((1, 1), (2, 0)):
        sums.take(process, [Family("edge_model_ready", "gauge", "Ready.", [("", {"model": "a"}, ready)])])
    assert 'edge_model_ready{model="a"} 0' in as_text(sums.families())


def test_statistics_add_up_but_for_the_last_time() -> None:
    def of(count: int, last: int, sizes: dict[int, int]) -> dict[str, object]:
        stats = [{"batch_size": size, "compute_infer": {"count": n, "ns": n}} for size, n in sizes.items()]
        return {
            "name": "a", "version": "1", "last_inference": last, "inference_count": count,
            "inference_stats": {"success": {"count": count, "ns": 10 * count}}, "batch_stats": stats,
        }  # fmt: skip

    (said,) = sum_statistics([{"model_stats": [of(1, 50, {2: 1})]}, {"model_stats": [of(4, 40, {1: 3, 2: 5})]}])[
        "model_stats"
    ]
    assert said == of(5, 50, {1: 3, 2: 6})


def test_what_a_bandit_knows_outlives_the_process_that_learned_it() -> None:
    arms = Arms()
    arms.take(1, [["m", "2", "sha256:x", 5, 3, 1.5]])
    arms.take(2, [["m", "2", "sha256:x", 7, 2, 2.0], ["m", "3", "sha256:y", 1, 0, 0.0]])
    assert arms.others(1) == [("m", "2", "sha256:x", 7, 2, 2.0), ("m", "3", "sha256:y", 1, 0, 0.0)]
    arms.end(1)
    assert arms.others(2) == [("m", "2", "sha256:x", 5, 3, 1.5)]
    assert ("m", "2", "sha256:x", 12, 5, 3.5) in arms.others(3)


def _take(descriptor: int, out) -> None:
    bucket = SharedBucket(SharedRates(descriptor), 1, 1e-6, 100, lambda: 1000.0)
    out.send(sum(bucket.take() == 0 for _ in range(80)))


def test_processes_share_what_a_caller_may_ask() -> None:
    context = multiprocessing.get_context("fork")
    with SharedRates.file(2) as file:
        pipes, processes = [], []
        for _ in range(3):
            receive, send = context.Pipe(duplex=False)
            processes.append(context.Process(target=_take, args=(file.fileno(), send)))
            pipes.append(receive)
            processes[-1].start()
        taken = [pipe.recv() for pipe in pipes]
        for process in processes:
            process.join(PATIENT)
        assert sum(taken) == 100
        other = SharedBucket(SharedRates(file.fileno()), 0, 1.0, 1, lambda: 1000.0)
        assert (other.take(), other.take()) == (0, 1.0)
        assert os.fstat(file.fileno()).st_size == 32


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    now = 0.0
    bucket = Bucket(2.0, 3, lambda: now)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    now = 0.25
    assert bucket.take() == 0.25
    now = 100.0
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
