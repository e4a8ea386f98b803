"""A sweep: what is not done is trained and measured, and all of it is shown."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from sae_lens_meta.activations.text import text_identity
from sae_lens_meta.destination import check_same, held, write_whole
from sae_lens_meta.reproduce.planning import planned
from sae_lens_meta.reproduce.recipe import Recipe, load_recipe
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import cache, select_piece
from sae_lens_meta.saved import check_device
from sae_lens_meta.sweep.grid import Setting, settings
from sae_lens_meta.sweep.held_against_solo import (
    Against,
    against_solo,
    chosen,
    rule,
)
from sae_lens_meta.sweep.measured import Trial, read, trial_piece
from sae_lens_meta.sweep.shown import plot, table

STATE = "sweep.json"
PICTURE = "sweep.png"


@dataclass
class SweepConfig:
    """
    What to try.

    Args:
        grid (tuple[str, ...]): Settings of the SAE, or lr and the like, each NAME=VALUE,VALUE,...; all
            combinations are tried.
        seeds (int): Of each setting; the recipe's own first.
        tokens (int | None): Of each training; by default the recipe's.
        max_l2 (float): Percent of L2 above the solo's that the chosen setting may cost.
        min_fired (int): Tokens that a latent must fire on for its pairs to count.
        meta_steps (int): Adam steps of the fresh meta SAE that a decoder is held against.
        output (Path): Folder that receives everything. The same call goes on where it was stopped,
            and values and seeds can be added to what it holds.
        dataset (str | None): The text, in the place of the recipe's.
        device (str): Of the model and the SAEs; by default a GPU where there is one.
        ray (str | None): Address of a Ray cluster, whose machines all see --output: auto, ray://...,
            or local to begin one on this machine.
    """

    grid: tuple[str, ...]
    seeds: int = 3
    tokens: int | None = None
    max_l2: float = 5.0
    min_fired: int = 30
    meta_steps: int = 1500
    output: Path = Path("sweep_out")
    dataset: str | None = None
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    ray: str | None = None


@dataclass
class Swept:
    """
    What a sweep came to.

    Attributes:
        found: settings of which a seed is done, against their solo SAEs.
        chosen: the one that the rule chooses, or None.
        failed: names of the trials that failed, and why.
    """

    found: list[Against]
    chosen: Against | None
    failed: dict[str, str]


def sweep(name: str, cfg: SweepConfig, console: Console) -> Swept:
    """
    Trains a recipe's SAE with every setting of a grid, and measures each on the text kept for that.

    A trial that fails is reported, and the others go on.

    Args:
        name: of a recipe, or the path of one.
        cfg: what to try.
        console: to print to.

    Raises:
        ValueError: if there is no such recipe, a setting cannot be used, the folder holds a sweep of
            another recipe or is being written by another run, or no trial succeeds.
        OSError: if nothing can be written to the folder.
        Interrupted: if a signal stopped a training; the same call goes on.
    """
    recipe = _asked(load_recipe(name), cfg)
    all_settings = settings(cfg.grid)
    trials = [
        Trial(setting, seed, recipe.n_tokens, cfg.min_fired, cfg.meta_steps)
        for seed in recipe.seeds
        for setting in all_settings
    ]
    for trial in trials:
        trial.setting.recipe(recipe, trial.seed, trial.n_tokens)
    with held(cfg.output):
        run = Run(recipe, cfg.output, cfg.device)
        if cfg.ray is not None:
            from sae_lens_meta.reproduce.on_ray import OnRay  # an extra

            run.executor = OnRay(cfg.ray, cfg.device)
        _claim(run, cfg)
        failed = _tried(run, trials, console)
        found = _against(run, all_settings, trials)
        if not found:
            raise ValueError(f"No trial succeeded: {_listed(failed)}")
        best = chosen(found, cfg.max_l2)
        console.print(table(found, cfg.seeds, best))
        if failed:
            console.print(f"Failed, and left out: {_listed(failed)}", markup=False)
        console.print(f"The rule: {rule(cfg.max_l2)}.")
        console.print(f"Chosen: {best.setting if best else 'none'}.")
        plot(found, cfg.output / PICTURE)
        console.print(f"See {cfg.output / PICTURE}")
    return Swept(found, best, failed)


def _asked(recipe: Recipe, cfg: SweepConfig) -> Recipe:
    """The recipe as it is swept: its first seeds and those after, so many tokens, kept on disk."""
    for number in ("seeds", "min_fired", "meta_steps"):
        if getattr(cfg, number) < 1:
            raise ValueError(
                f"--{number} must be at least 1, got {getattr(cfg, number)}."
            )
    if cfg.tokens is not None and cfg.tokens < recipe.training.train_batch_size_tokens:
        raise ValueError(f"--tokens {cfg.tokens} is less than a batch of the recipe.")
    check_device(cfg.device)
    seeds = [*recipe.seeds]
    while len(seeds) < cfg.seeds:
        seeds.append(max(seeds) + 1)
    update: dict[str, Any] = {
        "seeds": seeds[: cfg.seeds],
        "cache_activations": True,
        "continue_tokens": None,
        "runner": recipe.runner
        | {"training_tokens": cfg.tokens or recipe.n_tokens, "n_checkpoints": 0},
    }
    if cfg.dataset is not None:
        update["dataset"] = cfg.dataset
    return recipe.model_copy(update=update)


def _claim(run: Run, cfg: SweepConfig) -> None:
    path = run.folder / STATE
    # what may differ between calls is not of the state: seeds, and how it is run
    mine = run.recipe.model_dump(exclude={"format", "seeds"}) | {
        "text_sha256": text_identity(run.recipe.dataset).sha256,
        "min_fired": cfg.min_fired,
        "meta_steps": cfg.meta_steps,
    }
    if path.is_file():
        check_same(run.folder, json.loads(path.read_text()), mine)
    write_whole(path, json.dumps(mine, indent=2) + "\n")


def _tried(run: Run, trials: list[Trial], console: Console) -> dict[str, str]:
    """Does what is not done; the names of the trials that failed, and why."""
    missing = [trial for trial in trials if read(run, trial) is None]
    if not missing:
        return {}
    planned(run, 1, None, {"train"}, console)
    cache(run)
    run.each([select_piece()])
    pieces = [trial_piece(run, trial) for trial in missing]
    found = run.executor.attempt(run, pieces, keep_going=True)
    return {
        trial.name: str(error)
        for trial, error in zip(missing, found, strict=True)
        if isinstance(error, Exception)
    }


def _against(
    run: Run, all_settings: list[Setting], trials: list[Trial]
) -> list[Against]:
    done = {(t.setting, t.seed): m for t in trials if (m := read(run, t)) is not None}
    found = []
    for setting in all_settings:
        pairs = [
            (measured, done[setting.solo, seed])
            for (of, seed), measured in done.items()
            if of == setting and (setting.solo, seed) in done
        ]
        if pairs and not setting.is_solo:
            found.append(against_solo(setting, pairs))
    return found


def _listed(failed: dict[str, str]) -> str:
    return "; ".join(f"{name}: {error}" for name, error in failed.items())
