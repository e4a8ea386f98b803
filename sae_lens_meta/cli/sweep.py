"""Tries settings of a recipe against each other: trains, measures, tables, and chooses by a rule."""

from dataclasses import dataclass

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.sweep.run import SweepConfig, sweep


@dataclass
class Sweep:
    """
    Tries settings of a recipe against each other: trains, measures, tables, and chooses by a rule.

    Args:
        name (str): Of a release with a recipe, or of a file.
    """

    name: Positional[str]
    config: SweepConfig


def run(args: list[str]) -> None:
    """Trains what is not trained yet, prints the table and draws the picture."""
    cfg = parse(Sweep, "sweep", args)
    sweep(cfg.name, cfg.config, Console())
