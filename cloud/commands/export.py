"""Write a bundle's model in the form that another server takes.

triton: the next version of a model in a Triton repository folder, which edge-sdk serve takes as well.

example:
  edge-sdk export triton teacher-1.0.0.edge models
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_sdk.bundle import Bundle
from edge_sdk.cloud.triton import export_triton

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("form", choices=["triton"], help="for which server")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a .edge file or an unpacked folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the repository; made where it is not there")
    parser.add_argument("--name", help="of the model there (default: the bundle's)")


def run(args: argparse.Namespace) -> int:
    """Export, and print where the model is now."""
    print(export_triton(Bundle.open(args.bundle), args.folder, name=args.name))
    return 0
