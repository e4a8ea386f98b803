"""Makes a release from its recipe, stage by stage."""

from dataclasses import dataclass, field

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce


@dataclass
class Reproduce:
    """
    Makes a release from its recipe, stage by stage, each going on where it was stopped.

    Args:
        name (str): Of a release with a recipe, or of a file.
    """

    name: Positional[str]
    config: ReproduceConfig = field(default_factory=ReproduceConfig)


def run(args: list[str]) -> None:
    """Runs the stages."""
    cfg = parse(Reproduce, "reproduce", args)
    reproduce(cfg.name, cfg.config, Console())
