"""Trains SAEs where the true features are known, and tables how near they come."""

from rich.console import Console

from sae_lens_meta.cli.options import parse
from sae_lens_meta.known_truth.plot import plot_study
from sae_lens_meta.known_truth.study import StudyConfig, run_study
from sae_lens_meta.known_truth.table import print_study


def run(args: list[str]) -> None:
    """Trains what is not trained yet, prints the tables and draws the picture."""
    cfg = parse(StudyConfig, "groundtruth", args)
    study = run_study(cfg)
    console = Console()
    print_study(study, console)
    path = cfg.output / "study.png"
    plot_study(study, path)
    console.print(f"See {path}")
