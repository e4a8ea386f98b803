"""
Times a whole training step, SAELens's `SAETrainer.step`, side by side in one process.

    python benchmarks/step.py demo gpt2-large --pairs 5

For each shape: the joint step with its meta phase shared out over the ten steps of a cycle,
against a solo step of SAELens's `batchtopk` and against our own step with coefficient 0;
where the time of our steps goes; and the floor, the encoder's one dense product at the rate
that this machine multiplies matrices of that shape at.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from sae_lens.training.sae_trainer import SAETrainer
from tqdm.auto import tqdm

from benchmarks.shapes import CYCLE, KINDS, SHAPES, Shape, trainers_that_share_weights
from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.batch_topk import RunningTopK
from sae_lens_meta.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.sparse_product import ActiveCodes

STAGES: dict[str, tuple[Any, str]] = {
    "meta phase": (MetaTrainingSAE, "_advance_cycle"),
    "penalty": (MetaTrainingSAE, "_add_penalty"),
    "encode": (NormalizedBatchTopKTrainingSAE, "_largest"),
    "select": (RunningTopK, "add"),
    "decode": (ActiveCodes, "decode"),
    "backward": (torch.Tensor, "backward"),
}
WHOLE = ("meta phase", "penalty")  # what happens inside is theirs


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


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
            start = time.perf_counter()
            result = function(*args, **kwargs)
            elapsed = time.perf_counter() - start
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
    batch = next(trainer.data_provider)
    return seconds(lambda: trainer.step(batch))


def joint_seconds(trainer: SAETrainer[Any, Any]) -> float:
    """A joint step on average over a cycle."""
    plain = step_seconds(trainer)
    return ((CYCLE - 1) * plain + step_seconds(trainer, due=True)) / CYCLE


def matmul_seconds(shape: Shape) -> float:
    """The encoder's forward product by itself."""
    x, W_enc = (
        torch.randn(shape.batch, shape.d_in),
        torch.randn(shape.d_in, shape.d_sae),
    )
    return statistics.median(seconds(lambda: x @ W_enc) for _ in range(3))


def breakdown(trainer: SAETrainer[Any, Any]) -> dict[str, float]:
    with stages_timed(trainer) as plain:
        total = step_seconds(trainer)
    rest = total - sum(plain.values())
    return {**plain, "rest": rest}


def time_shape(name: str, shape: Shape, n_pairs: int) -> None:
    floor = matmul_seconds(shape)
    rate = 2 * shape.batch * shape.d_in * shape.d_sae / floor / 1e9
    trainers = trainers_that_share_weights(shape)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for trainer in trainers.values():
        step_seconds(trainer)  # warms up
    for pair in tqdm(range(n_pairs), desc=name):
        for kind, trainer in trainers.items():
            taken = (joint_seconds if kind == "joint" else step_seconds)(trainer)
            times[kind].append(taken)
        # a large shape takes an hour: what is measured is not to be lost
        latest = ", ".join(f"{kind} {times[kind][-1]:.3f} s" for kind in KINDS)
        tqdm.write(f"{name}, pair {pair + 1}: {latest}")
    medians = {kind: statistics.median(taken) for kind, taken in times.items()}
    print(f"\n{name}: {shape}")
    print(f"matrix product {rate:.0f} GFLOP/s, floor {floor:.3f} s")
    for kind in KINDS:
        spread = f"{min(times[kind]):.3f} to {max(times[kind]):.3f}"
        print(f"{kind:6} {medians[kind]:.3f} s ({spread})")
    for other in ("stock", "solo"):
        pairs = zip(times["joint"], times[other], strict=True)
        ratio = statistics.median(joint / base for joint, base in pairs)
        print(f"joint / {other}: {ratio:.2f}")
    for kind in ("solo", "joint"):
        parts = breakdown(trainers[kind])
        print(f"{kind}: " + ", ".join(f"{k} {v:.3f}" for k, v in parts.items()))
    with stages_timed(trainers["joint"]) as spent:
        step_seconds(trainers["joint"], due=True)
    print(f"meta phase {spent['meta phase']:.3f} s, once in {CYCLE} steps")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=["demo"], choices=list(SHAPES))
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, CPU")
    for name in args.shapes:
        time_shape(name, SHAPES[name], args.pairs)


if __name__ == "__main__":
    main()
