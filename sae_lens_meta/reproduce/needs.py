"""What a recipe takes of disk, memory and time, from rates measured on this machine."""

import shutil
import sys
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
# what a step holds beside them, in matrices of batch x d_sae: the sparse pass none, the dense
# one pre-activations, codes, their gradients, and the mask of those selected
DENSE_MATRICES = 6
# seconds of a step over those of its products, at the most, in benchmarks/step.py on CPU,
# but for Gemma's shape in small batches, which took 3.1 beside other jobs
SPARSE_STEP, META_STEP = 2.7, 3.1
# of the dense pass six products, and half of the rate that one product reaches by itself
DENSE_STEP = 12.0
HEADROOM_GB = 2.0  # Python, torch, buffers of text


@dataclass
class Needs:
    """
    What a recipe takes, estimated.

    Attributes:
        disk_gb: activations, checkpoints, exported SAEs and the counts of a comparison.
        training_gb: memory on the device while training.
        comparing_gb: memory of the host while comparing: counts, and the SAEs on CPU.
        hours: of each part that takes long.
        rate: floating-point operations per second of one product, measured.
    """

    disk_gb: float
    training_gb: float
    comparing_gb: float
    hours: dict[str, float]
    rate: float


@dataclass
class Machine:
    """
    What a run is planned for.

    Attributes:
        device: of the model and the SAEs.
        free_gb: memory free on it, before the language model is loaded.
        rate: floating-point operations per second of one product.
        reading: seconds to read the activations of one token.
        lm_weights: of the language model.
        lm_bytes: of each of them.
    """

    device: str
    free_gb: float
    rate: float
    reading: float
    lm_weights: int
    lm_bytes: int

    @property
    def is_dense(self) -> bool:
        """Whether SAEs take the dense pass there."""
        return torch.device(self.device).type != "cpu"


def fixed_gb(recipe: Recipe, machine: Machine) -> float:
    """What a training holds whatever the number of SAEs."""
    joint, batch = recipe.joint, recipe.training.train_batch_size_tokens
    # one SAE's after the other's, and of the primary and its meta SAE the larger one's
    product = max(batch * joint.d_sae, joint.d_sae * joint.meta_width)
    dense = DENSE_MATRICES * product if machine.is_dense else 0
    shards = SHARDS_MIXED * SHARD_TOKENS if recipe.cache_activations else 0
    read = min(shards, recipe.n_tokens) * joint.d_in * 2
    lm = machine.lm_weights * machine.lm_bytes
    # Adam's temporaries are as large as one SAE's weights
    return (lm + dense * BYTES + read + _weights_bytes(recipe)) / GB + HEADROOM_GB


def sae_gb(recipe: Recipe, machine: Machine) -> float:
    """What each SAE adds: weights, gradients, moments, and what it hands over of a step."""
    handed_over = 0
    if machine.is_dense:
        # SAELens's trainer keeps codes and pre-activations of all SAEs until the step ends
        handed_over = 2 * recipe.training.train_batch_size_tokens * recipe.joint.d_sae
    return (4 * _weights_bytes(recipe) + BYTES * handed_over) / GB


def in_groups(
    recipe: Recipe, machine: Machine, at_most: int | None = None
) -> list[list[str]]:
    """
    Names of the SAEs, as many in a group as memory holds while they are trained.

    Args:
        recipe: whose SAEs.
        machine: that they are trained on.
        at_most: in a group.

    Raises:
        ValueError: if memory does not hold one.
    """
    fixed, one = fixed_gb(recipe, machine), sae_gb(recipe, machine)
    n = int((machine.free_gb - fixed) / one)
    if n < 1:
        raise ValueError(
            f"Training one SAE of {recipe.release!r} takes {fixed + one:.1f} GB of memory; "
            f"{machine.free_gb:.1f} GB are free. Take a machine with more."
        )
    n = min(n, at_most or n)
    names = list(recipe.saes())
    return [names[i : i + n] for i in range(0, len(names), n)]


def estimate(recipe: Recipe, groups: list[list[str]], machine: Machine) -> Needs:
    """The needs of a recipe whose SAEs are trained in `groups`."""
    largest = max(map(len, groups))
    return Needs(
        disk_gb=_disk_bytes(recipe, largest) / GB,
        training_gb=fixed_gb(recipe, machine) + largest * sae_gb(recipe, machine),
        comparing_gb=_comparing_gb(recipe, machine),
        hours=_hours(recipe, groups, machine),
        rate=machine.rate,
    )


def _n_compared(recipe: Recipe) -> int:
    return 3 * len(recipe.seeds)


def _counts_gb(recipe: Recipe) -> float:
    """Counts of pairs within each SAE and, for candidates, of one with one or two others."""
    between = 2 * min(len(recipe.seeds), 2) if recipe.comparing.n_candidates else 0
    return 2 * recipe.joint.d_sae**2 * (_n_compared(recipe) + between) / GB


def _comparing_gb(recipe: Recipe, machine: Machine) -> float:
    counts = min(recipe.comparing.max_memory_gb, _counts_gb(recipe))
    on_host = 0 if machine.is_dense else _n_compared(recipe) * _weights_bytes(recipe)
    lm = 0 if machine.is_dense else machine.lm_weights * machine.lm_bytes
    return counts + (on_host + lm) / GB


def _disk_bytes(recipe: Recipe, largest: int) -> float:
    weights, n_saes = _weights_bytes(recipe), len(recipe.saes())
    n_trainings = 1 + (recipe.continue_tokens is not None)
    n_checkpoints = n_trainings * (recipe.training.n_checkpoints + 1)
    cached = recipe.calibrate_tokens
    cached += recipe.n_tokens if recipe.cache_activations else 0
    # weights and moments: the newest checkpoint of each, and the next while it is written
    whole = 3 * weights * (n_saes + largest)
    solo = weights * len(recipe.seeds) * n_checkpoints
    exported = weights * _n_compared(recipe)
    counts = _counts_gb(recipe)
    return (
        2 * cached * recipe.joint.d_in
        + whole
        + solo
        + exported
        # those of a pass once more, while they are written
        + GB * (counts + min(recipe.comparing.max_memory_gb, counts))
    )


def _hours(
    recipe: Recipe, groups: list[list[str]], machine: Machine
) -> dict[str, float]:
    reading = machine.reading / 3600
    n_reads = 1 if recipe.cache_activations else len(groups)
    n_passes = ceil(_counts_gb(recipe) / recipe.comparing.max_memory_gb) + 1
    n_steps = ceil(recipe.n_tokens / recipe.training.train_batch_size_tokens)
    a_step = sum(_step_seconds(recipe, name, machine) for name in recipe.saes())
    # without an SAE, with it, and with its activations set to 0; the layers above the hook,
    # which reading leaves out, are taken to be as many again
    ce_tokens = 3 * 2 * _n_compared(recipe) * recipe.comparing.ce_tokens
    return {
        "reading activations": (n_reads * recipe.n_tokens + recipe.calibrate_tokens)
        * reading,
        "training": n_steps * a_step / 3600,
        "reading for the comparison": (n_passes * recipe.compare_tokens + ce_tokens)
        * reading,
    }


def check_needs(needs: Needs, folder: Path, free: float | None) -> None:
    """
    Args:
        needs: of the recipe.
        folder: that the run writes to.
        free: GB of the host's memory, before the language model is loaded; None where nothing
            is to be compared.

    Raises:
        ValueError: if the disk, or the host's memory for a comparison, is too small; whether
            training fits is `in_groups`'s to say.
    """
    free_disk = shutil.disk_usage(folder).free / GB
    used = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / GB
    if needs.disk_gb > free_disk + used:
        raise ValueError(
            f"{needs.disk_gb:.1f} GB of disk are needed under {folder}; {used:.1f} GB are there "
            f"and {free_disk:.1f} GB are free. Give another --output."
        )
    if free is not None and needs.comparing_gb > free:
        raise ValueError(
            f"Comparing the SAEs takes {needs.comparing_gb:.1f} GB of memory; {free:.1f} GB are "
            "free. Take a machine with more."
        )


def free_memory_gb(device: str) -> float:
    """Memory that is free on `device`."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GB
    return psutil.virtual_memory().available / GB


def peak_memory_gb() -> float:
    """The most memory that this process has taken so far."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / GB
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / GB


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


def needs_table(
    recipe: Recipe, needs: Needs, groups: list[list[str]], machine: Machine
) -> Table:
    """The needs as they are shown before anything starts."""
    table = Table(title=f"What {recipe.release} takes, estimated")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("disk", f"{needs.disk_gb:.1f} GB")
    table.add_row(
        f"memory while training, {machine.device}", f"{needs.training_gb:.1f} GB"
    )
    table.add_row("of that free", f"{machine.free_gb:.1f} GB")
    table.add_row("memory while comparing, host", f"{needs.comparing_gb:.1f} GB")
    passes = " / ".join(str(len(group)) for group in groups)
    table.add_row("SAEs in one pass", passes)
    table.add_row("rate of a matrix product", f"{needs.rate / 1e9:,.0f} GFLOP/s")
    for what, hours in needs.hours.items():
        table.add_row(what, f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min")
    return table


def _weights_bytes(recipe: Recipe) -> int:
    """Encoder and decoder of one primary and its meta SAE."""
    joint = recipe.joint
    return BYTES * 2 * joint.d_in * (joint.d_sae + joint.meta_width)


def _step_seconds(recipe: Recipe, name: str, machine: Machine) -> float:
    """A step of one SAE, its share of a meta phase included."""
    joint = recipe.joint
    product = 2 * recipe.training.train_batch_size_tokens * joint.d_in * joint.d_sae
    share = DENSE_STEP if machine.is_dense else SPARSE_STEP
    if recipe.saes()[name].decomposability_coefficient == 0:
        return share * product / machine.rate
    cycle = 1 + joint.meta_steps_per_cycle / joint.primary_steps_per_cycle
    rows = 2 * joint.d_sae * joint.d_in * joint.meta_width
    return (share * product + META_STEP * cycle * rows) / machine.rate
