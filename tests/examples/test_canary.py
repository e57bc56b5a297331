"""The example of a canary: whoever has met the new version keeps it, and nobody is turned away meanwhile."""

from __future__ import annotations

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")
pytest.importorskip("aiohttp")

from edge_sdk.examples.canary import main, run


def test_too_few_requests_are_refused(capsys):
    assert main(["--requests", "39"]) == 2
    assert capsys.readouterr().err == "canary: error: need at least 40 requests, one of each customer\n"


@pytest.mark.slow
def test_a_new_version_comes_in_step_by_step_and_every_request_is_answered(tmp_path):
    outcome = run(tmp_path, requests=80)
    shadow, few, half, everybody = outcome.steps
    assert [sum(step.answers.values()) for step in outcome.steps] == [80] * 4
    assert shadow.customers == frozenset()
    assert shadow.answers == {"1": 80, "2": 0}
    assert few.customers < half.customers < everybody.customers
    assert everybody.answers == {"1": 0, "2": 80}
    assert everybody.right["2"] > shadow.right["1"], "the larger network is the better one"
    assert 0 < outcome.same <= outcome.mirrored
    assert outcome.meanwhile > 0
    assert outcome.other > 40


@pytest.mark.slow
def test_the_example_says_how_the_new_version_came_in(capsys):
    assert main(["--requests", "40"]) == 0
    said = capsys.readouterr().out
    assert said.index("shadow ") < said.index("canary 10 %") < said.index("canary 50 %") < said.index("everybody")
    assert "40 of 40 customers meet version 2" in said
