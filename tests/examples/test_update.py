"""The example of updates: what a device makes of a good version and of a bad one, seen from the app."""

from __future__ import annotations

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")
pytest.importorskip("tuf")

from edge_sdk.examples.update import main, run


@pytest.mark.slow
def test_the_good_version_is_in_use_at_once_and_the_bad_one_never(tmp_path, capsys):
    outcome = run(tmp_path)
    assert [(end.version, end.state) for end in outcome.ends] == [
        ("1.0.0", "active"),
        ("2.0.0", "active"),
        ("3.0.0", "refused"),
    ]
    assert "golden" in outcome.ends[2].reason
    assert set(outcome.answers) == {"1.0.0", "2.0.0"}
    assert outcome.answers["2.0.0"] > outcome.answers["1.0.0"] > 0, "the app goes on with version 2 while 3 is tried"
    shares = [outcome.right[version] / outcome.answers[version] for version in ("1.0.0", "2.0.0")]
    assert shares[1] > 0.9
    assert "refused     digits-3.0.0" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_says_who_answered(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.rindex("1.0.0 answered ") < said.rindex("2.0.0 answered ") < said.rindex("3.0.0 answered 0 frames")
