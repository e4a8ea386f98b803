"""
How the time of a step grows with d_sae and with the batch: a table and a plot.

    python -m benchmarks.growth --plot docs/img/step_growth.png
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
from tqdm.auto import tqdm

from benchmarks.shapes import KINDS, SHAPES, Shape, trainers_that_share_weights
from benchmarks.step import joint_seconds, step_seconds

D_SAES = [4096, 8192, 16384, 32768, 65536]
BATCHES = [512, 1024, 2048, 4096, 8192]
LABELS = {
    "stock": "SAELens batchtopk, solo",
    "solo": "ours, solo",
    "joint": "ours, joint",
}

Times = dict[str, float]


def medians(shape: Shape, n_pairs: int) -> Times:
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    trainers = trainers_that_share_weights(shape)
    for pair in range(n_pairs + 1):
        for kind, trainer in trainers.items():
            taken = (joint_seconds if kind == "joint" else step_seconds)(trainer)
            if pair > 0:  # the first warms up
                times[kind].append(taken)
    return {kind: statistics.median(taken) for kind, taken in times.items()}


def print_table(name: str, rows: dict[int, Times]) -> None:
    print(f"| {name} | stock, s | solo, s | joint, s | joint / stock | joint / solo |")
    print("|---|---|---|---|---|---|")
    for size, times in rows.items():
        stock, solo, joint = (times[kind] for kind in KINDS)
        ratios = f"{joint / stock:.2f} | {joint / solo:.2f}"
        print(f"| {size:,} | {stock:.2f} | {solo:.2f} | {joint:.2f} | {ratios} |")
    print()


def save_plot(panels: dict[str, dict[int, Times]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.6), layout="constrained")
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        for kind in KINDS:
            seconds = [times[kind] for times in rows.values()]
            axis.loglog(list(rows), seconds, marker="o", label=LABELS[kind])
        axis.set_xticks(list(rows), [f"{size:,}" for size in rows], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds per training step")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--plot", type=Path, default=Path("step_growth.png"))
    args = parser.parse_args()
    shapes = {
        "d_sae": {
            d_sae: replace(SHAPES["demo"], d_sae=d_sae, meta_d_sae=round(0.09 * d_sae))
            for d_sae in D_SAES
        },
        "tokens per batch": {
            batch: replace(
                SHAPES["demo"], d_sae=16384, meta_d_sae=1475, meta_k=8, batch=batch
            )
            for batch in BATCHES
        },
    }
    panels = {
        name: {
            size: medians(shape, args.pairs)
            for size, shape in tqdm(sized.items(), desc=name)
        }
        for name, sized in shapes.items()
    }
    for name, rows in panels.items():
        print_table(name, rows)
    save_plot(panels, args.plot)


if __name__ == "__main__":
    main()
