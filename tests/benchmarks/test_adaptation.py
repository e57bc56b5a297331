"""How near the client comes to a planner that knows everything before, on made-up networks."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from harness.roads import RUNGS, Budget, Pictures, clairvoyant, compare, draw_pictures, drive, informed
from harness.traces import ROADS, draw_trace
from outside.sources import ROOT

SCRIPT = ROOT / "benchmarks" / "adaptation.py"
AMPLE, MEDIUM, TIGHT = 30_000.0, 8_000.0, 3_000.0


@pytest.mark.parametrize("name", ROADS)
def test_the_client_has_at_least_95_percent_of_the_right_answers_of_a_clairvoyant(name):
    for amount, least in ((AMPLE, 0.95), (MEDIUM, 0.95), (TIGHT, 0.93)):
        rows = [compare(ROADS[name], 1000, seed, amount) for seed in range(3)]
        assert np.mean([row.of_optimum for row in rows]) >= least
        # where the budget is tight, nobody can who does not know which answers are wrong
        assert np.mean([row.of_informed for row in rows]) >= 0.975
        assert np.mean([row.late for row in rows]) <= 0.01
        assert np.mean([row.in_vain for row in rows]) <= 0.02
        assert max(row.spent for row in rows) <= 1.0
        assert max(row.of_optimum for row in rows) <= 1.0


def test_a_ladder_is_worth_more_than_any_one_of_its_rungs_where_bytes_are_few():
    road = ROADS["lte"]
    ladder = np.mean([compare(road, 1000, seed, TIGHT).of_optimum for seed in range(3)])
    for rung in ("captured", "jpeg:75"):
        alone = np.mean([compare(road, 1000, seed, TIGHT, (rung,)).of_optimum for seed in range(3)])
        assert ladder > alone + 0.02


def test_the_clairvoyant_is_the_best_of_all_plans():
    road, n = ROADS["lte"], 5
    for seed in range(8):
        trace = draw_trace(road, n * road.interval, seed)
        rng = np.random.default_rng(seed)
        drawn = draw_pictures(n, seed)
        right = rng.random((n, len(RUNGS))) < 0.7
        pictures = Pictures(drawn.confidence, rng.random(n) < 0.4, drawn.sizes, right, drawn.pace)
        amount = 90_000.0
        most = 0
        for plan in itertools.product(range(-1, len(RUNGS)), repeat=n):
            sent = sum(pictures.sizes[i, r] for i, r in enumerate(plan) if r >= 0)
            if sent > amount:
                continue
            count = 0
            for i, r in enumerate(plan):
                start = i * road.interval + 0.005
                if r < 0:
                    count += pictures.edge_right[i]
                    continue
                takes = list(RUNGS.values())[r][1] * pictures.pace[i]
                ends = i * road.interval + road.deadline - 0.01
                answered = math.isfinite(trace.answered_at(start + takes, pictures.sizes[i, r], ends))
                count += pictures.cloud_right[i, r] if answered else pictures.edge_right[i]
            most = max(most, count)
        assert clairvoyant(trace, pictures, road, amount) == pytest.approx(most / n)


def test_who_knows_the_network_alone_is_between():
    road = ROADS["satellite"]
    trace, pictures = draw_trace(road, 800 * road.interval, 1), draw_pictures(800, 1)
    able, best = informed(trace, pictures, road, 800 * TIGHT), clairvoyant(trace, pictures, road, 800 * TIGHT)
    assert pictures.edge_right.mean() < able < best


def test_the_same_seed_gives_the_same_drive():
    road = ROADS["wifi"]
    trace, pictures = draw_trace(road, 300 * road.interval, 5), draw_pictures(300, 5)
    budget = Budget(bytes=300 * MEDIUM, period=300 * road.interval)
    assert drive(trace, pictures, road, budget) == drive(trace, pictures, road, budget)


def test_the_command_prints_and_writes_what_was_found(tmp_path):
    path = tmp_path / "a.json"
    command = [sys.executable, SCRIPT, "--seeds", "1", "--requests", "60", "--json", path]
    subprocess.run(command, check=True, capture_output=True)
    found = json.loads(path.read_text())
    assert len(found["rows"]) == 36
    done = subprocess.run([sys.executable, SCRIPT, "--seeds", "0"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--seeds is 0" in done.stderr
