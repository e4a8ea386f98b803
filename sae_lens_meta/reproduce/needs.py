"""What a recipe takes of disk, memory and time, from rates measured on this machine."""

import shutil
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil
import torch
from rich.table import Table

from sae_lens_meta.recipe import Recipe
from sae_lens_meta.reproduce.cache import SHARD_TOKENS, SHARDS_MIXED

GB = 1e9
BYTES = 4  # float32
# weights, gradients and Adam's two moments
TRAINED = 4 * BYTES
# what a step holds beside them, in matrices of batch x d_sae: the sparse pass none, the dense
# one pre-activations, codes, their gradients, and the mask of those selected
DENSE_MATRICES = 6
# seconds of a step over those of its products, at the most, in benchmarks/step.py on CPU
SPARSE_STEP, META_STEP = 2.7, 3.1
# of the dense pass six products, and half of the rate that one product reaches by itself
DENSE_STEP = 12.0
LM_SHARE = 0.5  # of the rate of one product that a language model reaches
HEADROOM_GB = 2.0  # Python, torch, buffers of text


@dataclass
class Needs:
    """
    What a recipe takes.

    Attributes:
        disk_gb: activations, checkpoints and exported SAEs.
        memory_gb: of the training stage at its peak, on the device.
        hours: of each stage that takes long, estimated.
        rate: floating-point operations per second of one product, measured.
    """

    disk_gb: float
    memory_gb: float
    hours: dict[str, float]
    rate: float


def sae_gb(recipe: Recipe) -> float:
    """Weights, gradients and moments of one primary and meta SAE while they are trained."""
    return TRAINED * (_n_weights(recipe) + _n_meta_weights(recipe)) / GB


def fixed_gb(recipe: Recipe, device: str, lm_weights: int, lm_bytes: int) -> float:
    """What a training holds whatever the number of SAEs."""
    batch = recipe.training.train_batch_size_tokens
    dense = 0 if device == "cpu" else DENSE_MATRICES * batch * recipe.joint.d_sae
    shards = SHARDS_MIXED * SHARD_TOKENS if recipe.cache_activations else 0
    read = min(shards, recipe.n_tokens) * recipe.joint.d_in * 2
    return (lm_weights * lm_bytes + dense * BYTES + read) / GB + HEADROOM_GB


def in_groups(recipe: Recipe, free_gb: float, fixed: float) -> list[list[str]]:
    """
    Names of the SAEs, as many in a group as memory holds while they are trained.

    Raises:
        ValueError: if it does not hold one.
    """
    one = sae_gb(recipe)
    n = int((free_gb - fixed) / one)
    if n < 1:
        raise ValueError(
            f"Training one SAE of {recipe.release!r} takes {fixed + one:.1f} GB of memory; "
            f"{free_gb:.1f} GB are free. Take a machine with more."
        )
    names = list(recipe.saes())
    return [names[i : i + n] for i in range(0, len(names), n)]


def counters_gb(recipe: Recipe) -> float:
    """Counts of pairs that a comparison keeps at a time, in the memory of the host."""
    one = 4 * recipe.joint.d_sae**2 / GB
    return one if recipe.comparing.n_candidates else one / 2


def estimate(recipe: Recipe, groups: list[list[str]], fixed: float, rate: float, lm_weights: int, device: str) -> Needs:  # fmt: skip
    """The needs of a recipe whose SAEs are trained in `groups`."""
    tokens = recipe.n_tokens
    select = recipe.calibrate_tokens
    names = list(recipe.saes())
    cached = select + (tokens if recipe.cache_activations else 0)
    weights = BYTES * (_n_weights(recipe) + _n_meta_weights(recipe))
    n_checkpoints = recipe.training.n_checkpoints + 1
    disk = 2 * cached * recipe.joint.d_in
    # the newest checkpoint of each, the solo ones' weights in the others, what is exported
    disk += 3 * weights * len(names)
    disk += weights * len(names) / 2 * n_checkpoints
    disk += weights * 1.5 * len(names)
    reading = 2 * lm_weights / (LM_SHARE * rate) / 3600
    passes = 1 if recipe.cache_activations else len(groups)
    training = sum(map(lambda n: _step_seconds(recipe, n, rate, device), names))
    n_steps = ceil(tokens / recipe.training.train_batch_size_tokens)
    hours = {
        "reading activations": passes * tokens * reading + select * reading,
        "training": n_steps * training / 3600,
        # each SAE's pass over the whole model, with and without it
        "comparison": recipe.compare_tokens * reading
        + 3 * 1.5 * len(names) * recipe.comparing.ce_tokens * reading,
    }
    memory = fixed + sae_gb(recipe) * max(map(len, groups))
    return Needs(disk / GB, memory, hours, rate)


def check_needs(recipe: Recipe, needs: Needs, folder: Path) -> None:
    """
    Raises:
        ValueError: if the disk, or the host's memory for a comparison, is too small; whether
            training fits is `in_groups`'s to say.
    """
    free_disk = shutil.disk_usage(_existing(folder)).free / GB
    if needs.disk_gb > free_disk:
        raise ValueError(
            f"{needs.disk_gb:.1f} GB of disk are needed under {folder}; {free_disk:.1f} GB are "
            "free. Give another --output."
        )
    free = psutil.virtual_memory().available / GB
    if counters_gb(recipe) > free:
        raise ValueError(
            f"Comparing SAEs of {recipe.release!r} takes {counters_gb(recipe):.1f} GB of memory "
            f"for counts; {free:.1f} GB are free. Take a machine with more."
        )


def free_memory_gb(device: str) -> float:
    """Memory that is free on `device`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GB
    return psutil.virtual_memory().available / GB


def measured_rate(recipe: Recipe, device: str) -> float:
    """Floating-point operations per second of the encoder's product, at most 8,192 latents wide."""
    batch, d_in = recipe.training.train_batch_size_tokens, recipe.joint.d_in
    x = torch.randn(batch, d_in, device=device)
    W_enc = torch.randn(d_in, min(8192, recipe.joint.d_sae), device=device)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        (x @ W_enc)[0, 0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return 2 * batch * W_enc.numel() / min(seconds)


def needs_table(recipe: Recipe, needs: Needs, groups: list[list[str]], free_gb: float) -> Table:  # fmt: skip
    """The needs as they are shown before anything starts."""
    table = Table(title=f"What {recipe.release} takes, estimated")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("disk", f"{needs.disk_gb:.1f} GB")
    table.add_row("memory while training", f"{needs.memory_gb:.1f} GB")
    table.add_row("counts of a comparison", f"{counters_gb(recipe):.1f} GB")
    table.add_row("memory that is free", f"{free_gb:.1f} GB")
    passes = " / ".join(str(len(group)) for group in groups)
    table.add_row("SAEs in one pass", passes)
    table.add_row("rate of a matrix product", f"{needs.rate / 1e9:,.0f} GFLOP/s")
    for what, hours in needs.hours.items():
        table.add_row(what, f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min")
    return table


def _n_weights(recipe: Recipe) -> int:
    return 2 * recipe.joint.d_in * recipe.joint.d_sae


def _n_meta_weights(recipe: Recipe) -> int:
    return 2 * recipe.joint.d_in * recipe.joint.meta_width


def _step_seconds(recipe: Recipe, name: str, rate: float, device: str) -> float:
    """A step of one SAE, its share of a meta phase included."""
    batch = recipe.training.train_batch_size_tokens
    product = 2 * batch * _n_weights(recipe) / 2
    share = SPARSE_STEP if device == "cpu" else DENSE_STEP
    if recipe.saes()[name].decomposability_coefficient == 0:
        return share * product / rate
    joint = recipe.joint
    cycle = 1 + joint.meta_steps_per_cycle / joint.primary_steps_per_cycle
    rows = 2 * recipe.joint.d_sae * _n_meta_weights(recipe) / 2
    return (share * product + META_STEP * cycle * rows) / rate


def _existing(folder: Path) -> Path:
    return folder if folder.exists() else _existing(folder.resolve().parent)
