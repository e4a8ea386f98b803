"""A whole recipe for the tiny language model, and runs of it."""

from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from sae_lens_meta.reproduce.reproduce import ReproduceConfig, reproduce
from tests.tiny_llama import CONTEXT, HOOK, WIDTH

BATCH, STEPS = 128, 24
SHARD = 1024  # tokens, where tests make shards small
FEW = {"latents": 4, "window": 8, "explaining": 2, "active": 2, "boundary": 0}
FEW |= {"silent": 2, "shown": 4}


def plain_recipe(model: Path, **changes: Any) -> dict[str, Any]:
    sae = {"d_in": WIDTH, "d_sae": 96, "k": 4, "meta_d_sae": 12, "meta_k": 2}
    sae |= {"meta_lr": 1e-2, "primary_steps_per_cycle": 5, "meta_steps_per_cycle": 2}
    runner = {"training_tokens": STEPS * BATCH, "train_batch_size_tokens": BATCH}
    runner |= {"context_size": CONTEXT, "lr": 3e-3, "n_checkpoints": 3}
    runner |= {"store_batch_size_prompts": 8}
    recipe = {
        "release": "tiny",
        "model": str(model),
        "model_class": "AutoModelForCausalLM",
        "hook": HOOK,
        "dataset": "pydoc",
        "held_out": {"compare": 20, "select": 15},
        "seeds": [1, 2],
        "sae": sae,
        "runner": runner,
        "cache_activations": True,
        "matrices": "bfloat16",
        "calibrate_tokens": 2048,
        "compare_tokens": 6000,
        "compare": {"ce_tokens": 512, "min_fired": 5, "meta_steps": 20},
        "autointerp": FEW,
        "publish": {"base_model": "nobody/tiny", "licence": "mit"},
    }
    return recipe | changes


def written(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(recipe: Path, folder: Path, **asked: Any) -> dict[str, Any]:
    cfg = ReproduceConfig(output=folder, **asked)
    return reproduce(str(recipe), cfg, Console(quiet=True))


def all_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.relative_to(folder)}/{name}": tensor
        for path in sorted((folder / "saes").rglob("sae_weights.safetensors"))
        for name, tensor in load_file(path).items()
    }
