"""
What rehearsals took, and what their recipes would take on one GPU of 80 GB.

    python -m benchmarks.rehearsals [rehearsals/metasae-gpt2l-l20 ...]

The first is read from the run.json of rehearsals. The second is an estimate, by the formulas that
`reproduce` prints its needs with, at 70 % of what data sheets say: an SAE's product in half
precision, a language model's in float32 without tensor cores or in the bfloat16 that it is kept in.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformer_lens import HookedTransformerConfig

from sae_lens_meta.reproduce.needs import Machine, estimate, in_groups
from sae_lens_meta.reproduce.recipe import Recipe, load_recipe

RECIPES = ("metasae-gpt2l-l20", "metasae-gemma2-9b-l23")
REACHED = 0.7


class Card(NamedTuple):
    """Of the data sheets: operations per second, and bytes per second of its memory."""

    float32: float
    half: float
    memory: float


GPUS = {
    "A100 80 GB": Card(19.5e12, 312e12, 2.0e12),
    "H100 80 GB": Card(67e12, 989e12, 3.35e12),
}
FREE_GB = 79.0
TIMES = ("seconds_per_step", "mean_seconds_per_step", "reading_seconds_per_step")


def took(state: dict[str, Any]) -> Iterator[str]:
    """A line for each stage, and beneath a training one for each pass."""
    yield "| stage | minutes | peak memory so far, GB | steps | a step, s | mean with meta phases, s | reading, s a step | meta decoder moved by |"
    yield "|---|---|---|---|---|---|---|---|"
    for stage, found in state["stages"].items():
        minutes, peak = found["seconds"] / 60, found["peak_memory_gb_so_far"]
        yield f"| {stage} | {minutes:.1f} | {peak:.1f} | | | | | |"
        for names, figures in found.items():
            if isinstance(figures, dict) and "n_steps" in figures:
                moved = ", ".join(f"{by:.1%}" for by in figures["moved"].values())
                times = " | ".join(f"{figures[key]:.3g}" for key in TIMES)
                yield f"| – {names} | | | {figures['n_steps']} | {times} | {moved} |"


def on_gpu(recipe: Recipe, card: Card) -> Iterator[str]:
    """A cell for each need."""
    assert recipe.rehearsal is not None
    lm: Any = HookedTransformerConfig(**recipe.rehearsal.architecture, device="cpu")
    embedded = 2 * lm.d_vocab * lm.d_model
    dtype = recipe.runner.get("model_from_pretrained_kwargs", {}).get("dtype")
    is_half = dtype == "bfloat16"
    layers = int(recipe.hook.split(".")[1])
    lm_rate = card.half if is_half else card.float32
    machine = Machine(
        device="cuda",
        free_gb=FREE_GB,
        rate=REACHED * card.half,
        bandwidth=REACHED * card.memory,
        reading=2 * lm.n_params * layers / lm.n_layers / (REACHED * lm_rate),
        lm_weights=lm.n_params + embedded,
        lm_bytes=2 if is_half else 4,
    )
    groups = in_groups(recipe, machine)
    needs = estimate(recipe, groups, machine)
    yield f"{needs.disk_gb:,.0f} GB"
    yield f"{needs.training_gb:.0f} GB"
    yield f"{needs.comparing_gb:.0f} GB"
    yield " / ".join(str(len(group)) for group in groups)
    for hours in needs.hours.values():
        yield f"{hours:,.1f} h"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rehearsal", type=Path, nargs="*")
    for folder in parser.parse_args().rehearsal:
        state = json.loads((folder / "run.json").read_text())
        print(f"\n{state['recipe']['release']}\n")
        print("\n".join(took(state)))
    estimates = [
        f"| {name}, {gpu} | {' | '.join(on_gpu(load_recipe(name), card))} |"
        for name in RECIPES
        for gpu, card in GPUS.items()
    ]
    print(
        "\n| estimate | disk | memory of the GPU while training | of the host while comparing "
        "| SAEs in one pass | reading activations | training "
        "| reading for the comparison |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(estimates))


if __name__ == "__main__":
    main()
