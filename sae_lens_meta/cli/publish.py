"""One command from a measured SAE to a release on the Hub."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.publishing.publish import PublishConfig, publish


@dataclass
class Publish:
    """
    Publishes a joint SAE with its meta SAE, its figures and a card, in one verified commit.

    Args:
        path (Path): Folder of the joint SAE.
    """

    path: Positional[Path]
    config: PublishConfig


def run(args: list[str]) -> None:
    """Publishes, or shows what would be."""
    cfg = parse(Publish, "publish", args)
    publish(cfg.path, cfg.config, Console())
