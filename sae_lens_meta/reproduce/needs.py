"""What a recipe takes of disk, memory and time, from rates measured on this machine."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import psutil
import torch
from rich.table import Table

from sae_lens_meta.activations.cache import SHARD_TOKENS, SHARDS_MIXED
from sae_lens_meta.reproduce.recipe import Recipe
from sae_lens_meta.training.backend.cuda import CHUNK
from sae_lens_meta.training.backend.graphs import LARGEST
from sae_lens_meta.training.joint import MetaTrainingSAEConfig

GB = 1e9
BYTES = 4  # float32
# seconds of a step over those of its products, at the most, in benchmarks/step.py on CPU,
# but for Gemma's shape in small batches, which took 3.1 beside other jobs
SPARSE_STEP, META_STEP = 2.7, 3.1
# dense products of a step, and of a reconstruction, where activations are sparse and where not
SPARSE_PRODUCTS, DENSE_PRODUCTS = (1, 1), (6, 2)
# On a GPU a step is its products on tensor cores, and what it moves through memory: so many times
# the bytes of what is named. Fitted to benchmarks/step.py on an H100, with one dead latent in a
# hundred: docs/performance.md.
WEIGHTS_MOVED = 16  # those of the primary: gradients, clipping, Adam, transposed copies
ACTS_MOVED = (
    8  # activations that are searched, in half precision: written, selected from
)
PAIRS_MOVED = 14  # rows of the active pairs: computed again, decoded, three gradients
# of the meta SAE: pairs and decoder rows in a meta step, and in a reconstruction, which has no
# gradient, with a selection of its own or a held one
FIT_MOVED, RECONSTRUCT_MOVED, HELD_MOVED = (6, 46), (3, 40), (2, 20)
LAUNCHING = (
    3e-3  # seconds in which a step's kernels are handed over, while the GPU waits
)
HEADROOM_GB = 2.0  # Python, torch, buffers of text


@dataclass
class Needs:
    """
    What a recipe takes, estimated.

    Attributes:
        disk_gb: activations, checkpoints and exported SAEs.
        counts_gb: of disk beside that, the counts of a comparison.
        training_gb: memory on the device while training.
        comparing_gb: memory of the host while comparing: counts, and the SAEs on CPU.
        hours: of each part that takes long.
        rate: floating-point operations per second of one product, measured.
    """

    disk_gb: float
    counts_gb: float
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
        rate: floating-point operations per second of one product, on a GPU's tensor cores.
        reading: seconds to read the activations of one token.
        lm_weights: of the language model.
        lm_bytes: of each of them.
        bandwidth: bytes per second of a copy, those read and those written; of a GPU alone.
    """

    device: str
    free_gb: float
    rate: float
    reading: float
    lm_weights: int
    lm_bytes: int
    bandwidth: float = 0.0

    @property
    def is_gpu(self) -> bool:
        """Whether steps are taken by a GPU's backend."""
        return torch.device(self.device).type != "cpu"


def fixed_gb(recipe: Recipe, machine: Machine) -> float:
    """What a training holds whatever the number of SAEs, which take their steps in turn."""
    joint, batch = recipe.joint, recipe.training.train_batch_size_tokens
    # gradients, and Adam's temporaries as large as they are
    step = 2 * _weights_bytes(recipe)
    if machine.is_gpu:
        step = gpu_step_bytes(joint, batch)
    shards = SHARDS_MIXED * SHARD_TOKENS if recipe.cache_activations else 0
    read = min(shards, recipe.n_tokens) * joint.d_in * 2
    lm = machine.lm_weights * machine.lm_bytes
    return (lm + step + read) / GB + HEADROOM_GB


def sae_gb(recipe: Recipe) -> float:
    """What each SAE adds: weights and moments."""
    return 3 * _weights_bytes(recipe) / GB


def gpu_step_bytes(cfg: MetaTrainingSAEConfig, batch: int) -> int:
    """
    The most that a joint step on a GPU holds at once beside weights and moments.

    Args:
        cfg: of the joint SAE.
        batch: activations in a step.
    """
    rows, meta = cfg.d_sae * cfg.d_in, cfg.d_sae * cfg.meta_width
    inputs = batch * cfg.d_in
    # the primary's backward: gradients, and the two that are made transposed; the
    # reconstructed rows and what the penalty adds to the gradient
    backward = int(5.5 * rows) + 6 * inputs
    # its search, in half precision: encoder rows, with the gradients gone
    search = rows + 3 * min(CHUNK, batch * cfg.d_sae) // 2 + 4 * inputs
    search += _candidates(batch * cfg.d_sae, int(cfg.k * batch))
    # meta steps: targets, inputs, and the errors of both losses; or while they search
    errors = int(5.4 * rows)
    found = 4 * rows + _candidates(meta, int(cfg.meta_k * cfg.d_sae))
    fit = max(errors, found) + min(CHUNK, meta) // 2
    if rows <= LARGEST:  # graphs keep theirs
        return BYTES * (max(backward, search) + fit)
    return BYTES * max(backward, search, fit)


def _candidates(n_values: int, n_keep: int) -> int:
    """What the largest of each chunk of a search take, and these in one: places, and values in half precision."""
    of_chunk = min(2 * n_keep, CHUNK, n_values)
    return 2 * ceil(n_values / CHUNK) * of_chunk * 10 // BYTES


def in_groups(
    recipe: Recipe, machine: Machine, at_most: int | None = None
) -> list[list[str]]:
    """
    Names of the SAEs, those of one seed in a group, if memory holds them while they are trained.

    Args:
        recipe: whose SAEs.
        machine: that they are trained on.
        at_most: in a group.

    Raises:
        ValueError: if memory does not hold one.
    """
    fixed, one = fixed_gb(recipe, machine), sae_gb(recipe)
    n = int((machine.free_gb - fixed) / one)
    if n < 1:
        raise ValueError(
            f"Training one SAE of {recipe.release!r} takes {fixed + one:.1f} GB of memory; "
            f"{machine.free_gb:.1f} GB are free. Take a machine with more."
        )
    # a joint and a solo SAE: another seed reads activations in another order
    n = min(n, at_most or n, 2)
    names = list(recipe.saes())
    return [names[i : i + n] for i in range(0, len(names), n)]


def estimate(recipe: Recipe, groups: list[list[str]], machine: Machine) -> Needs:
    """The needs of a recipe whose SAEs are trained in `groups`."""
    largest, counts = max(map(len, groups)), _counts_gb(recipe)
    return Needs(
        disk_gb=_disk_bytes(recipe, largest) / GB,
        # those of a pass once more, while they are written
        counts_gb=counts + min(recipe.comparing.max_memory_gb, counts),
        training_gb=fixed_gb(recipe, machine) + largest * sae_gb(recipe),
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
    on_host = 0 if machine.is_gpu else _n_compared(recipe) * _weights_bytes(recipe)
    lm = 0 if machine.is_gpu else machine.lm_weights * machine.lm_bytes
    return counts + (on_host + lm) / GB


def _disk_bytes(recipe: Recipe, largest: int) -> float:
    weights, n_saes = _weights_bytes(recipe), len(recipe.saes())
    n_trainings = 1 + (recipe.continue_tokens is not None)
    n_checkpoints = n_trainings * (recipe.training.n_checkpoints + 1)
    # weights and moments: the newest checkpoint of each, and the next while it is written
    whole = 3 * weights * (n_saes + largest)
    solo = weights * len(recipe.seeds) * n_checkpoints
    exported = weights * _n_compared(recipe)
    return _activations_bytes(recipe) + whole + solo + exported


def _activations_bytes(recipe: Recipe) -> int:
    cached = recipe.calibrate_tokens
    cached += recipe.n_tokens if recipe.cache_activations else 0
    return 2 * cached * recipe.joint.d_in


def _hours(
    recipe: Recipe, groups: list[list[str]], machine: Machine
) -> dict[str, float]:
    reading = machine.reading / 3600
    n_reads = 1 if recipe.cache_activations else len(groups)
    n_passes = ceil(_counts_gb(recipe) / recipe.comparing.max_memory_gb) + 1
    batch = recipe.training.train_batch_size_tokens
    n_steps = ceil(recipe.n_tokens / batch)
    train = n_steps * sum(
        _step_seconds(recipe, name, machine) for name in recipe.saes()
    )
    # without an SAE, with it, and with its activations set to 0; the layers above the hook,
    # which reading leaves out, are taken to be as many again
    ce_tokens = 3 * 2 * _n_compared(recipe) * recipe.comparing.ce_tokens
    hours = {
        "reading activations": (n_reads * recipe.n_tokens + recipe.calibrate_tokens)
        * reading,
        "training": train / 3600,
    }
    hours["reading for the comparison"] = reading * (
        n_passes * recipe.compare_tokens + ce_tokens
    )
    return hours


def check_activations_fit(recipes: Mapping[Path, Recipe]) -> None:
    """
    Args:
        recipes: whose activations are read in one pass, by the folder of their run.

    Raises:
        ValueError: if the disk has no room for all of them.
    """
    needed = sum(map(_activations_bytes, recipes.values())) / GB
    used, free = sum(map(_used_gb, recipes)), _free_disk_gb(next(iter(recipes)))
    if needed > used + free:
        raise ValueError(
            f"The activations of {len(recipes)} recipes take {needed:.1f} GB of disk; {used:.1f} "
            f"GB are there and {free:.1f} GB are free. Give another --output, or read fewer in "
            "one pass."
        )


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
    free_disk, used = _free_disk_gb(folder), _used_gb(folder)
    needed = needs.disk_gb + (0 if free is None else needs.counts_gb)
    if needed > free_disk + used:
        raise ValueError(
            f"{needed:.1f} GB of disk are needed under {folder}; {used:.1f} GB are there "
            f"and {free_disk:.1f} GB are free. Give another --output."
        )
    if free is not None and needs.comparing_gb > free:
        raise ValueError(
            f"Comparing the SAEs takes {needs.comparing_gb:.1f} GB of memory; {free:.1f} GB are "
            "free. Take a machine with more."
        )


def _free_disk_gb(folder: Path) -> float:
    return shutil.disk_usage(folder).free / GB


def _used_gb(folder: Path) -> float:
    used = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process has just renamed it
            used += path.stat().st_size if path.is_file() else 0
    return used / GB


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
    is_gpu = torch.device(device).type == "cuda"
    dtype = torch.float16 if is_gpu else torch.float32  # that a search multiplies in
    x = torch.randn(batch, d_in, device=device, dtype=dtype)
    d_sae = min(8192, recipe.joint.d_sae)
    W_enc = torch.randn(d_in, d_sae, device=device, dtype=dtype)
    seconds = _least_seconds(lambda: x @ W_enc)
    return 2 * batch * W_enc.numel() / seconds


def measured_bandwidth(device: str) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.randn(1 << 26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source))


def _least_seconds(action: Callable[[], torch.Tensor]) -> float:
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        action().flatten()[0].item()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def needs_table(
    recipe: Recipe, needs: Needs, groups: list[list[str]], machine: Machine
) -> Table:
    """The needs as they are shown before anything starts."""
    table = Table(title=f"What {recipe.release} takes, estimated")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("disk", f"{needs.disk_gb:.1f} GB")
    table.add_row("and while comparing", f"{needs.counts_gb:.1f} GB")
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


def dense_products(
    cfg: MetaTrainingSAEConfig, batch: int
) -> tuple[float, float, float]:
    """Operations in dense products: of a primary step, its share of meta steps, a reconstruction."""
    is_dense = cfg.use_sparse_activations is False
    step, reconstruction = DENSE_PRODUCTS if is_dense else SPARSE_PRODUCTS
    primary = 2.0 * batch * cfg.d_in * cfg.d_sae * step
    if cfg.decomposability_coefficient == 0:
        return primary, 0.0, 0.0
    meta = 2.0 * cfg.d_sae * cfg.d_in * cfg.meta_width
    fits = cfg.meta_steps_per_cycle / cfg.primary_steps_per_cycle
    if cfg.meta_selection == "cycle":
        # what is held is searched for once, and then by the first of the meta steps
        once = meta / cfg.primary_steps_per_cycle
        return primary, meta * step * fits if is_dense else once, once
    return primary, meta * step * fits, meta * reconstruction


def _step_seconds(recipe: Recipe, name: str, machine: Machine) -> float:
    """A step of one SAE, its share of a meta phase included."""
    cfg, batch = recipe.saes()[name], recipe.training.train_batch_size_tokens
    if machine.is_gpu:
        return gpu_step_seconds(cfg, batch, machine)
    primary, meta_steps, reconstruction = dense_products(cfg, batch)
    # what is not a dense product is in the factors
    flops = SPARSE_STEP * primary + META_STEP * (meta_steps + reconstruction)
    return flops / machine.rate


def gpu_step_seconds(cfg: MetaTrainingSAEConfig, batch: int, machine: Machine) -> float:
    """A step of one SAE on a GPU, its share of a meta phase included."""
    d_in, d_sae = cfg.d_in, cfg.d_sae
    product, meta_steps, reconstruction = dense_products(cfg, batch)
    moved = WEIGHTS_MOVED * 2 * d_in * d_sae + ACTS_MOVED * batch * d_sae
    moved += PAIRS_MOVED * batch * cfg.k * d_in
    if cfg.decomposability_coefficient:
        is_held = cfg.meta_selection == "cycle"
        fits = cfg.meta_steps_per_cycle / cfg.primary_steps_per_cycle
        # products over all rows, per primary step
        searches = 2 / cfg.primary_steps_per_cycle if is_held else 1 + fits
        pairs, rows = d_sae * cfg.meta_k * d_in, d_sae * d_in
        product += meta_steps + reconstruction
        moved += searches * ACTS_MOVED * d_sae * cfg.meta_width
        reconstruct = HELD_MOVED if is_held else RECONSTRUCT_MOVED
        moved += (reconstruct[0] + fits * FIT_MOVED[0]) * pairs
        moved += (reconstruct[1] + fits * FIT_MOVED[1]) * rows
    return product / machine.rate + BYTES * moved / machine.bandwidth + LAUNCHING
