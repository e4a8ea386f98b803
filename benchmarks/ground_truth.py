"""
Which objectives and trainings come nearer to features that are known: docs/ground_truth.md.

    python -m benchmarks.ground_truth tuning         # learning rates, one seed of two kinds of data
    python -m benchmarks.ground_truth convergence    # how many steps a solo SAE takes
    python -m benchmarks.ground_truth confirmation   # five fresh seeds, a kind that nothing was tuned on
    python -m benchmarks.ground_truth correlated     # the same at convergence
    python -m benchmarks.ground_truth exclusive      # at convergence, on another kind that nothing was tuned on
    python -m benchmarks.ground_truth falling        # the same kind, with a rate that falls all along
    python -m benchmarks.ground_truth quarter        # at convergence, hierarchies with a quarter as many latents

Each is a call of `sae-lens-meta groundtruth`, whose results lie in benchmarks/ground_truth: what is there is
not trained again, and the tables are printed from it. An SAE takes some 12 ms of a core for a step.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import sae_lens  # noqa: F401 - registers the architectures
from rich.console import Console

from sae_lens_meta.known_truth.plot import plot_study
from sae_lens_meta.known_truth.study import StudyConfig, run_study
from sae_lens_meta.known_truth.table import print_study

FOLDER = Path(__file__).with_suffix("")
PLAIN = "normalize_activations: none"
SOLO = f"architecture: meta, decomposability_coefficient: 0, {PLAIN}"
META = f"architecture: meta, {PLAIN}"
OVERLAP = f"{META}, penalty: implied_overlap, decomposability_coefficient"
PENALTIES = {
    "decomposability": f"{META}, meta_k: 4",
    "orthogonality": f"{META}, penalty: orthogonality, decomposability_coefficient: 0.1",
    "implied_overlap": f"{OVERLAP}: 1",
}
MATRYOSHKA_OF = "architecture: matryoshka_batchtopk, matryoshka_widths"
MATRYOSHKA = f"{MATRYOSHKA_OF}: [32, 128, 512]"
FRESH = (0, 1, 2, 3, 4)  # seeds that no setting was chosen by
STOCK = {"batchtopk": "architecture: batchtopk", "matryoshka": MATRYOSHKA}


def resampling(steps: int) -> str:
    """Dead rows drawn anew until 70 % of the steps."""
    return f"resample_every: 250, resample_until: {7 * steps // 10}"


def annealing(steps: int) -> str:
    """k from four times its value, over the first half."""
    return f"k_start: 16, k_anneal_steps: {steps // 2}"


def decay(steps: int) -> str:
    """A learning rate that falls to 0 over the last fifth."""
    return f"lr_end: 0, lr_decay_steps: {steps // 5}"


def tuning() -> StudyConfig:
    steps = 4000
    both = f"{resampling(steps)}, {annealing(steps)}"
    saes = {"solo": SOLO, "solo_twice": f"{SOLO}, times: 2"}
    of_rates = PENALTIES | {
        "resampling_annealing": f"{SOLO}, {both}",
        "batchtopk": "architecture: batchtopk",
        "matryoshka": MATRYOSHKA,
    }
    low = ("decomposability", "resampling_annealing", "matryoshka")
    for lr in ("0.001", "0.003", "0.01"):
        if lr != "0.003":
            saes[f"solo_{lr}"] = f"{SOLO}, lr: {lr}"
        for name, settings in of_rates.items():
            if lr != "0.001" or name in low:
                saes[f"{name}_{lr}"] = f"{settings}, lr: {lr}"
    saes["resampling_annealing_decay"] = f"{SOLO}, {both}, {decay(steps)}"
    saes["implied_overlap_all"] = f"{PENALTIES['implied_overlap']}, {both}"
    return study(saes, ("hierarchy_2", "correlated"), (100,), steps)


def convergence() -> StudyConfig:
    steps = 8000
    saes = {
        "solo": f"{SOLO}, {decay(steps)}",
        "solo_twice": f"{SOLO}, {decay(2 * steps)}, times: 2",
        "solo_four": f"{SOLO}, {decay(4 * steps)}, times: 4",
        "solo_0.01": f"{SOLO}, {decay(steps)}, lr: 0.01",
        "solo_falling": f"{SOLO}, {decay(5 * steps)}",
        "solo_falling_0.01": f"{SOLO}, {decay(5 * steps)}, lr: 0.01",
        "solo_beta1_0": f"{SOLO}, {decay(steps)}, adam_beta1: 0.0",
        "solo_beta2_0.999": f"{SOLO}, {decay(steps)}, adam_beta2: 0.999",
        "resampling": f"{SOLO}, {decay(steps)}, {resampling(steps)}",
        "resampling_annealing": f"{SOLO}, {decay(steps)}, {resampling(steps)}, {annealing(steps)}",
    }
    return study(saes, ("hierarchy_2", "correlated"), (100,), steps)


def confirmation() -> StudyConfig:
    return of_all(("hierarchy_2", "scaled"), 8000, {"matryoshka": MATRYOSHKA})


def correlated() -> StudyConfig:
    """Where 16,000 steps bring a solo SAE within 1 % of the MCC that 32,000 do."""
    best = {name: f"{settings}, lr: 0.01" for name, settings in STOCK.items()}
    return of_all(("correlated",), 16_000, best)


def exclusive() -> StudyConfig:
    """Where 8,000 steps bring a solo SAE within 1 % of the MCC that 16,000 and 32,000 do."""
    return of_all(("exclusive",), 8000, STOCK)


def falling() -> StudyConfig:
    """The leading objective with a rate that falls to 0 from the first step to the last."""
    steps = 8000
    saes = {"solo": SOLO, "implied_overlap": PENALTIES["implied_overlap"]}
    saes = {name: f"{settings}, {decay(5 * steps)}" for name, settings in saes.items()}
    return study(saes, ("exclusive",), FRESH, steps)


def quarter() -> StudyConfig:
    """Where hierarchies converge, which `solo_twice` shows: with a quarter as many latents."""
    steps = 4000
    stock = STOCK | {"matryoshka": f"{MATRYOSHKA_OF}: [8, 32, 128]"}
    cfg = of_all(("hierarchy_2", "scaled"), steps, stock)
    more = {
        "implied_overlap_3": f"{OVERLAP}: 3, {decay(steps)}",
        "solo_twice": f"{SOLO}, {decay(2 * steps)}, times: 2",
    }
    return replace(cfg, dictionary=(0.25,), sae=cfg.sae + named(more))


def of_all(data: tuple[str, ...], steps: int, stock: dict[str, str]) -> StudyConfig:
    """Every objective and those of SAELens in `stock`, with five fresh seeds."""
    both = f"{resampling(steps)}, {annealing(steps)}"
    saes = {
        "solo": SOLO,
        "resampling": f"{SOLO}, {resampling(steps)}",
        "resampling_annealing": f"{SOLO}, {both}",
        **PENALTIES,
        "implied_overlap_all": f"{PENALTIES['implied_overlap']}, {both}",
        **stock,
    }
    saes = {name: f"{settings}, {decay(steps)}" for name, settings in saes.items()}
    return study(saes, data, FRESH, steps)


def study(
    saes: dict[str, str], data: tuple[str, ...], seeds: tuple[int, ...], steps: int
) -> StudyConfig:
    return StudyConfig(sae=named(saes), data=data, seeds=seeds, steps=steps)


def named(saes: dict[str, str]) -> tuple[str, ...]:
    """As `--sae` takes them."""
    return tuple(f"{name}={{{settings}}}" for name, settings in saes.items())


STUDIES = {
    f.__name__: f
    for f in (
        tuning,
        convergence,
        confirmation,
        correlated,
        exclusive,
        falling,
        quarter,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data", nargs="+", help="kinds; by default the study's")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default the study's")
    args = parser.parse_args()
    cfg = STUDIES[args.study]()
    cfg.processes, cfg.output = args.processes, FOLDER / args.study
    cfg.data = tuple(args.data or cfg.data)
    cfg.seeds = tuple(args.seeds or cfg.seeds)
    found, console = run_study(cfg), Console(width=200)
    print_study(found, console)
    plot_study(found, cfg.output / "study.png")


if __name__ == "__main__":
    main()
