"""Writes an SAE as SAEDashboard, Neuronpedia or delphi read it."""

from dataclasses import dataclass, field

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.exports.config import ExportConfig
from sae_lens_meta.exports.run import Target, export
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.zoo.names import sae_folder


@dataclass
class Export:
    """
    Writes an SAE as SAEDashboard, Neuronpedia or delphi read it.

    Args:
        name (str): Folder of the saved SAE, or name of a release.
        to (str): The tool.
    """

    name: Positional[str]
    to: Target
    config: ExportConfig = field(default_factory=ExportConfig)
    source: SourceConfig = field(default_factory=SourceConfig)


def run(args: list[str]) -> None:
    """Exports one SAE, and says what to do with the files."""
    given = parse(Export, "export", args)
    saved = SavedSAE.read(sae_folder(given.name))
    said, measured_on = export(saved, given.to, given.config, given.source)
    console = Console()
    say(measured_on.notes, measured_on.warnings, console)
    for line in said:
        console.print(line, markup=False, soft_wrap=True)
