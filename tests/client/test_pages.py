"""The code in the pages about a hybrid model runs as it is printed, and prints what they say."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import edge_sdk
from edge_sdk.client import Cloud
from outside.network import free_port
from outside.sources import ROOT

PATIENT = 20.0
SNIPPET = re.compile(r"<!-- snippet: (\w+) -->\s*```python\n(.*?)```", re.DOTALL)


def snippet(page: str, name: str) -> str:
    return dict(SNIPPET.findall((ROOT / "docs" / page).read_text(encoding="utf-8")))[name]


def run(code: str, pair, cloud: str, **names: Any) -> dict[str, Any]:
    """Run a snippet with a bundle and a server in place of those that it names."""
    code = code.replace('"digits-1.0.0.edge"', repr(str(pair.edge))).replace('"host:8001"', repr(cloud))
    names["frames"] = [*pair.easy[:10], *pair.hard[:10]]
    exec(compile(code, "snippet", "exec"), names)
    return names


@pytest.fixture
def model(pair, cloud):
    with edge_sdk.connect(pair.edge, cloud=cloud, deadline=PATIENT) as model:
        model.predict(pair.easy[0])
        model.predict(pair.hard[0])
        yield model


def test_the_network_is_measured(pair, cloud, capsys) -> None:
    run(snippet("choose-a-deadline.md", "measure"), pair, cloud)
    said = capsys.readouterr().out
    assert re.fullmatch(r"cloud: half within \d+ ms, 95 % within \d+ ms, 99 % within \d+ ms\nedge: [\d.]+ ms\n", said)


def test_the_counters_are_read(pair, cloud, model, capsys) -> None:
    run(snippet("choose-a-deadline.md", "counters"), pair, cloud, model=model)
    assert "deadline: 0.0% of all answers" in capsys.readouterr().out


def test_the_budget_costs_what_the_page_says(pair, cloud, capsys) -> None:
    budget = run(snippet("choose-a-deadline.md", "budget"), pair, cloud)["budget"]
    page = (ROOT / "docs" / "choose-a-deadline.md").read_text(encoding="utf-8")
    assert f"prints {capsys.readouterr().out.strip()}" in page
    (_, _, money) = budget.costs(25_000)
    at_once = int(budget.burst * budget.money / money)
    pause = budget.period * money / (budget.money * (1 - budget.burst))
    assert f"{at_once} requests; the rest\ncomes back evenly, here one request every {pause:.0f} seconds" in page


def test_slow_answers_are_asked_for_twice(pair, cloud) -> None:
    assert run(snippet("choose-a-deadline.md", "hedging"), pair, cloud)["answer"].label


def test_metrics_are_served(pair, cloud, model) -> None:
    port = free_port()
    names = run(snippet("metrics.md", "serve").replace("9400", str(port)), pair, cloud, model=model)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
            assert b'edge_sdk_requests_total{source="cloud",reason="escalated"} 1' in answer.read()
    finally:
        names["server"].shutdown()
        names["server"].server_close()


def test_metrics_are_written_to_a_file(pair, cloud, model, tmp_path: Path) -> None:
    code = snippet("metrics.md", "textfile").replace("/var/lib/node_exporter", str(tmp_path))
    run(code, pair, cloud, model=model)
    assert (tmp_path / "edge.prom").read_text() == model.metrics()


def test_every_metric_is_in_the_table_and_no_other(pair, cloud, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| (`edge_sdk_[^|]+)\|", page, re.MULTILINE))
    options = {"journal": tmp_path / "journal", "outbox": tmp_path / "outbox", "cache": 8}
    with edge_sdk.connect(pair.edge, cloud=Cloud(cloud, feedback=True), deadline=PATIENT, **options) as model:
        told = re.findall(r"^# TYPE (edge_sdk_\w+)", model.metrics(), re.MULTILINE)
    assert sorted(re.findall(r"edge_sdk_\w+", rows)) == sorted(told)


def test_what_waits_offline_is_kept_sent_and_found_in_the_journal(pair, cloud, tmp_path, capsys) -> None:
    def page(name: str, address: str) -> dict[str, Any]:
        code = snippet("work-offline.md", name).replace("/var/lib/app", str(tmp_path))
        return run(code, pair, address)

    page("connect", f"127.0.0.1:{free_port()}")
    assert "'lost': 0" in capsys.readouterr().out
    assert list((tmp_path / "outbox").glob("*.parcel"))
    assert page("limits", cloud)["outbox"].counters["waiting"] == 0
    assert len(page("late", cloud)["late"]) >= 10
