from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from harness import Case, DisagreementError, Machine, Task, measure
from harness.report import duration, write_json, write_plot

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"


class Bench:
    """Cases that write down when they are called, and a clock that they move."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def case(self, name, seconds=1.0, answer=(1.0,), **options):
        def call():
            self.calls.append(name)
            self.now += seconds
            return np.array(answer)

        return Case(name, lambda: call, **options)

    def measure(self, *cases, tolerance=1e-6, rounds=6, **options):
        return measure(Task("job", "a job", cases, tolerance), rounds=rounds, clock=self.clock, **options)


@pytest.fixture
def bench():
    return Bench()


def test_cases_take_turns_and_another_one_begins_each_round(bench):
    cases = [bench.case("ours", ours=True), bench.case("a"), bench.case("b")]
    bench.measure(*cases, rounds=3, warm_up=1)
    timed = bench.calls[-9:]
    assert timed == ["ours", "a", "b", "a", "b", "ours", "b", "ours", "a"]


def test_medians_and_ratios_are_those_of_the_clock(bench):
    result = bench.measure(bench.case("ours", 2.0, ours=True), bench.case("peer", 3.0))
    ours, peer = result.cases
    assert (ours.quantile(0.5), peer.quantile(0.5)) == (2.0, 3.0)
    assert (peer.ratio, peer.ratio_low, peer.ratio_high) == (1.5, 1.5, 1.5)
    assert len(peer.samples) == 6


def test_ratios_are_taken_round_by_round_so_a_slow_spell_of_the_machine_cancels(bench):
    def case(name, seconds, **options):
        def call():
            # both cases of a round are as slow as the machine is in that round
            bench.now += seconds * 1.5 ** (len(bench.calls) // 2)
            bench.calls.append(name)
            return np.ones(1)

        return Case(name, lambda: call, **options)

    result = bench.measure(case("ours", 1.0, ours=True), case("peer", 2.0), rounds=10)
    ours, peer = result.cases
    assert max(ours.samples) > 30 * min(ours.samples)
    assert peer.ratio == pytest.approx(2.0)
    assert peer.ratio_low == pytest.approx(2.0)


def test_a_fast_case_is_called_many_times_for_one_sample(bench):
    result = bench.measure(bench.case("ours", 0.001, ours=True), bench.case("slow", 1.0), sample_seconds=0.01)
    assert [case.inner for case in result.cases] == [10, 1]
    assert result.cases[0].quantile(0.5) == pytest.approx(0.001)


def test_a_peer_that_is_not_installed_is_skipped_by_name_with_the_command_that_brings_it(bench):
    missing = bench.case("opencv", module="no_such_module_here", pip="opencv-python-headless")
    result = bench.measure(bench.case("ours", ours=True), missing)
    assert [case.name for case in result.cases] == ["ours"]
    assert [(case.name, case.reason) for case in result.skipped] == [
        ("opencv", "not installed: pip install opencv-python-headless")
    ]
    assert "opencv" not in bench.calls


def test_cases_that_disagree_are_not_timed(bench):
    cases = [bench.case("ours", answer=(1.0, 2.0), ours=True), bench.case("wrong", answer=(1.0, 2.5))]
    with pytest.raises(DisagreementError, match=r"wrong is 0\.5 away from ours"):
        bench.measure(*cases, tolerance=0.1)
    assert bench.calls == ["ours", "wrong"]


@pytest.mark.parametrize("answer", [(1.0,), (1.0, float("nan"))])
def test_another_shape_or_a_nan_is_a_disagreement(bench, answer):
    with pytest.raises(DisagreementError):
        bench.measure(bench.case("ours", answer=(1.0, 2.0), ours=True), bench.case("odd", answer=answer), tolerance=9)


def test_a_case_may_have_a_tolerance_of_its_own(bench):
    rough = bench.case("rough", answer=(1.5,), tolerance=1.0)
    result = bench.measure(bench.case("ours", ours=True), rough)
    assert result.cases[1].distance == 0.5


def test_a_task_without_ours_or_with_two_cases_of_one_name_is_refused(bench):
    with pytest.raises(ValueError, match="exactly one case must be ours"):
        Task("job", "a job", (bench.case("a"), bench.case("b")))
    with pytest.raises(ValueError, match="two cases have one name"):
        Task("job", "a job", (bench.case("a", ours=True), bench.case("a")))


def test_the_machine_says_what_a_reader_of_a_figure_asks():
    machine = Machine.here(["pytest"])
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.versions["pytest"] == pytest.__version__
    assert set(machine.versions) == {"edge-sdk", "numpy", "pytest"}


def test_json_holds_the_samples_and_the_plot_is_a_picture(bench, tmp_path):
    missing = bench.case("gone", module="no_such_module_here")
    result = bench.measure(bench.case("ours", ours=True), bench.case("peer", 2.0, note="rounds"), missing)
    write_json(tmp_path / "r.json", Machine.here(), {"suite": [result]})
    document = json.loads((tmp_path / "r.json").read_text())
    (task,) = document["suites"]["suite"]
    assert document["format"] == 1
    assert task["cases"][1]["time_over_ours"]["median"] == 2.0
    assert task["cases"][1]["seconds"]["samples"] == [2.0] * 6
    assert task["skipped"] == [{"name": "gone", "reason": "not installed: pip install no_such_module_here"}]
    write_plot(tmp_path / "r.png", Machine.here(), {"suite": [result]})
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("seconds", "text"), [(1.5, "1.5 s"), (0.0025, "2.5 ms"), (3e-6, "3 µs"), (4e-9, "4 ns")])
def test_a_duration_has_the_unit_that_suits_it(seconds, text):
    assert duration(seconds) == text


SUITES = sorted(path.stem for path in (RUN.parent / "suites").glob("*.py") if path.stem != "__init__")

LONG = {"coalescing"}  # tens of thousands of requests in one round

run = partial(subprocess.run, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    "suite", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SUITES]
)
def test_a_suite_runs_and_its_cases_agree(suite, tmp_path):
    done = run([sys.executable, "-P", RUN, suite, "--rounds", "1", "--json", tmp_path / "r.json"])
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "r.json").read_text())
    assert all(sum(case["ours"] for case in task["cases"]) == 1 for task in document["suites"][suite])
    assert all(len(task["cases"]) + len(task["skipped"]) >= 2 for task in document["suites"][suite])
    assert "edge-sdk" in done.stdout


def test_an_unknown_suite_is_refused_with_the_names_of_those_there_are():
    done = run([sys.executable, "-P", RUN, "speed"])
    assert done.returncode == 2
    assert f"no suite speed; the suites are {', '.join(SUITES)}" in done.stderr
