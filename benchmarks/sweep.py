"""
Sweeps of the SmolLM2 release, on the activations that `sae-lens-meta reproduce` has cached.

    python -m benchmarks.sweep run RUN_FOLDER --tokens 2000000 solo base meta_lr=0.01
    python -m benchmarks.sweep table

A setting is `solo`, `base` (the paper's on the recipe's shape, but for meta_lr), or changes of
the base's SAE settings joined by commas; `seed=43` and `lr=0.001` are understood too. Each
result is a line of benchmarks/sweep.jsonl, measured on the recipe's selection text, which the
final figures do not use. Settings that have their line are passed over, and SAEs that are
there are not trained again.
"""

import argparse
import json
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from sae_lens import SAE

from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter
from sae_lens_meta.evaluation.meta_structure import meta_explained_variance
from sae_lens_meta.evaluation.phi import summarize_phi
from sae_lens_meta.evaluation.phi_by_rate import phi_by_rate
from sae_lens_meta.evaluation.reconstruction import ReconstructionMeter
from sae_lens_meta.penalty import unit_rows
from sae_lens_meta.recipe import Recipe, load_recipe
from sae_lens_meta.reproduce.cache import SHARD_TOKENS, CachedActivations
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.training import train_together
from sae_lens_meta.training_sae import META_FOLDER, meta_fit

NAME = "metasae-smollm2-135m-instruct-l11"
RESULTS = Path(__file__).with_suffix(".jsonl")
MIN_FIRED = 30
# the settings that those of a sweep change, whatever was selected since
BASE_LR = 3e-4
BASE = {
    "decomposability_coefficient": 0.3,
    "decomposability_bandwidth": 1.0,
    "primary_steps_per_cycle": 10,
    "meta_steps_per_cycle": 5,
    "meta_lr": 3e-3,
}


def changed(recipe: Recipe, setting: str, tokens: int) -> tuple[Recipe, str]:
    """The recipe with a setting, and the name of the one SAE of it to train."""
    changes: dict[str, Any] = {}
    if setting not in ("solo", "base"):
        pairs = [part.partition("=") for part in setting.split(",")]
        changes = {key: yaml.safe_load(value) for key, _, value in pairs}
    seed = changes.pop("seed", recipe.seeds[0])
    runner = recipe.runner | {"training_tokens": tokens, "n_checkpoints": 0}
    runner["lr"] = changes.pop("lr", BASE_LR)
    is_solo = setting == "solo" or changes.pop("solo", False)
    update = {"seeds": [seed], "runner": runner, "sae": recipe.sae | BASE | changes}
    return recipe.model_copy(update=update), f"{'solo' if is_solo else 'joint'}_{seed}"


def trained(folder: Path, recipe: Recipe, setting: str, tokens: int) -> Path:
    """Folder of the SAE of a setting, which is trained unless it is there."""
    variant, name = changed(recipe, setting, tokens)
    path = folder / "sweep" / f"{setting}_{tokens}" / name
    if not path.is_dir():
        run = Run(variant, folder, "cpu", groups=[[name]])
        batch = variant.training.train_batch_size_tokens
        kept = folder / "activations" / "train"
        store = CachedActivations(kept, recipe.hook, batch, 0)
        # the first of the text, so that a sweep needs not wait for all of it
        store.shards = store.shards[: ceil(tokens / SHARD_TOKENS)]
        cfg, held_out = run.runner_config([name], tokens), run.held_out_metadata()
        train_together(cfg, store, path.parent / "checkpoints", path.parent, held_out)
    return path


def counted(run: Run, path: Path) -> tuple[ReconstructionMeter, CooccurrenceCounter]:
    sae = SAE.load_from_disk(path)
    meter = ReconstructionMeter(sae)
    counter = CooccurrenceCounter(sae.cfg.d_sae)
    for batch in run.selection():
        counter.update(meter.update(batch) > 0)
    return meter, counter


def measure(
    folder: Path, recipe: Recipe, setting: str, tokens: int
) -> dict[str, float | None]:
    run = Run(recipe, folder, "cpu")
    path = trained(folder, recipe, setting, tokens)
    meter, counter = counted(run, path)
    result = meter.result()
    alive = meter.fired >= MIN_FIRED
    phi, by_rate = summarize_phi(counter, alive), phi_by_rate(counter, alive)
    meter, counter = counted(run, trained(folder, recipe, solo_of(setting), tokens))
    reference = phi_by_rate(counter, meter.fired >= MIN_FIRED)
    return {
        "l2": result.normalized_l2,
        "l0": result.l0,
        "n_silent": result.n_silent,
        "n_alive": int(alive.sum()),
        "phi": phi.mean_abs,
        "phi_by_chance": phi.expected_by_chance,
        "n_measured": result.n_tokens,
        "meta_explained": meta_explained_variance(
            SAE.load_from_disk(path).W_dec, 368, 4
        ),
        "own_meta_explained": own_fit(path),
        "phi_ratio": by_rate.ratio_at_equal_rates(reference),
    }


def own_fit(path: Path) -> float | None:
    """Share of the variance of an SAE's decoder rows that its own meta SAE explains."""
    if not (path / META_FOLDER).is_dir():
        return None
    rows = unit_rows(SAE.load_from_disk(path).W_dec.detach())
    recons = SAE.load_from_disk(path / META_FOLDER)(rows).detach()
    mse = (rows - recons).pow(2).sum(-1)
    return float(meta_fit(rows, mse)["meta_explained_variance"])


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


def table(tokens: int) -> Table:
    """Differences are to the mean of the solo SAEs of the same learning rate; at equal rates,
    to the first of them."""
    rows = [row for row in results() if row["tokens"] == tokens]
    shown = Table(title=f"{tokens:,} tokens")
    columns = ("L2", "to solo", "phi", "to solo", "at equal rates", "L0", "alive")
    shown.add_column("setting")
    for column in (*columns, "a fresh meta SAE explains", "its own"):
        shown.add_column(column, justify="right")
    for row in rows:
        solos = [
            r
            for r in rows
            if "solo" in r["setting"]
            and solo_of(r["setting"]) == solo_of(row["setting"])
        ]

        def to_solo(value: Callable[[dict[str, Any]], float], row=row, solos=solos):  # type: ignore[no-untyped-def]
            return f"{value(row) / np.mean([value(r) for r in solos]) - 1:+.1%}"

        own = row["own_meta_explained"]
        shown.add_row(
            row["setting"].replace(",", ", "),
            f"{row['l2']:.4f}",
            to_solo(lambda r: r["l2"]),
            f"{corrected(row):.3e}",
            to_solo(corrected),
            f"{row['phi_ratio'] - 1:+.1%}",
            f"{row['l0']:.1f}",
            str(row["n_alive"]),
            f"{row['meta_explained']:.3f}",
            "" if own is None else f"{own:.3f}",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("settings", nargs="+")
    showing = commands.add_parser("table")
    for command in (running, showing):
        command.add_argument("--tokens", type=int, default=2_000_000)
    args = parser.parse_args()
    if args.command == "table":
        return Console(width=200).print(table(args.tokens))
    recipe = load_recipe(NAME)
    # as it was cached
    cached = json.loads((args.folder / "run.json").read_text())["recipe"]
    recipe = recipe.model_copy(update={"dataset": cached["dataset"]})
    for setting in args.settings:
        known = {(row["setting"], row["tokens"]) for row in results()}
        if (setting, args.tokens) not in known:
            row = {"setting": setting, "tokens": args.tokens}
            row |= measure(args.folder, recipe, setting, args.tokens)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return None


if __name__ == "__main__":
    main()
