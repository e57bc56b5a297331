"""The router benchmark: one command, three pairs of real models, and what is stated of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from outside.sources import ROOT

ROUTERS = {"random", "oracle", "max_probability", "margin", "entropy", "energy", "learned"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_command_compares_routers_on_real_pairs_and_reproduces_what_is_stated(tmp_path, browse):
    pytest.importorskip("tensorflow")
    pytest.importorskip("mlxtend")
    pytest.importorskip("rich")
    page, picture, figures = tmp_path / "r.html", tmp_path / "r.png", tmp_path / "r.json"
    command = [sys.executable, "-P", ROOT / "benchmarks" / "routers.py", "--quick"]
    done = subprocess.run(
        [*command, "--html", page, "--plot", picture, "--json", figures],
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    pairs = json.loads(figures.read_text())
    for pair in pairs:
        assert {row["router"] for row in pair["routers"]} == ROUTERS
        assert pair["name"] in done.stdout
        assert all(row["curve"]["sent"][0] == 0 for row in pair["routers"])
    opened = browse(page)
    assert opened.complaints == ()
    assert opened.html.count("<svg") == len(pairs)
    assert picture.read_bytes().startswith(b"\x89PNG")
    if "EDGE_SDK_DATA" not in os.environ:
        assert "left out: MLPerf Tiny and the specialist" in done.stdout
        return
    _, tiny, specialist = pairs
    needed = tiny["learned"]["needed"]
    assert sum(needed) / len(needed) <= 0.22
    for pair in (tiny, specialist):
        assert pair["learned"]["worst"]["bound"] >= -0.005
        assert pair["learned"]["used"]
    at = {row["router"]: row["accuracy"] for row in specialist["routers"]}
    assert at["learned"]["0.4"] > specialist["accuracy"]["edge"] > at["max_probability"]["0.4"], (
        "confidence fails there"
    )
