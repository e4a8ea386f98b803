"""Options of a command, from the fields of a dataclass and what its docstring says of them."""

from collections.abc import Iterable
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


def named_groups(given: Iterable[list[str]]) -> dict[str, list[str]]:
    """
    What --sae gives by name, NAME=SAE SAE ...; a name that is given again has more of them.

    Raises:
        ValueError: if a name or an SAE is missing.
    """
    found: dict[str, list[str]] = {}
    for first, *others in given:
        name, equals, path = first.partition("=")
        if not equals or not name or not path:
            raise ValueError(
                f"--sae takes NAME=FOLDER FOLDER ...; got {first!r}. For instance "
                "--sae matryoshka=runs/m_0 runs/m_1."
            )
        found.setdefault(name, []).extend([path, *others])
    return found
