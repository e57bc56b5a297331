"""A network of one's own, named on a command line: a Keras file, or a function that builds it."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from edge_sdk.cloud.training.architecture import Architecture
from edge_sdk.cloud.training.evaluate import model_digest
from edge_sdk.errors import CompressionError

__all__ = ["KerasFile", "network_of"]


@dataclass(frozen=True)
class KerasFile:
    """A network that a file holds, with its weights to begin with and in its own precision.

    Parameters
    ----------
    path
        Of the ``.keras`` file.

    Raises
    ------
    CompressionError
        On a call: Keras cannot read the file, or it holds code.
    """

    path: Path

    def __call__(self, shape: tuple[int, ...], classes: int, policy: str) -> keras.Model:
        """Read the network; what it takes and gives is checked by those who train it."""
        try:
            return keras.saving.load_model(self.path, compile=False, safe_mode=True)
        except OSError as error:
            raise CompressionError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
            raise CompressionError(
                f"{self.path} is not a usable model ({' '.join(str(error).split())[:200]}); "
                "one with code of its own is given as MODULE:FUNCTION"
            ) from error

    @cached_property
    def digest(self) -> str:
        """Of the weights."""
        return model_digest(self((), 0, ""))

    def __str__(self) -> str:
        return f"{self.path.name} {self.digest}"


def network_of(text: str) -> Architecture:
    """Return the network that ``FILE.keras`` or ``MODULE:FUNCTION`` names.

    A module is looked for where Python looks, and then in the current folder. Its function is called with
    (shape of the processed tensor, number of classes, dtype policy) and returns a Keras model whose
    output is float32 logits.

    Raises
    ------
    CompressionError
        There is no such file, module or function.
    """
    if text.endswith(".keras"):
        if not Path(text).is_file():
            raise CompressionError(f"there is no file {text}")
        return KerasFile(Path(text))
    module, colon, name = text.partition(":")
    if not (colon and module and name):
        raise CompressionError(f"the model {text!r} should be FILE.keras or MODULE:FUNCTION")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise CompressionError(f"cannot import {module} of --model {text}: {error}") from error
    finally:
        sys.path.remove(here)
    function = getattr(found, name, None)
    if not callable(function):
        raise CompressionError(f"the module {module} has no function {name!r}")
    return function  # type: ignore[no-any-return]
