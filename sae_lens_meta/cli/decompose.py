"""Takes the latents of any SAE apart into meta latents, and says whether that is a finding."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.decomposition.decompose import checked, opened
from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.fit import FitSettings
from sae_lens_meta.decomposition.folder import FOLDER, RECORD, write
from sae_lens_meta.decomposition.given import given_sae
from sae_lens_meta.decomposition.table import decomposition_table
from sae_lens_meta.destination import check_new
from sae_lens_meta.extras import MissingExtra

PICTURE = "decomposition.svg"


@dataclass
class Decompose:
    """
    Takes the latents of any SAE apart into meta latents.

    The meta SAE that was trained with the SAE is opened; where there is none, one is fitted. How much it
    explains is shown beside what is explained of rows without parts, and how many of its meta
    latents come back with another seed.

    Args:
        name (str): Folder of a saved SAE, or name of a release.
        release (str | None): Name of a release of SAELens, in the place of the former.
        sae_id (str | None): Which SAE of the release; may be left out where there is one.
        output (Path | None): Folder for the meta SAE. By default "decomposition" in that of the SAE, and
            for a release, here.
        overwrite (bool): Replace one that was written before.
        refit (bool): Fit a meta SAE also where one was trained with the SAE.
    """

    name: Positional[str] = ""
    release: str | None = None
    sae_id: str | None = None
    output: Path | None = None
    overwrite: bool = False
    refit: bool = False
    fit: FitSettings = field(default_factory=FitSettings)


def run(args: list[str]) -> None:
    """Takes one SAE apart, prints what there is to say of it and writes it."""
    cfg = parse(Decompose, "decompose", args)
    given = given_sae(_name(cfg), cfg.sae_id)
    output = cfg.output or (given.folder or Path()) / FOLDER
    check_new(output / RECORD, cfg.overwrite)
    found = checked(opened(given, cfg.fit, cfg.refit), cfg.fit)
    console = Console()
    console.print(decomposition_table(found, given.name))
    write(found, output, given.name)
    _draw(found, output / PICTURE, console)
    console.print(f"Written: {output}", soft_wrap=True)


def _draw(found: Decomposition, path: Path, console: Console) -> None:
    try:
        from sae_lens_meta.report.decomposition import draw_decomposition
    except MissingExtra as error:
        say([f"No picture: {error}"], [], console)
    else:
        draw_decomposition(found, path)


def _name(cfg: Decompose) -> str:
    names = [name for name in (cfg.name, cfg.release) if name]
    if len(names) != 1:
        raise ValueError(
            "Give one SAE: the folder of a saved one or the name of a release, or --release and "
            "--sae_id."
        )
    return names[0]
