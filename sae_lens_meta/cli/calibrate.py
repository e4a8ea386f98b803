"""Gives a saved JumpReLU SAE one threshold per latent and writes it back."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.source import load_source, mixed
from sae_lens_meta.cli.options import parse
from sae_lens_meta.cli.said import say
from sae_lens_meta.destination import held
from sae_lens_meta.measures.calibration import (
    CalibrationReport,
    Rule,
    calibrate,
    selected_per_token,
)
from sae_lens_meta.saved import SavedSAE


@dataclass
class Calibrate:
    """
    Gives a saved JumpReLU SAE one threshold per latent and writes it back.

    Args:
        path (Path): Folder of the saved SAE.
        rule (str): How thresholds are taken: at BatchTopK's own rate, or where as many are missed
            as are added.
        batch (int): Tokens that BatchTopK selects over. They are drawn from 16 times as many, of which
            the activations are held.
        k (float | None): Latents a token, where the SAE does not record it.
    """

    path: Positional[Path]
    rule: Rule = "rate"
    batch: int = 4096
    k: float | None = None
    source: SourceConfig = field(default_factory=SourceConfig)


def run(args: list[str]) -> None:
    """Calibrates one SAE and prints the report."""
    cfg = parse(Calibrate, "calibrate", args)
    if cfg.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {cfg.batch}.")
    SavedSAE.read(cfg.path)  # or an error before the folder is touched
    with held(cfg.path):
        _calibrate(cfg)


def _calibrate(cfg: Calibrate) -> None:
    saved = SavedSAE.read(cfg.path)
    sae = saved.load(cfg.source.device)
    selected_per_token(sae, cfg.k)  # or an error before anything is read
    activations, measured_on = load_source(cfg.source, [saved], to_calibrate=True)
    batches = mixed(activations.stream(cfg.source.tokens), cfg.batch)
    report = calibrate(
        sae, batches, cfg.k, cfg.rule, measured_on.text, measured_on.options
    )
    sae.save_model(cfg.path)
    console = Console()
    warnings = [*measured_on.warnings]
    warnings += [
        f"{said} Latents that are selected on fewer than 100 share a threshold: "
        "--held_out_documents takes more documents."
        for said in activations.shortfall(cfg.source.tokens)
    ]
    say(measured_on.notes, warnings, console)
    console.print(_table(report))
    first, number = measured_on.first_document, measured_on.held_out_documents
    console.print(
        f"Taken on documents {first + 1} to {first + number} of {measured_on.dataset!r}."
    )
    if (cfg.path / "evaluation.json").exists():
        say(
            [],
            [
                f"{cfg.path / 'evaluation.json'} is of the thresholds before. Evaluate again."
            ],
            console,
        )


def _table(report: CalibrationReport) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = {
        "rule": report.rule,
        "tokens read": f"{report.n_tokens:,}",
        "latents that BatchTopK selected on a token": f"{report.k:.2f}",
        "latents with a threshold of their own": f"{report.n_calibrated:,}",
        "selected on fewer than 100 tokens, with one threshold": f"{report.n_rare:,}",
        "never selected, which never fire": f"{report.n_dead:,}",
        "L0 by the old and the new thresholds": f"{report.l0_before:.2f}, {report.l0_after:.2f}",
        "F1 with BatchTopK's selection, before and after": f"{report.f1_before:.4f}, {report.f1_after:.4f}",
        "tokens that the last two lines are taken on": f"{report.n_checked:,}",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    return table
