"""The example of a camera that loses its network: every frame has an answer, and no answer of the cloud is lost."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from edge_sdk.examples.offline import Cable, main, run

LATE_MS = 5_000.0  # far beyond the deadline, far below for ever


def test_what_is_sent_through_an_unplugged_cable_arrives_when_it_is_back():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cable = Cable(f"127.0.0.1:{listener.getsockname()[1]}")
        host, port = cable.address.split(":")
        with socket.create_connection((host, int(port))) as near:
            far, _ = listener.accept()
            cable.unplug()
            near.sendall(b"hello")
            far.settimeout(0.2)
            with pytest.raises(TimeoutError):
                far.recv(5)
            cable.plug()
            far.settimeout(20)
            assert far.recv(5) == b"hello"
            far.close()
            assert near.recv(1) == b""
        cable.close()


def test_too_few_frames_are_refused(capsys):
    assert main(["--frames", "2"]) == 2
    assert capsys.readouterr().err == "offline: error: need at least 3 frames\n"


@pytest.mark.slow
def test_every_frame_is_answered_and_every_answer_of_the_cloud_arrives(tmp_path):
    outcome = run(tmp_path, frames=150)
    before, without, after = outcome.phases
    assert [sum(phase.answers.values()) for phase in outcome.phases] == [50, 50, 50]
    assert {source for source, _ in without.answers} == {"edge"}
    assert all(("cloud", "escalated") in phase.answers for phase in (before, after))
    assert max(phase.slowest_ms for phase in outcome.phases) < LATE_MS
    assert outcome.late == outcome.counters["sent"] >= without.waiting > 0
    assert (outcome.missing, outcome.counters["waiting"], outcome.counters["lost"]) == (0, 0, 0)
    assert outcome.late_right > outcome.edge_right


@pytest.mark.slow
def test_the_example_says_what_the_app_saw(capsys):
    assert main(["--frames", "90"]) == 0
    said = capsys.readouterr().out
    assert said.index("plugged") < said.index("unplugged") < said.index("plugged again")
    assert "answers came late, 0 are missing" in said
