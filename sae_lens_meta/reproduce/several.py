"""Recipes for several hooks of a model, whose activations are read in one pass."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rich.console import Console

from sae_lens_meta.activations.part import Part, parts
from sae_lens_meta.destination import held
from sae_lens_meta.reproduce.needs import check_activations_fit
from sae_lens_meta.reproduce.pieces import check_piece
from sae_lens_meta.reproduce.recipe import Recipe, load_recipe
from sae_lens_meta.reproduce.reproduce import (
    ReproduceConfig,
    asked,
    executor_of,
    known_stages,
    reproduce,
)
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import Figures, fill_piece
from sae_lens_meta.reproduce.state import begun, claim_text

# of SAELens's runner, beside what a recipe itself says
READ_AS = (
    "context_size",
    "store_batch_size_prompts",
    "train_batch_size_tokens",
    "autocast_lm",
    "model_from_pretrained_kwargs",
)


def reproduce_several(
    names: Sequence[str], cfg: ReproduceConfig, console: Console
) -> dict[str, dict[str, Figures]]:
    """
    Reads the activations of all recipes in one pass of the language model, then runs each.

    Args:
        names: of releases that have a recipe, or paths of some; they read one text by one model.
        cfg: how. Each run's folder is below `output`, by its release's name.
        console: to print to.

    Returns:
        What the stages of each found and took, by its release; of a part of the activations, nothing.

    Raises:
        ValueError: if their activations cannot be read in one pass, an option is of one recipe alone, or
            as `reproduce`.
        OSError: if nothing can be written to a folder.
    """
    for option in ("only", "repo", "rehearse"):
        if getattr(cfg, option):
            raise ValueError(f"--{option} goes with one recipe; got {len(names)}.")
    recipes = [load_recipe(name) for name in names]
    each = [_below(cfg, recipe) for recipe in recipes]
    runs = [asked(recipe, its) for recipe, its in zip(recipes, each, strict=True)]
    check_one_pass([run.recipe for run in runs])
    for run, its in zip(runs, each, strict=True):
        known_stages(run, its)
    if cfg.part is not None:
        check_piece(runs[0], cfg.stage, None, cfg.part)
    if not cfg.stage or "cache" in cfg.stage:
        _read_in_one_pass([run for run in runs if not run.has_activations], cfg)
    if cfg.part is not None:
        console.print(f"Done: part {cfg.part} of the activations of {len(runs)} runs.")
        return {}
    return {
        run.recipe.release: reproduce(name, its, console)
        for run, name, its in zip(runs, names, each, strict=True)
    }


def check_one_pass(recipes: Sequence[Recipe]) -> None:
    """
    Raises:
        ValueError: if one keeps no activations, two are of one release or hook, or they differ in
            what their activations depend on beside the hook.
    """
    first, *others = recipes
    for recipe in recipes:
        if not recipe.cache_activations:
            raise ValueError(
                f"{recipe.release!r} keeps no activations (cache_activations: false), so that "
                "nothing is gained by reading it with others. Run it by itself."
            )
    for other in others:
        for key, value in _read_as(first).items():
            if (there := _read_as(other)[key]) != value:
                raise ValueError(
                    f"{first.release!r} has {key} {value!r} and {other.release!r} has {there!r}: "
                    "they cannot be read in one pass. Make these alike, or run each by itself."
                )
    for key in ("release", "hook"):
        found = [getattr(recipe, key) for recipe in recipes]
        if len(set(found)) < len(found):
            raise ValueError(
                f"Recipes that are read in one pass differ in {key}; got {found}."
            )


def _read_as(recipe: Recipe) -> dict[str, Any]:
    """What the activations depend on beside the hook."""
    training = recipe.training
    return {
        "model": recipe.model,
        "model_class": recipe.model_class,
        "dataset": recipe.dataset,
        "text_seed": recipe.text_seed,
        "held_out": recipe.held_out.model_dump(),
        "n_tokens": recipe.n_tokens,
        **{name: getattr(training, name) for name in READ_AS},
    }


def _below(cfg: ReproduceConfig, recipe: Recipe) -> ReproduceConfig:
    return replace(cfg, output=cfg.output / recipe.release if cfg.output else None)


def _read_in_one_pass(runs: list[Run], cfg: ReproduceConfig) -> None:
    if not runs:
        return
    for run in runs:
        with begun(run) as state:
            is_new = "text_sha256" not in state.plan
            claim_text(run, state)
            if is_new:
                state.save()
    first, *first.beside = runs
    check_activations_fit({run.folder: run.recipe for run in runs})
    with ExitStack() as stack:
        if cfg.part is not None:
            wanted = [Part.parse(cfg.part)]
        else:
            for run in runs:
                stack.enter_context(held(run.folder))
            first.executor = executor_of(cfg)
            wanted = parts(first.executor.n_parts)
        first.each([fill_piece(part) for part in wanted])
