"""
How much of a step a GPU works, and how often the host has to tell it to.

    python -m benchmarks.launches gpt2-large gemma-4096

For each shape and kind: milliseconds of a step without and with a meta phase before it, kernels
launched, and milliseconds that kernels run. Where these fall short of the step, the GPU
waits for the host.
"""

import argparse
import statistics
from typing import Any

import torch
from sae_lens.training.sae_trainer import SAETrainer
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.shapes import SHAPES, Shape, trainers_that_share_weights
from benchmarks.step import step_seconds

REPEATS = 7


def kernels(trainer: SAETrainer[Any, Any], due: bool) -> tuple[int, float]:
    """How many a step launches, and the milliseconds that they run."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step_seconds(trainer, due)
    events = [
        e
        for e in found.events() or []
        # an annotation, such as the optimizer's, spans kernels that stand by themselves
        if e.device_type == DeviceType.CUDA and not e.is_user_annotation
    ]
    return len(events), sum(e.time_range.elapsed_us() for e in events) / 1e3


def count_shape(name: str, shape: Shape, device: str) -> None:
    print("| shape | kind | with a meta phase | ms | kernels | of which run, ms |")
    print("|---|---|---|---|---|---|")
    for kind, trainer in trainers_that_share_weights(shape, device).items():
        if kind == "stock":
            continue
        for due in (False,) if kind == "solo" else (False, True):
            step_seconds(trainer, due)  # warms up
            taken = [step_seconds(trainer, due) for _ in range(REPEATS)]
            n_kernels, busy = kernels(trainer, due)
            print(
                f"| {name} | {kind} | {'yes' * due} | {1e3 * statistics.median(taken):.2f} | "
                f"{n_kernels} | {busy:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for name in args.shapes:
        count_shape(name, SHAPES[name], "cuda")


if __name__ == "__main__":
    main()
