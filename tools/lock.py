"""Prints what `make lock` needs: requirements to install, then the constraints that came of it.

``lock.py requirements EXTRA...`` prints the requirements of these extras, spelled out. ``lock.py
constraints`` prints ``name==version`` for everything installed beside this interpreter: no addresses,
no paths, no local versions, so that the lines hold wherever the same releases can be had. Names that
only some platforms need are harmless: a constraint installs nothing by itself.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

HEADER = (
    "# Versions that `make demo` and `make test` install, and those of the extras `ray` and `wheels`. Written by "
    "`make lock`; do not edit.\n"
)
PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """Return the requirements of the package with these extras, and with the extras these name."""
    document = tomllib.loads(PYPROJECT.read_text())
    project = document["project"]
    found = {*project["dependencies"], *document["build-system"]["requires"]}
    todo = list(extras)
    while todo:
        for line in project["optional-dependencies"][todo.pop()]:
            own = re.fullmatch(r"edge-sdk\[(.*)\]", line)
            if own:
                todo += own[1].split(",")
            else:
                found.add(line)
    return sorted(found)


def constraints() -> list[str]:
    """Return one sorted line per installed distribution."""
    found = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        found[name] = distribution.version.partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    if sys.argv[1:2] == ["requirements"]:
        print("\n".join(requirements(sys.argv[2:])))
    else:
        print(HEADER + "\n".join(constraints()))
