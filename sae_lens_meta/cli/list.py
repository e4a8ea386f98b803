"""The releases that `SAE.from_pretrained` knows by name."""

from dataclasses import dataclass

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.zoo.names import list_pretrained, releases_table


@dataclass
class List:
    """
    The releases that `SAE.from_pretrained` knows by name.

    Args:
        pattern (str): For instance 'metasae-*'.
    """

    pattern: Positional[str] = "*"


def run(args: list[str]) -> None:
    """Prints a line for each SAE."""
    cfg = parse(List, "list", args)
    Console().print(releases_table(list_pretrained(cfg.pattern)))
