"""Writes an atlas: a page to walk through an SAE's latents and what they are made of."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.atlas.atlas import NO_TEXT, Attached, make_atlas
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.destination import check_new


@dataclass
class Atlas:
    """
    Writes an atlas: a page to walk through an SAE's latents and what they are made of.

    One HTML file that needs no network. With `--dataset none` it has no contexts, and the language model is
    loaded only where `--model` is given, for the tokens that latents promote.

    Args:
        name (str): Folder of a saved SAE, or name of a release of this package or of SAELens.
        sae_id (str | None): Which SAE of a release; may be left out where there is one.
        output (Path): The page.
        overwrite (bool): Replace one written before.
        decomposition (Path | None): Folder that `decompose` wrote. By default the one in the SAE's folder, or
            else the meta SAE that was trained with it; where there is none, one is fitted.
        autointerp (Path | None): Output of `autointerp`, for a judge's explanations.
        comparison (Path | None): Output of `compare`, for the matches in its first solo SAE.
    """

    name: Positional[str]
    sae_id: str | None = None
    output: Path = Path("atlas.html")
    overwrite: bool = False
    decomposition: Path | None = None
    autointerp: Path | None = None
    comparison: Path | None = None
    source: SourceConfig = field(
        default_factory=partial(SourceConfig, dataset=NO_TEXT, tokens=60_000)
    )


def run(args: list[str]) -> None:
    """Writes one page, and prints what it says of itself."""
    cfg = parse(Atlas, "atlas", args)
    check_new(cfg.output, cfg.overwrite, ".html")
    attached = Attached(cfg.decomposition, cfg.autointerp, cfg.comparison)
    facts = make_atlas(cfg.name, cfg.sae_id, attached, cfg.source, cfg.output)
    console = Console()
    say([facts.lead, *facts.notes], [], console)
    size = cfg.output.stat().st_size / 1e6
    console.print(f"Written: {cfg.output} ({size:.1f} MB)")
