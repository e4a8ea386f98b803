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
    """Prints a line for each SAE, or some lines where the console is too narrow for them."""
    cfg = parse(List, "list", args)
    console, table = Console(), releases_table(list_pretrained(cfg.pattern))
    at_any_width = console.options.update(max_width=1000)
    if console.measure(table, options=at_any_width).maximum <= console.width:
        console.print(table)
        return
    _, *headers = (column.header for column in table.columns)
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(name, soft_wrap=True)  # it is there to be copied
        for header, cell in zip(headers, cells, strict=True):
            if cell:
                console.print(f"    {header}: {cell}")
