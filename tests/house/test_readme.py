"""The README's code runs as it is printed.

A snippet is a ``python`` block after a comment that says whose it is::

    <!-- snippet: device -->
    ```python
    ...
    ```

Each runs as a program of its own, in a folder where the files it names are there and, for the cloud,
the server it names is running.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from edge_sdk.bundle import Bundle
from edge_sdk.cascade import Policy
from outside.sources import ROOT

SNIPPET = re.compile(r"<!-- snippet: (\w+) -->\s*```python\n(.*?)```", re.DOTALL)
BUNDLE = re.compile(r"[\w.-]+\.edge\b")
PICTURE = re.compile(r"[\w-]+\.(?:png|jpe?g)\b")
ADDRESS = re.compile(r"\b(?:localhost|127\.0\.0\.1|[a-z][a-z.-]*):\d{4,5}\b")

KINDS = ("device", "backend", "ml")


def snippets() -> dict[str, str]:
    """Return the README's tagged blocks by their tag."""
    return dict(SNIPPET.findall((ROOT / "README.md").read_text(encoding="utf-8")))


def prepared(folder: Path, code: str, tiny) -> Path:
    """Put the bundles and pictures that a snippet reads in a folder."""
    unsure = Policy(threshold=2.0)  # asks the cloud about everything
    for name in set(BUNDLE.findall(code)):
        Bundle.open(tiny.path).rewrite(folder / name, cascade=unsure.to_json())
    for name in set(PICTURE.findall(code)):
        Image.fromarray(tiny.images[0]).save(folder / name)
    return folder


def run(folder: Path, code: str, timeout: float) -> subprocess.CompletedProcess[str]:
    (folder / "snippet.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-P", "snippet.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


def test_there_is_one_snippet_for_each_kind_of_user():
    assert sorted(snippets()) == sorted(KINDS)


def test_the_snippet_for_the_device_runs(tmp_path, tiny_edge_bundle, server):
    code = ADDRESS.sub(server, snippets()["device"])
    assert "deadline=0.150" in code
    code = code.replace("deadline=0.150", "deadline=20")  # which a busy machine keeps, too
    done = run(prepared(tmp_path, code, tiny_edge_bundle), code, 500)
    assert done.returncode == 0, done.stderr
    assert "cloud escalated" in done.stdout


def test_the_snippet_for_the_backend_runs(tmp_path, tiny_edge_bundle, server):
    code = ADDRESS.sub(server, snippets()["backend"]).replace('"digits"', '"tiny"')
    done = run(prepared(tmp_path, code, tiny_edge_bundle), code, 500)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_snippet_for_machine_learning_runs(tmp_path, tiny_edge_bundle):
    code = snippets()["ml"]
    done = run(prepared(tmp_path, code, tiny_edge_bundle), code, 500)
    assert done.returncode == 0, done.stderr
    assert done.stdout
