"""The example that spots keywords."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from edge_sdk.errors import InputError

speech = pytest.importorskip("edge_sdk.examples.keywords.speech")
pytest.importorskip("espeakng_loader")

from edge_sdk.examples.keywords.__main__ import HOP, heard, main  # noqa: E402
from edge_sdk.examples.keywords.words import HEARD_VOICES, KEYWORDS, LABELS, clips, unheard_voices  # noqa: E402


@dataclass
class Answer:
    scores: tuple[float, ...]


def answer(label, sure):
    rest = (1 - sure) / (len(LABELS) - 1)
    return Answer(tuple(sure if one == label else rest for one in LABELS))


def test_a_word_is_heard_once_while_windows_are_sure_of_it_and_again_after_a_pause():
    said = [("go", 0.9), ("go", 0.95), ("go", 0.9), ("silence", 0.9), ("silence", 0.9), ("go", 0.9), ("go", 0.9)]
    found = list(heard(answer(*one) for one in said))
    assert [word for _, word, _ in found] == ["go", "go"]
    assert [at for at, _, _ in found] == pytest.approx([HOP + 0.375, 6 * HOP + 0.375])


def test_one_window_alone_and_words_that_are_no_keywords_are_not_heard():
    said = [("silence", 0.9), ("yes", 0.99), ("silence", 0.9), ("other", 0.99), ("other", 0.99)]
    assert list(heard(answer(*one) for one in said)) == []


def test_clips_are_of_one_second_and_of_every_label():
    data = clips(300, heard=True, seed=0)
    assert data.sound.shape == (300, 16000)
    assert abs(data.sound).max() <= 1
    assert set(data.labels) == set(range(len(LABELS)))


def test_voices_that_test_are_not_those_that_train():
    assert len(speech.voices()) > HEARD_VOICES + 15
    assert not set(unheard_voices()) & set(speech.voices()[:HEARD_VOICES])


def test_an_unknown_voice_is_refused():
    with pytest.raises(InputError, match="has no voice"):
        speech.speak("yes", "m1", "no-such-accent")


def test_too_few_clips_are_refused_in_one_line(tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--clips", "10"]) == 2
    assert capsys.readouterr().err == "keywords: error: need at least 100 clips and 1 epoch\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_keywords_of_voices_never_heard_are_spotted_in_a_recording(tmp_path):
    pytest.importorskip("tensorflow")
    command = [sys.executable, "-m", "edge_sdk.examples.keywords", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert float(re.search(r"never heard: ([\d.]+)% of 600 clips", done.stdout)[1]) > 85
    said = [(float(at), word) for at, word in re.findall(r"said +([\d.]+) s  (\w+)", done.stdout) if word in KEYWORDS]
    found = [(float(at), word) for at, word in re.findall(r"heard +([\d.]+) s  (\w+)", done.stdout)]
    right = [word for begin, word in said if any(w == word and abs(at - begin - 0.25) < 0.6 for at, w in found)]
    assert len(right) >= 6, done.stdout
    assert len(found) - len(right) <= 2, done.stdout
    assert (tmp_path / "out" / "keywords-1.0.0.edge").is_file()
