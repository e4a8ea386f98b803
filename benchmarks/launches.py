"""
How much of a step a GPU works, and how often the host has to tell it to.

    python -m benchmarks.launches gpt2-large gemma-4096

For each shape and kind: milliseconds of a step without and with a meta phase before it, how often
the host hands work over, kernels that run, and milliseconds that they run. Where these fall short
of the step, the GPU waits for the host.
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
# of CUDA's calls, those that hand work over: one of a graph is that of all its kernels
HANDED_OVER = ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cudaMemcpy", "cudaMemset")


def work(trainer: SAETrainer[Any, Any], due: bool) -> tuple[int, int, float]:
    """How often a step hands work over, its kernels, and the milliseconds that they run."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step_seconds(trainer, due)
    events = found.events() or []
    n_handed_over = sum(e.name.startswith(HANDED_OVER) for e in events)
    kernels = [
        e
        for e in events
        # an annotation, such as the optimizer's, spans kernels that stand by themselves
        if e.device_type == DeviceType.CUDA and not e.is_user_annotation
    ]
    busy = sum(e.time_range.elapsed_us() for e in kernels) / 1e3
    return n_handed_over, len(kernels), busy


def count_shape(name: str, shape: Shape, device: str) -> None:
    print(
        "| shape | kind | with a meta phase | ms | handed over | kernels | of which run, ms |"
    )
    print("|---|---|---|---|---|---|---|")
    for kind, trainer in trainers_that_share_weights(shape, device).items():
        if kind == "stock":
            continue
        for due in (False,) if kind == "solo" else (False, True):
            # a meta phase before, since a cycle begins with one; and graphs are recorded
            for is_due in (kind != "solo", due, due, due):
                step_seconds(trainer, is_due)
            taken = [step_seconds(trainer, due) for _ in range(REPEATS)]
            n_handed_over, n_kernels, busy = work(trainer, due)
            print(
                f"| {name} | {kind} | {'yes' * due} | {1e3 * statistics.median(taken):.2f} | "
                f"{n_handed_over} | {n_kernels} | {busy:.2f} |"
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
