"""
What it saves to count a comparison's tokens by several workers, and what Ray itself takes.

    python -m benchmarks.counting_parts JOINT SOLO --dataset TEXT --tokens 65536

Counts with 1, 2 and 4 parts, each part a Ray task with one core, and checks that what is merged is what
one process counts. Ray and the workers' imports are warmed up first.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch

from sae_lens_meta.activations.measured_on import SourceConfig
from sae_lens_meta.activations.part import Part, parts
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.counting import Tally, merge_parts
from sae_lens_meta.comparison.plan import planned
from sae_lens_meta.comparison.run import count_part

N_EMPTY = 50


@ray.remote(num_cpus=1)
def count(cfg: Any, source: Any, part: Part | None) -> None:
    torch.set_num_threads(1)
    if part is not None:
        count_part(cfg, source, part)


def counted(cfg: CompareConfig, source: SourceConfig, n_parts: int) -> Any:
    """The seconds of it, and the counts of every SAE."""
    start = time.perf_counter()
    of = parts(n_parts)
    ray.get([count.remote(cfg, source, part) for part in of])
    plan = planned(cfg, source)
    assert merge_parts(plan.passes, plan.saes, plan.progress, of)
    seconds = time.perf_counter() - start
    tallies = {n: Tally.load(plan.progress / n, s) for n, s in plan.saes.items()}
    return seconds, {n: tally.counter.together for n, tally in tallies.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("joint", type=Path)
    parser.add_argument("solo", type=Path)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--tokens", type=int, default=65_536)
    args = parser.parse_args()
    source = SourceConfig(dataset=args.dataset, tokens=args.tokens, device="cpu")
    groups = {"solo": [args.solo.resolve()], "joint": [args.joint.resolve()]}
    ray.init(address="local", log_to_driver=False)
    ray.get([count.remote(None, None, None) for _ in range(4)])  # imports
    start = time.perf_counter()
    ray.get([count.remote(None, None, None) for _ in range(N_EMPTY)])
    overhead = (time.perf_counter() - start) / N_EMPTY
    print(f"an empty piece on Ray: {1000 * overhead:.1f} ms")
    whole: Any = None
    for n_parts in (1, 2, 4):
        with TemporaryDirectory() as folder:
            cfg = CompareConfig(groups=groups, output=Path(folder), n_candidates=0)
            seconds, found = counted(cfg, source, n_parts)
        whole = whole or found
        same = all(np.array_equal(found[name], whole[name]) for name in whole)
        print(f"{n_parts} parts: {seconds:.0f} s, counts equal: {same}")


if __name__ == "__main__":
    main()
