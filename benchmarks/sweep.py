"""
Sweeps of the SmolLM2 release, on the activations that `sae-lens-meta reproduce` has cached.

    python -m benchmarks.sweep run RUN_FOLDER --tokens 2000000 solo base meta_lr=0.01
    python -m benchmarks.sweep table

A setting is `solo`, `base` (the recipe as it is), or changes of the recipe's SAE settings
joined by commas; `seed=43` and `lr=0.001` are understood too. Each result is a line of
benchmarks/sweep.jsonl, measured on the recipe's selection text, which the final figures do
not use. Settings that have their line are passed over.
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
from sae_lens_meta.evaluation.phi_by_rate import PhiByRate, phi_by_rate
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


def changed(recipe: Recipe, setting: str, tokens: int) -> tuple[Recipe, str]:
    """The recipe with a setting, and the name of the one SAE of it to train."""
    changes: dict[str, Any] = {}
    if setting not in ("solo", "base"):
        pairs = [part.partition("=") for part in setting.split(",")]
        changes = {key: yaml.safe_load(value) for key, _, value in pairs}
    seed = changes.pop("seed", recipe.seeds[0])
    runner = recipe.runner | {"training_tokens": tokens, "n_checkpoints": 0}
    if "lr" in changes:
        runner["lr"] = changes.pop("lr")
    is_solo = setting == "solo" or changes.pop("solo", False)
    update = {"seeds": [seed], "runner": runner, "sae": recipe.sae | changes}
    return recipe.model_copy(update=update), f"{'solo' if is_solo else 'joint'}_{seed}"


def measure(run: Run, path: Path) -> dict[str, Any]:
    sae = SAE.load_from_disk(path)
    meter = ReconstructionMeter(sae)
    counter = CooccurrenceCounter(sae.cfg.d_sae)
    for batch in run.selection():
        counter.update(meter.update(batch) > 0)
    result = meter.result()
    alive = meter.fired >= MIN_FIRED
    phi = summarize_phi(counter, alive)
    by_rate = phi_by_rate(counter, alive)
    return {
        "l2": result.normalized_l2,
        "l0": result.l0,
        "n_silent": result.n_silent,
        "n_alive": int(alive.sum()),
        "phi": phi.mean_abs,
        "phi_by_chance": phi.expected_by_chance,
        "n_measured": result.n_tokens,
        "meta_explained": meta_explained_variance(sae.W_dec, 368, 4),
        "own_meta_explained": own_fit(path),
        "phi_ratio": by_rate.ratio_at_equal_rates(_reference(path, by_rate)),
    }


def own_fit(path: Path) -> float | None:
    """Share of the variance of an SAE's decoder rows that its own meta SAE explains."""
    if not (path / META_FOLDER).is_dir():
        return None
    rows = unit_rows(SAE.load_from_disk(path).W_dec.detach())
    recons = SAE.load_from_disk(path / META_FOLDER)(rows).detach()
    mse = (rows - recons).pow(2).sum(-1)
    return float(meta_fit(rows, mse)["meta_explained_variance"])


def _reference(path: Path, by_rate: PhiByRate) -> PhiByRate:
    """Of the first solo SAE of as many tokens, which comes first."""
    setting, _, tokens = path.parent.name.rpartition("_")
    file = path.parent.parent / f"reference_{tokens}.npz"
    if setting == "solo":
        np.savez(file, total=by_rate.total, pairs=by_rate.pairs)
    found = np.load(file)
    return PhiByRate(found["total"], found["pairs"])


def run_setting(folder: Path, recipe: Recipe, setting: str, tokens: int) -> None:
    variant, name = changed(recipe, setting, tokens)
    run = Run(variant, folder, "cpu", groups=[[name]])
    store = CachedActivations(
        folder / "activations" / "train",
        recipe.hook,
        variant.training.train_batch_size_tokens,
        0,
    )
    # the first of the text, so that a sweep needs not wait for all of it
    store.shards = store.shards[: ceil(tokens / SHARD_TOKENS)]
    out = folder / "sweep" / f"{setting}_{tokens}"
    if not (out / name).is_dir():
        cfg = run.runner_config([name], tokens)
        train_together(cfg, store, out / "checkpoints", out, run.held_out_metadata())
    row = {"setting": setting, "tokens": tokens} | measure(run, out / name)
    with RESULTS.open("a") as file:
        file.write(json.dumps(row) + "\n")


def results() -> list[dict[str, Any]]:
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def lr_of(row: dict[str, Any]) -> str:
    found = [part for part in row["setting"].split(",") if part.startswith("lr=")]
    return found[0] if found else ""


def corrected(row: dict[str, Any]) -> float:
    return row["phi"] - row["phi_by_chance"]


def table(tokens: int) -> Table:
    """Differences are to the mean of the solo SAEs of the same learning rate."""
    rows = [row for row in results() if row["tokens"] == tokens]
    shown = Table(title=f"{tokens:,} tokens")
    columns = ("L2", "to solo", "phi", "to solo", "at equal rates", "L0", "alive")
    shown.add_column("setting")
    for column in (*columns, "a fresh meta SAE explains", "its own"):
        shown.add_column(column, justify="right")
    for row in rows:
        solos = [r for r in rows if "solo" in r["setting"] and lr_of(r) == lr_of(row)]

        def to_solo(value: Callable[[dict[str, Any]], float], row=row, solos=solos):  # type: ignore[no-untyped-def]
            return f"{value(row) / np.mean([value(r) for r in solos]) - 1:+.1%}"

        own = row["own_meta_explained"]
        shown.add_row(
            row["setting"].replace(",", ", "),
            f"{row['l2']:.4f}",
            to_solo(lambda r: r["l2"]),
            f"{corrected(row):.3e}",
            to_solo(corrected),
            to_solo(lambda r: r["phi_ratio"]),
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
            run_setting(args.folder, recipe, setting, args.tokens)
    return None


if __name__ == "__main__":
    main()
