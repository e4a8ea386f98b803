"""
What it changes to hold the selection of meta latents for a cycle: known truth, whole trainings.

    python -m benchmarks.meta_selection run        # ten minutes on 2 cores
    python -m benchmarks.meta_selection table

The data of `benchmarks.ground_truth`, and for every seed other data, weights and order. Two SAEs
of one seed differ in `meta_selection` alone; how far their figures lie apart is held against how
far those of two seeds lie apart with `every_step`. In each step with a held selection the
penalty and its gradient are also taken with a new one.

On SmolLM2 the trainings are those of `benchmarks.sweep`, on 500,000 tokens, and their lines are in
meta_selection_smollm2.jsonl:

    python -m benchmarks.sweep run RUN_FOLDER --recipe RECIPE --tokens 500000 solo \\
        seed=42,meta_selection=every_step seed=42,meta_selection=cycle ...
"""

import argparse
import json
import os
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from tqdm.auto import tqdm

from benchmarks.ground_truth import (
    BATCH,
    DATA,
    FIGURES,
    STEPS,
    TEST_SAMPLES,
    Setting,
    exported,
    measure,
    new_trainer,
    synthetic_model,
)
from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.penalty import decomposability

SEEDS = range(5)
K = 4
PENALTY = Setting(0.3, 1.0, 3e-3)
MODES = ("every_step", "cycle")
RESULTS = Path(__file__).with_suffix(".jsonl")
SMOLLM2 = RESULTS.with_name("meta_selection_smollm2.jsonl")
ON_SMOLLM2 = {
    "L2": "l2",
    "mean |phi|": "phi",
    "|phi| at equal rates": "phi_ratio",
    "post-hoc meta-explained": "meta_explained",
    "silent": "n_silent",
}


def off_by(sae: MetaTrainingSAE) -> tuple[float, float]:
    """Relative error of the mean penalty with what is held, and of its gradient."""
    assert sae.meta_sae is not None
    found = []
    every_step = partial(MetaSAE.reconstruct, sae.meta_sae)
    for reconstruct in (sae.meta_sae.reconstruct, every_step):
        W_dec = sae.W_dec.detach().clone().requires_grad_()
        recons = reconstruct(W_dec.detach())
        bandwidth = sae.cfg.decomposability_bandwidth
        penalty = decomposability(W_dec, recons, bandwidth).penalties.mean()
        (gradient,) = torch.autograd.grad(penalty, W_dec)
        found.append((penalty.detach(), gradient))
    (held, held_gradient), (anew, gradient) = found
    error = (held_gradient - gradient).norm() / gradient.norm()
    return float(held / anew - 1), float(error)


def perform(run: tuple[str, int]) -> list[dict[str, Any]]:
    data, seed = run
    torch.set_num_threads(1)
    model = synthetic_model(data, seed)
    torch.manual_seed(seed)
    test = model.sample_with_features(TEST_SAMPLES)
    trainers = {
        mode: new_trainer(seed, K, PENALTY, meta_selection=mode) for mode in MODES
    }
    errors = []
    for _ in range(STEPS):
        batch = model.sample(BATCH)
        for mode, trainer in trainers.items():
            trainer.step(batch)
            trainer.n_training_steps += 1
            if mode == "cycle":
                errors.append(off_by(trainer.sae))
    penalty, gradient = np.abs(errors).mean(axis=0)
    return [
        {"data": data, "seed": seed, "mode": mode}
        | measure(model, test, exported(trainer.sae))
        | {"off_penalty": float(penalty), "off_gradient": float(gradient)}
        for mode, trainer in trainers.items()
    ]


def run_all(n_processes: int) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    runs = [(data, seed) for seed in SEEDS for data in DATA]
    RESULTS.unlink(missing_ok=True)
    with get_context("spawn").Pool(n_processes) as pool:
        found = pool.imap_unordered(perform, runs)
        for results in tqdm(found, total=len(runs), desc="Runs"):
            with RESULTS.open("a") as file:
                file.writelines(json.dumps(result) + "\n" for result in results)


def line(label: str, exact: list[float], held: list[float]) -> str:
    """Percent between pairs of one seed, its interval, and percent between seeds."""
    change = 100 * (np.array(held) / np.array(exact) - 1)
    half = stats.t.ppf(0.975, len(change) - 1) * stats.sem(change)
    apart = np.mean([abs(a - b) for a, b in combinations(exact, 2)])
    spread = 100 * apart / np.mean(exact)
    return f"| {label} | {change.mean():+.2f} | ± {half:.2f} | {spread:.2f} |"


def table() -> None:
    rows = [json.loads(text) for text in RESULTS.read_text().splitlines()]
    print("| data | figure | held - every step, % | t interval | seeds apart, % |")
    print("|---|---|---|---|---|")
    for data in DATA:
        of_data = {(r["mode"], r["seed"]): r for r in rows if r["data"] == data}
        for label, figure in FIGURES.items():
            exact, held = ([of_data[m, s][figure] for s in SEEDS] for m in MODES)
            print(line(f"{data} | {label}", exact, held))
        penalty, gradient = (
            100 * np.mean([r[f"off_{what}"] for r in of_data.values()])
            for what in ("penalty", "gradient")
        )
        print(
            f"{data}: in a step, the penalty is off by {penalty:.2f} %, its gradient by "
            f"{gradient:.1f} %\n"
        )
    found = [json.loads(text) for text in SMOLLM2.read_text().splitlines()]
    for label, figure in ON_SMOLLM2.items():
        exact, held = (
            [r[figure] for r in found if r["setting"].endswith(mode)] for mode in MODES
        )
        print(line(f"SmolLM2 | {label}", exact, held))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.command == "run":
        run_all(args.processes)
    else:
        table()


if __name__ == "__main__":
    main()
