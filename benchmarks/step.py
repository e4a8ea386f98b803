"""
Times a whole training step, SAELens's `SAETrainer.step`, side by side in one process.

    python -m benchmarks.step demo gpt2-large --pairs 5
    python -m benchmarks.step gpt2-large gemma-4096 --device cuda --autocast
    python -m benchmarks.step gemma-4096 --kinds solo cycle --pairs 2
    python -m benchmarks.step demo gpt2-large --kinds solo orthogonality implied_overlap

For each shape: the joint step with its meta phase shared out over the ten steps of a cycle,
against a solo step of SAELens's `batchtopk` and against our own step with coefficient 0;
where the time of our steps goes, in milliseconds; and the floor, the encoder's one dense
product at the rate that this machine multiplies matrices of that shape at. One latent in a
hundred of each SAE is dead, as in a real run.
"""

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from typing import Any
from unittest import mock

import torch
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from benchmarks.shapes import (
    CYCLE,
    KINDS,
    PENALTIES,
    SHAPES,
    Shape,
    trainers_that_share_weights,
)
from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.backend import cuda
from sae_lens_meta.training.backend.cpu import CPUBackend, RunningTopK
from sae_lens_meta.training.backend.cuda import CUDABackend
from sae_lens_meta.training.held_selection import HeldMetaSAE
from sae_lens_meta.training.implied_overlap import RENEWED_EVERY, ImpliedOverlap
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.sparse_product import ActiveCodes

JOINT = ("joint", "cycle")
DEAD_EVERY = 100
STAGES: dict[str, tuple[Any, str]] = {
    "meta phase": (MetaTrainingSAE, "_advance_cycle"),
    "reconstruct": (MetaSAE, "reconstruct"),
    "reconstruct ": (HeldMetaSAE, "reconstruct"),
    "penalty": (MetaTrainingSAE, "_decomposability"),
    "encode": (CPUBackend, "largest"),
    "encode ": (CUDABackend, "largest"),
    "select": (RunningTopK, "add"),
    "select ": (cuda, "_largest"),
    "decode": (ActiveCodes, "differences"),
    "backward": (torch.Tensor, "backward"),
}
WHOLE = ("meta phase", "reconstruct", "reconstruct ")  # what happens inside is theirs


def now() -> float:
    """Seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(action: Callable[[], Any]) -> float:
    start = now()
    action()
    return now() - start


@contextmanager
def stages_timed(trainer: SAETrainer[Any, Any]) -> Iterator[dict[str, float]]:
    """Seconds spent in each stage, what is nested in another counted once."""
    owners = {**STAGES, "optimizer": (trainer.optimizer, "step")}
    spent: dict[str, float] = defaultdict(float)
    running: list[str] = []

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if running and running[-1] in WHOLE:
                return function(*args, **kwargs)
            running.append(stage)
            start = now()
            result = function(*args, **kwargs)
            elapsed = now() - start
            running.pop()
            spent[stage] += elapsed
            if running:
                spent[running[-1]] -= elapsed
            return result

        return call

    with ExitStack() as stack:
        for stage, (owner, name) in owners.items():
            replaced = timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, replaced))
        yield spent


def step_seconds(trainer: SAETrainer[Any, Any], due: bool = False) -> float:
    """One step; `due` says whether a meta phase precedes it."""
    if isinstance(trainer.sae, MetaTrainingSAE) and trainer.sae.meta_sae is not None:
        trainer.sae.steps_in_cycle.fill_(CYCLE if due else 1)
        # at initial weights most would be silent, which no real run's are
        trainer.sae.meta_sae.steps_since_fired.zero_()
        trainer.sae.meta_sae.steps_since_fired[::DEAD_EVERY] = 1000
    trainer.n_forward_passes_since_fired.zero_()
    trainer.n_forward_passes_since_fired[::DEAD_EVERY] = 1e6
    batch = next(trainer.data_provider)
    return seconds(lambda: trainer.step(batch))


def joint_seconds(trainer: SAETrainer[Any, Any]) -> float:
    """A joint step on average over a cycle."""
    plain = step_seconds(trainer)
    return ((CYCLE - 1) * plain + step_seconds(trainer, due=True)) / CYCLE


def overlap_seconds(trainer: SAETrainer[Any, Any]) -> float:
    """A step of implied overlap on average over a renewal, each latent with two parents."""
    overlap = trainer.sae.overlap
    assert isinstance(overlap, ImpliedOverlap)
    d_sae = len(overlap.firings)
    taken = []
    for steps in (1, RENEWED_EVERY - 1):
        overlap.watched.random_(d_sae)
        overlap.is_parent.zero_()[:, :2] = True
        overlap.steps.fill_(steps)
        taken.append(step_seconds(trainer))
    return ((RENEWED_EVERY - 1) * taken[0] + taken[1]) / RENEWED_EVERY


def mean_seconds(kind: str, trainer: SAETrainer[Any, Any]) -> float:
    """A step on average over what happens every so many steps."""
    if kind in JOINT:
        return joint_seconds(trainer)
    return (overlap_seconds if kind == "implied_overlap" else step_seconds)(trainer)


def matmul_seconds(
    shape: Shape, device: str, dtype: torch.dtype = torch.float32
) -> float:
    """The encoder's forward product by itself."""
    x = torch.randn(shape.batch, shape.d_in, device=device, dtype=dtype)
    W_enc = torch.randn(shape.d_in, shape.d_sae, device=device, dtype=dtype)
    return statistics.median(seconds(lambda: x @ W_enc) for _ in range(4))


def breakdown(trainer: SAETrainer[Any, Any]) -> dict[str, float]:
    with stages_timed(trainer) as plain:
        total = step_seconds(trainer)
    rest = total - sum(plain.values())
    return {**plain, "rest": rest}


def ceilings(shape: Shape, device: str) -> str:
    """What this device reaches at best: its product in float32 and on tensor cores, its copy."""
    rate = 2 * shape.batch * shape.d_in * shape.d_sae
    rates = {"float32": matmul_seconds(shape, device)}
    if device == "cuda":
        rates["float16"] = matmul_seconds(shape, device, torch.float16)
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    copied = statistics.median(seconds(lambda: target.copy_(source)) for _ in range(5))
    found = [
        f"{name} {1e3 * s:.2f} ms, {rate / s / 1e12:.2f} TFLOP/s"
        for name, s in rates.items()
    ]
    gigabytes = 2 * 4 * source.numel() / copied / 1e9
    return f"the encoder's product {'; '.join(found)}; copying {gigabytes:.0f} GB/s"


def time_shape(
    name: str,
    shape: Shape,
    n_pairs: int,
    device: str,
    autocast: bool,
    kinds: Sequence[str] = KINDS,
) -> None:
    print(f"\n{name}: {shape}, {'autocast' if autocast else 'float32'}")
    print(ceilings(shape, device))
    trainers = trainers_that_share_weights(shape, device, autocast, kinds)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    peaks: dict[str, float] = {}
    for kind, trainer in trainers.items():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3 if device == "cuda" else 1):  # warms up, and records graphs
            mean_seconds(kind, trainer)
        if device == "cuda":
            peaks[kind] = torch.cuda.max_memory_allocated() / 1e9
    for pair in tqdm(range(n_pairs), desc=name):
        for kind, trainer in trainers.items():
            times[kind].append(mean_seconds(kind, trainer))
        # a large shape takes an hour: what is measured is not to be lost
        latest = ", ".join(f"{kind} {times[kind][-1]:.4f} s" for kind in kinds)
        tqdm.write(f"{name}, pair {pair + 1}: {latest}")
    for kind in kinds:
        taken = times[kind]
        peak = f", peak {peaks[kind]:.1f} GB in all" if peaks else ""
        print(
            f"{kind:6} {statistics.median(taken):.4f} s "
            f"({min(taken):.4f} to {max(taken):.4f}){peak}"
        )
    for kind, other in itertools.product((*JOINT, *PENALTIES), ("stock", "solo")):
        if kind in kinds and other in kinds:
            pairs = zip(times[kind], times[other], strict=True)
            ratio = statistics.median(mine / base for mine, base in pairs)
            print(f"{kind} / {other}: {ratio:.2f}")
    for kind in [kind for kind in kinds if kind != "stock"]:
        parts = breakdown(trainers[kind])
        print(f"{kind}: " + ", ".join(f"{k} {1e3 * v:.2f}" for k, v in parts.items()))
    for kind in [kind for kind in kinds if kind in JOINT]:
        with stages_timed(trainers[kind]) as spent:
            step_seconds(trainers[kind], due=True)
        meta_phase = spent["meta phase"]
        print(f"{kind}: meta phase {1e3 * meta_phase:.2f} ms, once in {CYCLE} steps")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=["demo"], choices=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--autocast", action="store_true")
    choices = (*KINDS, *PENALTIES)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=choices)
    args = parser.parse_args()
    where = f"{torch.get_num_threads()} threads"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}, {date.today()}")
    for name in args.shapes:
        time_shape(
            name, SHAPES[name], args.pairs, args.device, args.autocast, args.kinds
        )


if __name__ == "__main__":
    main()
