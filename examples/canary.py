"""A server of two models, one of which gets a new version: first as a shadow, then as a canary, then for everybody.

A small and a larger network of digits stand for the version that is served and the one that is to replace it; a
second model on the same server tells low digits from high ones, and goes on as ever. Requests come all the while.
What the new version does is read from the server's metrics before it gets the next share.

    pip install 'edge-sdk[demo]'
    python -m edge_sdk.examples.canary
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_sdk import files
from edge_sdk.datasets import Dataset, load_splits
from edge_sdk.errors import EdgeSdkError, ServiceError
from edge_sdk.examples.offline import train

__all__ = ["Outcome", "Step", "main", "run"]

STEPS = (
    ("shadow", "primary = '1'\\nshadow = '2'"),
    ("canary 10 %", "primary = '1'\\ncanary = '2'\\npercent = 10"),
    ("canary 50 %", "primary = '1'\\ncanary = '2'\\npercent = 50"),
    ("everybody", "primary = '2'"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """What was seen while requests were shared out in one way.

    Attributes
    ----------
    name
        How.
    answers
        How many requests each version answered.
    right
        How many of them rightly.
    customers
        Those whom version 2 answered.
    """

    name: str
    answers: dict[str, int]
    right: dict[str, int]
    customers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the new version.

    Attributes
    ----------
    steps
        One after the other.
    mirrored, same
        Answers of the shadow that were compared, and those that named the same digit.
    meanwhile
        Requests that came while shares were changed; all of them were answered.
    other
        Requests to the second model that were answered rightly, of as many as a step has.
    """

    steps: tuple[Step, ...]
    mirrored: int
    same: int
    meanwhile: int
    other: int


class Server:
    """A child process that serves a repository folder, asked over HTTP; ends with `close`."""

    def __init__(self, folder: Path) -> None:
        ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
        self._connection: http.client.HTTPConnection | None = None
        command = [sys.executable, "-m", "edge_sdk", "serve", str(folder), *ports, "--allow-admin"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready "):
            self.close()
            raise ServiceError("the server did not start")
        self._addresses = dict(re.findall(r"(http|metrics)=(\S+)", line))
        self._connection = http.client.HTTPConnection(self._addresses["http"], timeout=30)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.communicate()
        if self._connection is not None:
            self._connection.close()

    def ask(self, model: str, image: np.ndarray[Any, Any], customer: str) -> tuple[str, int]:
        """Return the version that answers a picture of a customer, and the class that it names."""
        tensor = {"name": "image", "datatype": "UINT8", "shape": list(image.shape), "data": image.ravel().tolist()}
        assert self._connection is not None
        said = self._post(
            self._connection,
            f"/v2/models/{model}/infer",
            {"inputs": [tensor], "parameters": {"edge_encoding": "captured", "edge_key": customer}},
        )
        return said["model_version"], int(np.argmax(said["outputs"][0]["data"]))

    def load(self, model: str) -> None:
        """Let it look at a model's folder now, and return when it serves what is there."""
        with contextlib.closing(http.client.HTTPConnection(self._addresses["http"], timeout=60)) as connection:
            self._post(connection, f"/v2/repository/models/{model}/load", {})

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name and labels."""
        with contextlib.closing(http.client.HTTPConnection(self._addresses["metrics"], timeout=30)) as connection:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    @staticmethod
    def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        said: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise ServiceError(f"{path}: {said['error']}")
        return said


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run a server of a repository folder."""
    with contextlib.closing(Server(folder)) as server:
        yield server


def route(folder: Path, routing: str) -> None:
    """Write how requests are shared out into a model's folder, all of it at once."""
    text = f'parameters {{ key: "routing" value {{ string_value: "{routing}" }} }}\n'
    files.write_durably(folder / "config.pbtxt", text.encode())


def run(folder: Path, *, requests: int = 200, customers: int = 40) -> Outcome:
    """Train three networks, serve them, and bring the new version in.

    Parameters
    ----------
    folder
        For the repository.
    requests
        In each step.
    customers
        Who send them in turn.

    Raises
    ------
    EdgeSdkError
        What goes wrong, in one line.
    """
    data = load_splits("mnist")
    coarse = replace(data.train, labels=data.train.labels // 4, classes=("0 to 3", "4 to 7", "8 or 9"))
    models = folder / "models"
    for name, version, learned, count, hidden in (
        ("digits", "1", data.train, 400, 16),
        ("digits", "2", data.train, len(data.train), 64),
        ("ranges", "1", coarse, 1000, 16),
    ):
        place = models / name / version
        place.mkdir(parents=True)
        train(name, learned, count, hidden, place)
    route(models / "digits", STEPS[0][1])

    steps, meanwhile = [], 0
    with serve(models) as server, ThreadPoolExecutor(1) as background:
        for name, routing in STEPS:
            route(models / "digits", routing)
            loading = background.submit(server.load, "digits")
            while not loading.done():  # nobody waits for the change, and nobody is turned away
                server.ask("digits", data.test.images[meanwhile % len(data.test)], f"customer-{meanwhile % customers}")
                meanwhile += 1
            loading.result()
            steps.append(_step(name, server, data.test, requests, customers))
        other = sum(
            server.ask("ranges", data.test.images[at], "")[1] == data.test.labels[at] // 4 for at in range(requests)
        )
        metrics = server.metrics()
    labels = 'model="digits",version="2"'
    return Outcome(
        tuple(steps),
        mirrored=int(metrics[f'edge_shadow_requests_total{{{labels},result="compared"}}']),
        same=int(metrics[f'edge_shadow_items_total{{{labels},same="true"}}']),
        meanwhile=meanwhile,
        other=other,
    )


def _step(name: str, server: Server, data: Dataset, requests: int, customers: int) -> Step:
    answers = {"1": 0, "2": 0}
    right = {"1": 0, "2": 0}
    met = set()
    for number in range(requests):
        customer = f"customer-{number % customers}"
        version, index = server.ask("digits", data.images[number % len(data)], customer)
        answers[version] += 1
        right[version] += index == data.labels[number % len(data)]
        if version == "2":
            met.add(customer)
    return Step(name, answers, right, frozenset(met))


def main(argv: Sequence[str] | None = None) -> int:
    """Read the arguments and run; 2 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="in each step (default %(default)s)")
    options = parser.parse_args(argv)
    if options.requests < 40:
        print("canary: error: need at least 40 requests, one of each customer", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="edge-sdk-") as folder:
            outcome = run(Path(folder), requests=options.requests)
    except EdgeSdkError as error:
        print(f"canary: error: {error}", file=sys.stderr)
        return 2
    for step in outcome.steps:
        shown = ", ".join(
            f"version {version} {step.right[version]} of {count} right"
            for version, count in step.answers.items()
            if count
        )
        print(f"{step.name:<12} {shown}; {len(step.customers)} of 40 customers meet version 2")
    print(f"as a shadow version 2 named the same digit in {outcome.same} of {outcome.mirrored} answers compared")
    print(f"{outcome.meanwhile} requests came while shares changed, and were answered")
    print(f"the other model on the server was right {outcome.other} of {options.requests} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
