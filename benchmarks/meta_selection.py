"""
What it changes to hold the selection of meta latents for a cycle: known truth, whole trainings.

    python -m benchmarks.meta_selection run        # ten minutes on 2 cores
    python -m benchmarks.meta_selection table

Kinds of data of `sae-lens-meta groundtruth`, and for every seed other data, weights and order. Two
SAEs of one seed differ in `meta_selection` alone; how far their figures lie apart is held against
how far those of two seeds lie apart with `every_step`. In each step with a held selection the
penalty and its gradient are also taken with a new one.

On SmolLM2, 500,000 tokens, the lines of meta_selection_smollm2.jsonl were made by the script that
`sae-lens-meta sweep` has replaced.
"""

import argparse
import json
import os
from dataclasses import asdict
from functools import partial
from itertools import combinations, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens.training.sae_trainer import SAETrainer
from scipy import stats
from tqdm.auto import tqdm

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.known_truth.data import KnownTruth
from sae_lens_meta.known_truth.figures import truth_figures
from sae_lens_meta.known_truth.objective import parse_objective
from sae_lens_meta.known_truth.training import exported
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.penalty import decomposability

DATA = ("correlated", "hierarchy_1")
SEEDS = range(5)
STEPS, BATCH, TEST_SAMPLES = 1500, 512, 25_000
D_SAE, K, LR = 512, 4, 1e-3
JOINT = (
    "{{architecture: meta, meta_k: 4, meta_lr: 3.0e-3, meta_selection: {}, "
    "normalize_activations: none}}"
)
MODES = ("every_step", "cycle")
FIGURES = {
    "L2": "l2",
    "mean |phi|": "phi",
    "MCC": "mcc",
    "F1": "f1",
    "uniqueness": "uniqueness",
}
RESULTS = Path(__file__).with_suffix(".jsonl")
SMOLLM2 = RESULTS.with_name("meta_selection_smollm2.jsonl")
ON_SMOLLM2 = {
    "L2": "l2",
    "mean |phi|": "phi",
    "|phi| at equal rates": "phi_ratio",
    "post-hoc meta-explained": "meta_explained",
    "silent": "n_silent",
}


def new_trainer(truth: KnownTruth, mode: str) -> SAETrainer[Any, Any]:
    objective = parse_objective(f"{mode}={JOINT.format(mode)}")
    torch.manual_seed(truth.seed)
    sae = objective.new_sae(truth.d_in, D_SAE, K, truth.seed)
    return SAETrainer(objective.trainer_config(STEPS, BATCH, LR), sae, iter(()))


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
    truth = KnownTruth(data, seed)
    trainers = {mode: new_trainer(truth, mode) for mode in MODES}
    errors = []
    for batch in islice(truth.batches(BATCH), STEPS):
        for mode, trainer in trainers.items():
            trainer.step(batch)
            trainer.n_training_steps += 1
            if mode == "cycle":
                errors.append(off_by(trainer.sae))
    penalty, gradient = np.abs(errors).mean(axis=0)
    test = truth.test_samples(TEST_SAMPLES)
    results = []
    for mode, trainer in trainers.items():
        figures = truth_figures(exported(trainer.sae), truth, test, with_premise=False)
        off = {"off_penalty": float(penalty), "off_gradient": float(gradient)}
        line = {"data": data, "seed": seed, "mode": mode}
        results.append(line | asdict(figures) | off)
    return results


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
