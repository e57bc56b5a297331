"""The project speaks of itself alone."""

from __future__ import annotations

import re
from urllib.parse import unquote

from outside.sources import ROOT, source_files

TEXT = {
    ".py",
    ".pyx",
    ".pyi",
    ".pxd",
    ".c",
    ".h",
    ".md",
    ".toml",
    ".txt",
    ".proto",
    ".html",
    ".css",
    ".js",
    ".json",
    "",
}
FILES = [path for path in source_files() if path.suffix in TEXT and path.name != "LICENSE"]

# absolute paths of somebody's machine, and notes to oneself
FORBIDDEN = [
    re.compile(r"(?<![\w.-])/(work|farm|home|root|Users)/"),
    re.compile(r"(?<![\w.-])/tmp/\w"),
    re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    re.compile(r"\b(Not" + r"ImplementedError|assert Tr" + r"ue)\b"),
]


def test_no_file_names_a_machine_or_holds_a_note_to_oneself():
    hits = [
        f"{path}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if any(pattern.search(line) for pattern in FORBIDDEN)
    ]
    assert hits == []


def test_no_tracked_file_is_larger_than_a_mebibyte():
    assert [path for path in source_files() if (ROOT / path).stat().st_size > 1 << 20] == []


def test_links_between_documents_lead_somewhere():
    missing = []
    for path in FILES:
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", (ROOT / path).read_text(encoding="utf-8")):
            if "://" not in target and not (ROOT / path).parent.joinpath(unquote(target)).exists():
                missing.append(f"{path} → {target}")  # noqa: PERF401 - two loops and a condition
    assert missing == []


def test_constraints_pin_versions_and_name_no_place():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9A-Za-z.]*", line)] == []
    names = {line.partition("==")[0] for line in pins}
    assert {"numpy", "cython", "setuptools", "tensorflow", "pytest", "ruff"} <= names
    assert "edge-sdk" not in names
