"""The example of a sensor finds the faults that it put in, and hardly any other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from edge_sdk.examples.sensor import FALSE_ALARMS, FAULTS, LENGTH, RATE, main, run, simulate, windows


def test_the_simulation_is_seeded_and_only_its_faults_differ_from_a_healthy_machine():
    healthy, none = simulate(20, seed=3)
    spoiled, planned = simulate(20, seed=3, faults=3)
    assert none == []
    assert [fault.kind for fault in planned] == list(FAULTS[:3])
    touched = np.zeros(20 * RATE, bool)
    for fault in planned:
        touched[fault.start : fault.stop] = True
        assert not np.allclose(healthy[fault.start : fault.stop], spoiled[fault.start : fault.stop])
    assert np.array_equal(healthy[~touched], spoiled[~touched])
    assert all(window.shape == (LENGTH, 3) for window in windows(healthy))


def test_too_many_faults_for_the_stream_are_refused(capsys):
    assert main(["--minutes", "1", "--faults", "11"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_most_faults_are_found_and_false_alarms_are_about_what_was_asked():
    outcome = run(minutes=4, faults=12, epochs=20)
    assert sum(there for _, there in outcome.found) >= 11
    assert outcome.false_alarms / outcome.healthy <= 5 * FALSE_ALARMS


@pytest.mark.slow
def test_the_example_says_what_it_found():
    done = subprocess.run(
        [sys.executable, "-m", "edge_sdk.examples.sensor", "--minutes", "2", "--faults", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "false alarms:" in done.stdout
    assert "the data are simulated" in done.stdout
