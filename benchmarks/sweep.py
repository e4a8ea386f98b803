"""
The sweeps by which the SmolLM2 release's settings were chosen: their table and picture.

    python -m benchmarks.sweep table --tokens 2000000
    python -m benchmarks.sweep plot

The lines of benchmarks/sweep.jsonl were made by the script that `sae-lens-meta sweep` has replaced, one for each
setting: `solo`, `base` (the paper's on the recipe's shape, but for meta_lr), or changes of the base's
SAE settings joined by commas; `seed=43` and `lr=0.001` are understood too. They are of the recipe's selection text,
which the final figures do not use. Tables are Markdown, in the order of the settings; the plot is
docs/img/sweep.png.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lens_meta.reproduce.recipe import Recipe, load_recipe
from sae_lens_meta.training.checks import pace

NAME = "metasae-smollm2-135m-instruct-l11"
RESULTS = Path(__file__).with_suffix(".jsonl")
PLOT = Path("docs/img/sweep.png")
SWEPT = 2_000_000
COEFFICIENT = "decomposability_coefficient"
# the settings that those of a sweep change, whatever was selected since; tables are in this order
BASE = {
    "lr": 3e-4,
    "solo": False,
    "seed": 42,
    "meta_steps_per_cycle": 5,
    COEFFICIENT: 0.3,
    "decomposability_bandwidth": 1.0,
    "meta_lr": 3e-3,
    "meta_k": 4,
    "meta_d_sae": 368,
    "primary_steps_per_cycle": 10,
}
SHOWN = {
    "solo": "solo",
    COEFFICIENT: "lambda_2 {:g}",
    "decomposability_bandwidth": "sigma^2 {:g}",
    "meta_steps_per_cycle": "cycle 10/{:g}",
}


def parsed(setting: str) -> dict[str, Any]:
    """All of a setting: BASE, but for what it changes."""
    if setting == "solo":
        return BASE | {"solo": True}
    changes = [part.partition("=") for part in setting.split(",") if setting != "base"]
    return BASE | {key: yaml.safe_load(value) for key, _, value in changes}


def changed(recipe: Recipe, setting: str, tokens: int) -> tuple[Recipe, str]:
    """The recipe with a setting, and the name of the one SAE of it to train."""
    sae = parsed(setting)
    lr, is_solo, seed = (sae.pop(key) for key in ("lr", "solo", "seed"))
    runner = recipe.runner | {"training_tokens": tokens, "n_checkpoints": 0, "lr": lr}
    update = {"seeds": [seed], "runner": runner, "sae": recipe.sae | sae}
    return recipe.model_copy(update=update), f"{'solo' if is_solo else 'joint'}_{seed}"


def results() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def solo_of(setting: str) -> str:
    """The first solo SAE of the same learning rate."""
    lr = [part for part in setting.split(",") if part.startswith("lr=")]
    return f"solo=true,{lr[0]}" if lr else "solo"


def corrected(row: dict[str, Any]) -> float:
    return row["phi"] - row["phi_by_chance"]


def shown(setting: str) -> str:
    """What a setting changes of the base, in the order of the table."""
    changes = [
        SHOWN.get(key, key + " {:g}").format(value)
        for key, value in parsed(setting).items()
        if value != BASE[key]
    ]
    return ", ".join(changes) or "base"


def pace_of(row: dict[str, Any]) -> float:
    """How fast the meta SAE learned beside its primary."""
    recipe, _ = changed(load_recipe(NAME), row["setting"], row["tokens"])
    return pace(recipe.joint, recipe.training.lr)


def to_solo(row: dict[str, Any]) -> tuple[float, float]:
    """L2 and corrected mean |phi| over those of the solo SAEs of the same run."""
    solos = [
        other
        for other in results()
        if parsed(other["setting"])["solo"]
        and solo_of(other["setting"]) == solo_of(row["setting"])
        and other["tokens"] == row["tokens"]
    ]
    l2 = row["l2"] / np.mean([solo["l2"] for solo in solos])
    return float(l2), float(
        corrected(row) / np.mean([corrected(solo) for solo in solos])
    )


def table(tokens: int) -> Iterator[str]:
    """Differences are to the mean of the solo SAEs of the same learning rate; at equal rates,
    to the first of them."""
    yield (
        "| setting | pace | L2 | to solo | phi | to solo | at equal rates | alive "
        "| a fresh meta SAE explains | its own |"
    )
    yield "|---" * 10 + "|"
    rows = [row for row in results() if row["tokens"] == tokens]
    # solo SAEs before the joint ones of their learning rate
    for row in sorted(rows, key=lambda row: _place(parsed(row["setting"]))):
        own, (l2, phi) = row["own_meta_explained"], to_solo(row)
        cells = (
            shown(row["setting"]),
            "" if own is None else f"{pace_of(row):.2g}",
            f"{row['l2']:.4f}",
            f"{l2 - 1:+.1%}",
            f"{corrected(row):.3e}",
            f"{phi - 1:+.1%}",
            f"{row['phi_ratio'] - 1:+.1%}",
            f"{row['n_alive']:,}",
            f"{row['meta_explained']:.3f}",
            "" if own is None else f"{own:.3f}",
        )
        yield f"| {' | '.join(cells)} |"


def _place(setting: dict[str, Any]) -> list[float]:
    return [-value if key == "solo" else value for key, value in setting.items()]


def joint_rows(tokens: int, **fixed: float) -> list[dict[str, Any]]:
    """Joint SAEs trained on so many tokens that have these settings, by pace."""
    fixed |= {"solo": False}
    rows = [row for row in results() if fixed.items() <= parsed(row["setting"]).items()]
    return sorted((row for row in rows if row["tokens"] == tokens), key=pace_of)


def plot() -> None:
    figure = Figure(figsize=(11, 4), layout="constrained")
    paces, bargains = figure.subplots(1, 2, sharey=True)
    plot_paces(paces)
    plot_bargains(bargains)
    figure.savefig(PLOT, dpi=110)


def plot_paces(ax: Axes) -> None:
    """What the meta SAE's pace does in runs of several lengths, all else being the base's."""
    moved = ("lr", "meta_lr", "meta_steps_per_cycle")
    fixed = {key: value for key, value in BASE.items() if key not in moved}
    for colour, tokens in enumerate(sorted({row["tokens"] for row in results()})):
        for lr, line in ((1e-3, "-"), (3e-4, ":")):
            for n_steps, marker in ((5, "o"), (20, "^")):
                changes = {"lr": lr, "meta_steps_per_cycle": n_steps}
                rows = joint_rows(tokens, **fixed | changes)
                fall = [100 * (to_solo(row)[1] - 1) for row in rows]
                label = f"{tokens / 1e6:g} M tokens, lr {lr:g}, cycle 10/{n_steps}"
                if rows:
                    style: dict[str, Any] = {"label": label, "color": f"C{colour}"}
                    ax.plot(list(map(pace_of, rows)), fall, line + marker, **style)
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set_xscale("log")
    ax.set_xticks([0.15, 0.5, 1.5, 5], ["0.15", "0.5", "1.5", "5"], minor=False)
    ax.minorticks_off()
    ax.set_xlabel("pace of the meta SAE")
    ax.set_ylabel("corrected mean |phi| to solo, %")
    ax.legend(fontsize="small")


def plot_bargains(ax: Axes) -> None:
    """What each setting costs, and what it brings, by both measures."""
    for coefficient in (0.1, 0.3, 1.0):
        rows = joint_rows(SWEPT, **{"lr": 1e-3, COEFFICIENT: coefficient})
        l2, phi = zip(*map(to_solo, rows), strict=True)
        cost = 100 * (np.array(l2) - 1)
        (drawn,) = ax.plot(
            cost, 100 * (np.array(phi) - 1), "o", label=f"lambda_2 {coefficient:g}"
        )
        at_equal = [100 * (row["phi_ratio"] - 1) for row in rows]
        ax.plot(cost, at_equal, "o", color=drawn.get_color(), fillstyle="none")
    ax.plot([], [], "o", color="grey", fillstyle="none", label="at equal firing rates")
    ax.axhline(0, color="black", linewidth=0.5)
    ax.set_xlabel(f"normalised L2 to solo, %, at {SWEPT / 1e6:g} M tokens")
    ax.legend()


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    showing = commands.add_parser("table")
    showing.add_argument("--tokens", type=int, default=SWEPT)
    commands.add_parser("plot")
    args = parser.parse_args()
    if args.command == "table":
        print("\n".join(table(args.tokens)))
    else:
        plot()


if __name__ == "__main__":
    main()
