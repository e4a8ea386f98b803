"""
Does the penalty find the true features? A study on data whose features are known.

    python -m benchmarks.ground_truth run       # half an hour on 2 cores; goes on where it was killed
    python -m benchmarks.ground_truth table     # what was found, and docs/img/ground_truth.png

Data of `sae_lens.synthetic`: features whose firing is correlated, and hierarchies, where a child
fires only when its parent does and SAEs absorb the parent into the children. For every
seed there is other data, other weights and another order, and each joint run is held
against the solo of its own seed, and against that solo stopped as early as it takes to
reconstruct as badly: the control at equal L2, since worse reconstruction alone moves every
figure. L0 is equal throughout, BatchTopK having set it.
"""

import argparse
import json
import os
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.synthetic import (
    HierarchyConfig,
    LowRankCorrelationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
    compute_classification_metrics,
    feature_uniqueness,
    mean_correlation_coefficient,
)
from sae_lens.training.sae_trainer import SAETrainer
from scipy import stats
from tqdm.auto import tqdm

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.phi import summarize_phi
from sae_lens_meta.measures.reconstruction import ReconstructionMeter

D_IN, N_FEATURES, D_SAE = 64, 512, 512
STEPS, BATCH = 1500, 512
EARLY_STEPS = (200, 300, 400, 550, 750, 1000, 1250)
TEST_SAMPLES = 25_000
SEEDS = range(5)
RESULTS = Path("benchmarks/ground_truth.jsonl")
PLOT = Path("docs/img/ground_truth.png")
DATA: dict[str, dict[str, Any]] = {
    "correlated": {
        "correlation": LowRankCorrelationConfig(rank=16, correlation_scale=0.1)
    },
    "hierarchies": {
        "hierarchy": HierarchyConfig(
            total_root_nodes=100,
            branching_factor=4,
            max_depth=1,
            compensate_probabilities=True,
        )
    },
}
Samples = tuple[torch.Tensor, torch.Tensor]  # activations and true features
KS = (4, 8)  # the true L0 is 4.2


@dataclass(frozen=True)
class Setting:
    """Of the penalty; `coefficient` 0 is solo."""

    coefficient: float = 0.0
    bandwidth: float = 1.0
    meta_lr: float = 3e-4

    def __str__(self) -> str:
        return f"{self.coefficient:g}, {self.bandwidth:g}, {self.meta_lr:g}"


SOLO = Setting()
JOINT = (
    Setting(0.1, 1.0, 3e-4),
    Setting(0.3, 1.0, 3e-4),
    Setting(0.1, 1.0, 3e-3),
    Setting(0.3, 1.0, 3e-3),
    Setting(0.3, 0.3, 3e-3),
    Setting(1.0, 1.0, 3e-3),
)


@dataclass(frozen=True)
class Run:
    """A training of every setting at every k on the same samples."""

    data: str
    seed: int


@dataclass
class Result:
    """What one SAE shows, after so many steps."""

    data: str
    k: int
    seed: int
    setting: Setting
    steps: int
    normalized_l2: float
    l0: float
    true_l0: float
    corrected_phi: float
    mcc: float
    f1: float
    uniqueness: float
    dead: int


FIGURES = {
    "L2": "normalized_l2",
    "mean |phi|": "corrected_phi",
    "MCC": "mcc",
    "F1": "f1",
    "uniqueness": "uniqueness",
}


def synthetic_model(data: str, seed: int) -> SyntheticModel:
    return SyntheticModel(
        SyntheticModelConfig(
            num_features=N_FEATURES,
            hidden_dim=D_IN,
            firing_probability=ZipfianFiringProbabilityConfig(
                exponent=1.0, max_prob=0.3, min_prob=0.005
            ),
            std_firing_magnitudes=0.3,
            bias=False,
            seed=seed,
            **DATA[data],
        )
    )


def new_trainer(
    seed: int, k: int, setting: Setting, **changes: Any
) -> SAETrainer[Any, Any]:
    sae: Any = MetaTrainingSAE(
        MetaTrainingSAEConfig(
            d_in=D_IN,
            d_sae=D_SAE,
            k=k,
            decomposability_coefficient=setting.coefficient,
            decomposability_bandwidth=setting.bandwidth,
            meta_lr=setting.meta_lr,
            meta_k=4,
            init_seed=seed,
            **changes,
        )
    )
    cfg = SAETrainerConfig(
        total_training_samples=STEPS * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-3,
        lr_end=1e-3,
        adam_beta2=0.99,
        dead_feature_window=50,
    )
    return SAETrainer(cfg, sae, iter(()))


def perform(run: Run) -> list[Result]:
    torch.set_num_threads(1)
    model = synthetic_model(run.data, run.seed)
    torch.manual_seed(run.seed)
    test = model.sample_with_features(TEST_SAMPLES)
    trainers = {
        (k, setting): new_trainer(run.seed, k, setting)
        for k, setting in product(KS, (SOLO, *JOINT))
    }
    results = []
    for step in range(1, STEPS + 1):
        batch = model.sample(BATCH)
        for (k, setting), trainer in trainers.items():
            trainer.step(batch)
            trainer.n_training_steps += 1
            if step == STEPS or (setting == SOLO and step in EARLY_STEPS):
                found = measure(model, test, exported(trainer.sae))
                results.append(
                    Result(**vars(run), k=k, setting=setting, steps=step, **found)
                )
    return results


def exported(sae: MetaTrainingSAE) -> SAE[Any]:
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return SAE.load_from_disk(folder)


@torch.no_grad()
def measure(model: SyntheticModel, test: Samples, sae: SAE[Any]) -> dict[str, Any]:
    """Figures on samples that no training saw, the same ones for every SAE of a run."""
    x, features = test
    meter, counter = ReconstructionMeter(sae), CooccurrenceCounter(D_SAE)
    acts = meter.update(x)
    counter.update(acts)
    true = model.feature_dict.feature_vectors
    reconstruction = meter.result()
    return {
        "normalized_l2": reconstruction.normalized_l2,
        "l0": reconstruction.l0,
        "true_l0": (features > 0).sum(1).float().mean().item(),
        "corrected_phi": summarize_phi(counter).corrected,
        "mcc": mean_correlation_coefficient(sae.W_dec, true),  # type: ignore[arg-type]
        "f1": compute_classification_metrics(acts, features, sae.W_dec, true).f1_score,  # type: ignore[arg-type]
        "uniqueness": feature_uniqueness(sae.W_dec, true),  # type: ignore[arg-type]
        "dead": reconstruction.n_silent,
    }


def load() -> list[Result]:
    if not RESULTS.exists():
        return []
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return [Result(**{**row, "setting": Setting(**row["setting"])}) for row in rows]


def run_all(n_processes: int) -> None:
    done = {Run(result.data, result.seed) for result in load()}
    wanted = [Run(data, seed) for seed, data in product(SEEDS, DATA)]
    missing = [run for run in wanted if run not in done]
    # threads of several processes wait for each other: one each, for numba too
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with get_context("spawn").Pool(n_processes) as pool:
        runs = pool.imap_unordered(perform, missing)
        for results in tqdm(runs, total=len(missing), desc="Runs"):
            with RESULTS.open("a") as file:
                file.writelines(json.dumps(asdict(r)) + "\n" for r in results)


def at_equal_l2(solo: list[Result], l2: float, figure: str) -> float:
    """A figure of the solo stopped where its L2 was `l2`, between the steps measured."""
    path = sorted(solo, key=lambda result: result.normalized_l2)
    errors = [result.normalized_l2 for result in path]
    return float(np.interp(l2, errors, [getattr(result, figure) for result in path]))


def interval(values: list[float], spec: str) -> str:
    """Mean, and half of its 95 % interval over seeds."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):{spec}} ± {half:{spec.lstrip('+')}}"


def percent_changes(
    results: list[Result], data: str, k: int, setting: Setting
) -> dict[str, dict[str, list[float]]]:
    """For every figure, by seed, percent above the solo and above the solo at equal L2."""
    changes: dict[str, dict[str, list[float]]] = {
        label: {"solo": [], "equal L2": []} for label in FIGURES
    }
    for seed in SEEDS:
        of_seed = [r for r in results if (r.data, r.k, r.seed) == (data, k, seed)]
        joint = [r for r in of_seed if r.setting == setting]
        solo = [r for r in of_seed if r.setting == SOLO]
        if not joint or not solo:
            continue
        final = max(solo, key=lambda result: result.steps)
        for label, figure in FIGURES.items():
            value = getattr(joint[0], figure)
            control = at_equal_l2(solo, joint[0].normalized_l2, figure)
            changes[label]["solo"].append(100 * (value / getattr(final, figure) - 1))
            changes[label]["equal L2"].append(100 * (value / control - 1))
    return changes


def silent_latents(
    results: list[Result], data: str, k: int, setting: Setting
) -> tuple[float, float]:
    """Of the joint SAE and of the solo at equal L2, means over seeds."""
    found = []
    for seed in SEEDS:
        of_seed = [r for r in results if (r.data, r.k, r.seed) == (data, k, seed)]
        solo = [r for r in of_seed if r.setting == SOLO]
        for joint in (r for r in of_seed if r.setting == setting):
            control = at_equal_l2(solo, joint.normalized_l2, "dead")
            found.append((joint.dead, control))
    joint, control = np.mean(found, axis=0)
    return joint, control


def print_tables(results: list[Result], console: Console) -> None:
    for data, k in product(DATA, KS):
        solo = [
            r
            for r in results
            if (r.data, r.k, r.setting, r.steps) == (data, k, SOLO, STEPS)
        ]
        if len(solo) < 2:
            continue
        console.print(
            f"\n{data}, k {k}, true L0 {np.mean([r.true_l0 for r in solo]):.1f}, "
            f"{len(solo)} seeds. Solo: "
            + ", ".join(
                f"{label} {interval([getattr(r, f) for r in solo], '.4f')}"
                for label, f in FIGURES.items()
            )
        )
        every = [r for r in results if (r.data, r.k, r.steps) == (data, k, STEPS)]
        l0, silent = [r.l0 for r in every], [r.dead for r in every]
        console.print(
            f"Of all finished SAEs, L0 {min(l0):.2f} to {max(l0):.2f}, silent latents "
            f"{min(silent)} to {max(silent)} of {D_SAE}"
        )
        table = Table("lambda_2, sigma^2, meta_lr", "percent above")
        for label in FIGURES:
            table.add_column(label, justify="right")
        table.add_column("silent: joint, solo at equal L2", justify="right")
        for setting in JOINT:
            changes = percent_changes(results, data, k, setting)
            joint, control = silent_latents(results, data, k, setting)
            for baseline in ("solo", "equal L2"):
                values = [changes[label][baseline] for label in FIGURES]
                if len(values[0]) > 1:
                    cells = (interval(v, "+.1f") for v in values)
                    silent = f"{joint:.0f}, {control:.0f}"
                    is_first = baseline == "solo"
                    table.add_row(
                        str(setting), baseline, *cells, "" if is_first else silent
                    )
        console.print(table)


def print_summary(results: list[Result], console: Console) -> None:
    """In how many settings the interval over seeds lies above or below 0."""
    table = Table("figure, percent above", "above 0", "below 0", "least", "most")
    settings = list(product(DATA, KS, JOINT))
    for baseline, label in product(("solo", "equal L2"), FIGURES):
        means, halves = [], []
        for data, k, setting in settings:
            values = percent_changes(results, data, k, setting)[label][baseline]
            means.append(np.mean(values))
            halves.append(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
        lower, upper = np.subtract(means, halves), np.add(means, halves)
        counts = f"{(lower > 0).sum()}", f"{(upper < 0).sum()}"
        ends = f"{min(means):+.1f}", f"{max(means):+.1f}"
        table.add_row(f"{label}, {baseline}", *counts, *ends)
    console.print(f"\nOf {len(settings)} settings:")
    console.print(table)


def plot(results: list[Result]) -> None:
    figure = Figure(figsize=(9, 7), layout="constrained")
    for ax, (data, k) in zip(
        figure.subplots(2, 2).flat, product(DATA, KS), strict=True
    ):
        for setting in JOINT:
            changes = percent_changes(results, data, k, setting)
            phi, mcc = changes["mean |phi|"]["equal L2"], changes["MCC"]["equal L2"]
            ax.plot(phi, mcc, "o", label=str(setting), alpha=0.7)
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.axvline(0, color="grey", linewidth=0.8)
        ax.set_title(f"{data}, k {k}")
        ax.set_xlabel("mean |phi|, % above solo at equal L2")
        ax.set_ylabel("MCC, % above solo at equal L2")
    labels = figure.axes[0].get_legend_handles_labels()
    title = "lambda_2, sigma^2, meta_lr; a point is a seed"
    figure.legend(*labels, title=title, loc="outside lower center", ncols=6)
    figure.savefig(PLOT, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["run", "table"])
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.action == "run":
        run_all(args.processes)
    results = load()
    print_tables(results, Console(width=140))
    print_summary(results, Console(width=140))
    plot(results)


if __name__ == "__main__":
    main()
