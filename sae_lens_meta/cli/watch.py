"""Shows how far each piece of a run is, from any shell that sees its folder."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.reproduce.watching import WatchConfig, watch


@dataclass
class Watch:
    """
    Shows how far each piece of a run is, from any shell that sees its folder.

    Args:
        folder (Path): The --output of `reproduce` or `sweep`.
    """

    folder: Positional[Path]
    config: WatchConfig = field(default_factory=WatchConfig)


def run(args: list[str]) -> None:
    """Shows the table until nothing runs any more."""
    cfg = parse(Watch, "watch", args)
    watch(cfg.folder, cfg.config, Console())
