"""Measures a saved SAE and writes evaluation.json beside it, or for a release, here."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from tyro.conf import Positional

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.destination import check_new, held
from sae_lens_meta.measures.evaluate import evaluate
from sae_lens_meta.measures.figures import evaluation_table
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.zoo.names import sae_folder


@dataclass
class Evaluate:
    """
    Measures a saved SAE and writes evaluation.json beside it, or for a release, here.

    Args:
        name (str): Folder of the saved SAE, or name of a release.
        output (Path | None): Where to write the figures.
        overwrite (bool): Replace figures written before.
        ce_tokens (int): Tokens to run the whole model on.
        shift_null (bool): Also count which latents fire together in two different contexts: what
            bursts and positions alone give mean |phi|; takes 4 bytes a pair more.
    """

    name: Positional[str]
    output: Path | None = None
    overwrite: bool = False
    ce_tokens: int = 4096
    shift_null: bool = False
    source: SourceConfig = field(default_factory=SourceConfig)


def run(args: list[str]) -> None:
    """Measures one SAE, prints its figures and writes them."""
    cfg = parse(Evaluate, "evaluate", args)
    saved = SavedSAE.read(sae_folder(cfg.name))
    is_release = not Path(cfg.name).is_dir()
    beside = Path() if is_release else saved.path
    target = cfg.output or beside / "evaluation.json"
    check_new(target, cfg.overwrite, ".json")
    with held(target.parent, f".{target.name}.lock"):
        check_new(target, cfg.overwrite, ".json")  # a run before may just have ended
        _evaluate(cfg, saved, target)


def _evaluate(cfg: Evaluate, saved: SavedSAE, target: Path) -> None:
    sae = saved.load(cfg.source.device)
    source, measured_on = load_source(cfg.source, [saved])
    n_tokens, name = cfg.source.tokens, Path(cfg.name).name
    result = evaluate(name, sae, source, n_tokens, cfg.ce_tokens, cfg.shift_null)
    console = Console()
    measured_on.warnings += source.shortfall(n_tokens)
    say(measured_on.notes, measured_on.warnings, console)
    console.print(evaluation_table([result], measured_on))
    result.save(target, measured_on, saved.weights_sha256)
    console.print(f"Written: {target}")
