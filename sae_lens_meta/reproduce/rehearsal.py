"""A recipe without its model: random weights of the true shape, and little of everything."""

import json
from typing import Any

import numpy as np
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer

from sae_lens_meta.activations.language_model import SMOLLM2, model_path
from sae_lens_meta.autointerp.judge import Reply
from sae_lens_meta.autointerp.prompts import Messages
from sae_lens_meta.reproduce.recipe import HeldOut, Recipe

DOCUMENTS = 12  # kept for each of the two kinds of measurement
# random latents fire nearly everywhere or nearly nowhere: of many drawn, few can be asked about
FEW_WINDOWS = {
    "explaining": 2,
    "active": 2,
    "boundary": 0,
    "silent": 2,
    "shown": 4,
}


def rehearsed(recipe: Recipe, dataset: str) -> Recipe:
    """
    `recipe` with as many steps as its rehearsal has cycles, on `dataset`, one seed of each.

    A meta phase runs at the start of the step after its cycle: hence one step more. A
    continuation has one cycle.

    Raises:
        ValueError: if the recipe says nothing of how to rehearse it.
    """
    how = recipe.rehearsal
    if how is None:
        raise ValueError(
            f"The recipe of {recipe.release!r} has no rehearsal: its model can be had."
        )
    cycle = recipe.joint.primary_steps_per_cycle
    steps = how.cycles * cycle + 1
    runner = {
        "training_tokens": steps * how.batch,
        "train_batch_size_tokens": how.batch,
        "n_checkpoints": 2,
        "store_batch_size_prompts": 8,
    }
    changed = recipe.model_copy(
        update={
            "model": f"random weights, {recipe.model}",
            "hook": how.hook or recipe.hook,
            "dataset": dataset,
            "held_out": HeldOut(compare=DOCUMENTS, select=DOCUMENTS),
            "seeds": recipe.seeds[:1],
            "runner": recipe.runner | runner,
            "continue_tokens": recipe.continue_tokens and cycle * how.batch,
            "calibrate_tokens": how.tokens,
            "compare_tokens": how.tokens,
            "compare": {"ce_tokens": 1024, "min_fired": 1, "meta_steps": 20}
            | how.compare,
            "autointerp": FEW_WINDOWS,
        }
    )
    return Recipe.model_validate(changed.model_dump())  # which a copy is not


def in_place_of(rehearsal: Recipe, recipe: Recipe) -> str:
    """What a rehearsal of `recipe` has in its place, in a sentence."""
    how = rehearsal.rehearsal
    assert how is not None
    n_layers = how.architecture["n_layers"]
    mine, theirs = rehearsal.training, recipe.training
    return (
        f"A rehearsal: {rehearsal.model}, {how.n_layers or n_layers} of its {n_layers} layers, "
        f"read at {rehearsal.hook}; {rehearsal.n_tokens:,} training tokens in place of "
        f"{recipe.n_tokens:,}, in batches of {mine.train_batch_size_tokens:,} in place of "
        f"{theirs.train_batch_size_tokens:,}; {len(rehearsal.seeds)} joint and solo SAE of "
        f"{len(recipe.seeds)}; a judge that answers at random. It tells nothing of quality."
    )


def random_model(recipe: Recipe, device: str) -> HookedTransformer:
    """
    The recipe's architecture with random weights, and SmolLM2's tokenizer.

    Raises:
        FileNotFoundError: if SmolLM2, whose tokenizer stands in, is not installed.
    """
    assert recipe.rehearsal is not None
    architecture: dict[str, Any] = dict(recipe.rehearsal.architecture)
    n_layers = recipe.rehearsal.n_layers
    if n_layers is not None:
        architecture["n_layers"] = n_layers
        if "attn_types" in architecture:
            architecture["attn_types"] = architecture["attn_types"][:n_layers]
    dtype = getattr(torch, recipe.rehearsal.dtype)
    cfg = HookedTransformerConfig(
        **architecture, dtype=dtype, device=device, seed=0, default_prepend_bos=True
    )
    tokenizer = AutoTokenizer.from_pretrained(model_path(SMOLLM2))
    return HookedTransformer(cfg, tokenizer)


class RehearsalJudge:
    """Answers at random what is asked, so that a rehearsal needs no model for it."""

    model = "random answers"

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    async def generate(self, prompt: Messages, **options: Any) -> Reply:  # noqa: ARG002
        asked = options["schema"]["properties"]
        if "explanation" in asked:
            return Reply(json.dumps({"explanation": "anything"}))
        wanted = asked["answers"]
        answers = self._random.choice(wanted["items"]["enum"], wanted["minItems"])
        return Reply(json.dumps({"answers": answers.tolist()}))
