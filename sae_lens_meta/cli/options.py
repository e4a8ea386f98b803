"""Options of a command, from the fields of a dataclass and what its docstring says of them."""

from typing import TypeVar

import tyro
from tyro.conf import OmitArgPrefixes

T = TypeVar("T")


def parse(kind: type[T], command: str, args: list[str]) -> T:
    """
    A `kind` from the command line; what is wrong with it ends the program with exit code 2.

    Args:
        kind: a dataclass, of which those that are fields give their own fields as options.
        command: that it is for.
        args: that follow its name.
    """
    return tyro.cli(
        kind,
        prog=f"sae-lens-meta {command}",
        args=args,
        config=(OmitArgPrefixes,),
        use_underscores=True,
    )
