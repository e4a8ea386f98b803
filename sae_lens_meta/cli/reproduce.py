"""Makes a release from its recipe, stage by stage."""

from dataclasses import dataclass, field

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from sae_lens_meta.reproduce.several import reproduce_several


@dataclass
class Reproduce:
    """
    Makes a release from its recipe, stage by stage, each going on where it was stopped.

    Args:
        name (str): Of a release with a recipe, or of a file.
        others (tuple[str, ...]): More of them, for other hooks of the same model and text. The activations
            of all are read in one pass; then each runs by itself, in a folder of its release's
            name below --output.
    """

    name: Positional[str]
    others: Positional[tuple[str, ...]] = ()
    config: ReproduceConfig = field(default_factory=ReproduceConfig)


def run(args: list[str]) -> None:
    """Runs the stages."""
    cfg = parse(Reproduce, "reproduce", args)
    if cfg.others:
        reproduce_several([cfg.name, *cfg.others], cfg.config, Console())
    else:
        reproduce(cfg.name, cfg.config, Console())
