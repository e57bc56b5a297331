"""What apps say of answers later: which class was the true one."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from edge_sdk.errors import InputError

__all__ = ["true_class"]


def true_class(labels: tuple[str, ...], decision_id: Any, label: Any) -> int:
    """Return the index of the true class that an app names.

    Parameters
    ----------
    labels
        Of the edge model.
    decision_id
        Of the answer.
    label
        Name or index of a class.

    Raises
    ------
    InputError
        There is no such class, or that is no id.
    """
    if isinstance(label, str):
        if label not in labels:
            raise InputError(f"there is no class {label!r}; there are {', '.join(labels[:20])}")
        label = labels.index(label)
    if isinstance(label, bool) or not isinstance(label, Integral) or not 0 <= int(label) < len(labels):
        raise InputError(f"there is no class {label!r}; there are {len(labels)}")
    if not isinstance(decision_id, str) or not 0 < len(decision_id) <= 200 or not decision_id.isprintable():
        raise InputError("feedback needs the decision_id of an answer: a text of at most 200 characters")
    return int(label)
