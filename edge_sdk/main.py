"""The command line: a static table of commands, each loaded only when it is called.

A command is a module with two functions: ``configure(parser)`` adds its arguments, ``run(args)``
does the work by one call of the API, prints, and returns the exit code. Third parties add
commands through the entry-point group ``edge_sdk.commands``, whose values are such modules.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import NoReturn

from edge_sdk.errors import EdgeSdkError, KernelError, MissingExtraError, one_line

__all__ = ["Command", "main"]

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the command table."""

    name: str
    module: str
    extra: str | None
    summary: str


COMMANDS = (
    Command("demo", "edge_sdk.examples.demo.command", "demo", "do the main job end to end on real images"),
    Command("train", "edge_sdk.cloud.commands.train", "compress", "train a teacher in mixed precision"),
    Command("compress", "edge_sdk.compression.command", "compress", "distil, prune and quantize a teacher"),
    Command("split", "edge_sdk.compression.split_command", "compress", "find out where to cut a model, and cut it"),
    Command("pack", "edge_sdk.commands.pack", "device", "wrap a .tflite or .onnx file as a bundle"),
    Command("certify", "edge_sdk.commands.certify", "device", "certify the deferral threshold of a bundle"),
    Command("cascade", "edge_sdk.commands.cascade", "device", "compare what could decide when to ask the cloud"),
    Command("journal", "edge_sdk.commands.journal", None, "derive a device's decisions again, or judge a threshold"),
    Command("inspect", "edge_sdk.commands.inspect", None, "show what is in a bundle"),
    Command("verify", "edge_sdk.commands.verify", "device", "check a bundle's digests, golden outputs and processing"),
    Command("predict", "edge_sdk.commands.predict", "device", "answer images and other inputs with a bundle"),
    Command("bench", "edge_sdk.commands.bench", "device", "time a bundle on this device"),
    Command("doctor", "edge_sdk.commands.doctor", None, "say what this device has and what it lacks"),
    Command("serve", "edge_sdk.cloud.commands.serve", "cloud", "serve models over the Open Inference Protocol"),
    Command("batch", "edge_sdk.cloud.commands.batch", "batch", "answer a Parquet file or a folder into a Parquet file"),
    Command("export", "edge_sdk.cloud.commands.export", "cloud", "write a bundle's model for another server"),
    Command("broker", "edge_sdk.cloud.commands.broker", "cloud", "run an embedded MQTT broker for development"),
    Command("agent", "edge_sdk.commands.agent", "device", "run the update agent of a device"),
    Command("enrol", "edge_sdk.commands.enrol", "device", "give a device its key, and take up its certificate"),
    Command("ota", "edge_sdk.cloud.commands.ota", "cloud", "keep and serve a repository of signed updates"),
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with the arguments on one line."""

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())
        self.exit(EXIT_BAD_INPUT, f"edge-sdk: error: {line}; see {self.prog} --help\n")


def _plugins() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group="edge_sdk.commands")}


@contextmanager
def _named_extra(command: Command | None) -> Iterator[None]:
    """Say which extra brings a package that is missing; some are imported only when the work begins."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or "a package"
        if missing.startswith("edge_sdk.ext."):
            raise KernelError(str(error)) from error
        if command is None or command.extra is None or missing.split(".")[0] == "edge_sdk":
            raise
        raise MissingExtraError(missing, command.extra) from error


def _overview(plugins: dict[str, metadata.EntryPoint]) -> argparse.ArgumentParser:
    rows = [f"  {command.name:<10} {command.summary}" for command in COMMANDS]
    rows += [f"  {name:<10} ({point.module})" for name, point in sorted(plugins.items())]
    parser = _Parser(
        prog="edge-sdk",
        description="Edge-and-cloud hybrid inference.",
        epilog="commands:\n" + "\n".join(rows) + "\n\nexample:\n  edge-sdk demo --quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-sdk {metadata.version('edge-sdk')}")
    parser.add_argument("command", nargs="?", help="one of the commands below; COMMAND --help says more")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _dispatch(argv: Sequence[str]) -> int:
    plugins = _plugins()
    overview = _overview(plugins)
    chosen = overview.parse_args(argv[:1])
    if chosen.command is None:
        overview.print_help()
        return 0
    command = next((row for row in COMMANDS if row.name == chosen.command), None)
    if command is not None:
        with _named_extra(command):
            module = importlib.import_module(command.module)
    elif chosen.command in plugins:
        module = plugins[chosen.command].load()
    else:
        names = ", ".join(row.name for row in COMMANDS)
        overview.error(f"unknown command {chosen.command!r}; the commands are {names}")
    parser = _Parser(
        prog=f"edge-sdk {chosen.command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    with _named_extra(command):
        module.configure(parser)
        return int(module.run(parser.parse_args(argv[1:])))


def _terminate(signum: int, frame: object) -> None:
    """Turn SIGTERM into an ordinary exit, so that ``finally`` blocks end child processes."""
    raise SystemExit(128 + signum)


def _forget_output() -> None:
    """Let what is still to be written go nowhere, so that the end of the process does not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 is success, 1 a promise that did not hold, 2 bad input (one line on standard error),
    130 an interrupt.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    level = os.environ.get("EDGE_SDK_LOG", "WARNING").upper()
    logging.getLogger("edge_sdk").setLevel(level if level in logging.getLevelNamesMapping() else "WARNING")
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no ≤ gets an escape, not a traceback
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # remarks of libraries are for developers: python -W default
            code = _dispatch(sys.argv[1:] if argv is None else list(argv))
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()  # while an error can still be told
            return code
    except EdgeSdkError as error:
        line = one_line(error)
        print(f"edge-sdk: error: {line}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of a pipe (head, less) left; not an error of ours
        _forget_output()
        return EXIT_FAILED
    except MemoryError as error:
        print(f"edge-sdk: error: memory is not enough: {one_line(error, 200)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _forget_output()
        print(f"edge-sdk: error: {error.strerror}: {error.filename or 'standard output'}", file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
