"""The command line: one file for each command, imported when it is called."""

import ast
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from sae_lens_meta.extras import MissingExtra
from sae_lens_meta.interruption import (
    Interrupted,
    Terminated,
    terminated_in_order,
)

COMMANDS = (
    "demo",
    "train",
    "calibrate",
    "evaluate",
    "compare",
    "probe",
    "autointerp",
    "groundtruth",
    "decompose",
    "atlas",
    "export",
    "publish",
    "reproduce",
    "sweep",
    "watch",
    "list",
    "run",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `sae-lens-meta`; a wrong value ends it with a line, not a trace."""
    args = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a command here
    if args and args[0] != "run":  # whose options are another package's
        args = [_underscored(arg) for arg in args]
    if not args or args[0] in ("-h", "--help"):
        print(_usage())  # noqa: T201
        return
    if args[0] not in COMMANDS:
        near = get_close_matches(args[0], COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        print(_usage(), file=sys.stderr)  # noqa: T201
        raise SystemExit(f"sae-lens-meta: there is no command {args[0]!r}.{hint}")
    usual, warnings.formatwarning = warnings.formatwarning, _plain_warning
    try:
        with terminated_in_order():
            import_module(f"sae_lens_meta.cli.{args[0]}").run(args[1:])
    except Exception as error:
        if not _is_said(error):
            raise
        raise SystemExit(f"sae-lens-meta: {error}") from error
    except KeyboardInterrupt as error:
        name = "SIGTERM" if isinstance(error, Terminated) else "SIGINT"
        raise SystemExit(f"sae-lens-meta: stopped by {name}.") from error
    finally:
        warnings.formatwarning = usual


def _plain_warning(message: Warning | str, *_: Any) -> str:
    """A warning as it is for a user, below a bar that it may come upon."""
    return f"\nWarning: {message}\n"


def _is_said(error: Exception) -> bool:
    """Whether its message is what a user needs; else it is a fault of ours, and its trace is."""
    is_of_datasets = type(error).__module__.startswith("datasets.")
    return is_of_datasets or isinstance(
        error, (ValueError, OSError, ArgumentError, Interrupted, MissingExtra)
    )


def _underscored(arg: str) -> str:
    """SAELens's options have underscores; the Hub's own, dashes: both are understood."""
    name, equals, value = arg.partition("=")
    if name.startswith("--"):
        name = "--" + name[2:].replace("-", "_")
    return name + equals + value


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {_summary(name)}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: sae-lens-meta COMMAND ...",
            "",
            "MetaSAEs for SAELens. `sae-lens-meta COMMAND --help` has a command's options.",
            "",
            *lines,
        ]
    )


def _summary(name: str) -> str:
    """The first line of what its file says, read without importing it."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
