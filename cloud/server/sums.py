"""Sums of what several processes count, of which some end and others begin. Pure: no process is asked here.

A counter that falls, or is gone, would look to Prometheus as if all had begun anew: what it had counted is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edge_sdk.cloud.server.families import Family

__all__ = ["Arms", "Sums", "sum_statistics"]

_Key = tuple[str, str, tuple[tuple[str, str], ...]]  # name and suffix, and the labels
_Arm = tuple[str, str, str]  # model, version, digest
_Known = tuple[int, int, float]  # chosen, rewards, their sum
_ArmRow = tuple[str, str, str, int, int, float]
# a model answers where every process's does; the rest of what is measured is added up
_UNLIKE = {"edge_model_ready": min, "edge_shadow_difference_max": max, "edge_table_rows": max}


class Sums:
    """Metrics of all processes as if of one."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}
        self._last: dict[int, dict[_Key, float]] = {}
        self._kept: dict[_Key, float] = {}  # of counters: what was counted by those who do not say so any more

    def take(self, process: int, families: Iterable[Family]) -> None:
        """Note what a process counts now.

        Parameters
        ----------
        process
            Any number of its own; another process never gets it.
        families
            All of them.
        """
        now: dict[_Key, float] = {}
        for name, kind, says, samples in families:
            self._kinds.setdefault(name, (kind, says))
            for suffix, labels, value in samples:
                now[name, suffix, tuple(labels.items())] = value
        before, self._last[process] = self._last.get(process, {}), now
        for key, value in before.items():
            if not self._counts(key) or now.get(key, value - 1) >= value:
                continue
            self._keep(key, value)
            if not any(key in counted for counted in self._last.values()):
                self._kept.pop(key)  # of a model that nobody serves any more

    def end(self, process: int) -> None:
        """Note that a process is no more; what it counted stays."""
        for key, value in self._last.pop(process, {}).items():
            if self._counts(key):
                self._keep(key, value)

    def families(self) -> list[Family]:
        """Return the sums."""
        merged: dict[_Key, float] = {}
        for counted in self._last.values():
            for key, value in counted.items():
                merge = _UNLIKE.get(key[0])
                if key not in merged:
                    merged[key] = value
                else:
                    merged[key] = merged[key] + value if merge is None else merge(merged[key], value)
        for key, value in self._kept.items():
            merged[key] = merged.get(key, 0) + value
        found = {name: Family(name, kind, says, []) for name, (kind, says) in self._kinds.items()}
        for (name, suffix, labels), value in merged.items():
            found[name].samples.append((suffix, dict(labels), value))
        return list(found.values())

    def _counts(self, key: _Key) -> bool:
        return self._kinds[key[0]][0] != "gauge"

    def _keep(self, key: _Key, value: float) -> None:
        self._kept[key] = self._kept.get(key, 0) + value


class Arms:
    """What bandits of all processes know, as `edge_sdk.cloud.server.routes.Routes.arms` tells it."""

    def __init__(self) -> None:
        self._last: dict[int, dict[_Arm, _Known]] = {}
        self._kept: dict[_Arm, _Known] = {}  # by those who are no more

    def take(self, process: int, rows: Iterable[Sequence[Any]]) -> None:
        """Note what a process knows by its own answers."""
        self._last[process] = {(row[0], row[1], row[2]): (row[3], row[4], row[5]) for row in rows}

    def end(self, process: int) -> None:
        """Note that a process is no more; what it knew stays."""
        for key, known in self._last.pop(process, {}).items():
            self._kept[key] = _plus(self._kept.get(key), known)

    def others(self, process: int) -> list[_ArmRow]:
        """Return what all but one process know together."""
        merged = dict(self._kept)
        for other, arms in self._last.items():
            if other != process:
                for key, known in arms.items():
                    merged[key] = _plus(merged.get(key), known)
        return [(*key, *known) for key, known in merged.items()]


def _plus(one: _Known | None, other: _Known) -> _Known:
    return other if one is None else (one[0] + other[0], one[1] + other[1], one[2] + other[2])


def sum_statistics(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what ``ModelStatistics`` says of several processes together.

    Parameters
    ----------
    answers
        Of each of them. Models and their order are those of the first.
    """
    found = [dict(model) for model in answers[0]["model_stats"]]
    for model in found:
        for answer in answers[1:]:
            for other in answer["model_stats"]:
                if (other["name"], other["version"]) == (model["name"], model["version"]):
                    model.update(_add(model, other))
    return {"model_stats": found}


def _add(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(ours)
    for name, value in theirs.items():
        if name == "last_inference":
            total[name] = max(ours[name], value)
        elif name == "batch_stats":
            sizes = {one["batch_size"]: one for one in ours[name]}
            for one in value:
                size = one["batch_size"]
                sizes[size] = {**_add(sizes[size], one), "batch_size": size} if size in sizes else one
            total[name] = [sizes[size] for size in sorted(sizes)]
        elif isinstance(value, Mapping):
            total[name] = _add(ours[name], value)
        elif isinstance(value, int):
            total[name] = ours[name] + value
    return total
