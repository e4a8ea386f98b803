"""
Time and peak memory of taking a decoder apart, with both nulls and the second seed.

    python -m benchmarks.decompose 16384 768
    python -m benchmarks.decompose 65536 2304

The rows are random: what they are made of changes neither. `--steps` measures a part of a fit; the
rest of it is alike.
"""

import argparse
import resource
import time

import torch
from sae_lens import StandardSAE, StandardSAEConfig

from sae_lens_meta.decomposition.decompose import checked, opened
from sae_lens_meta.decomposition.fit import FitSettings
from sae_lens_meta.decomposition.given import given_sae


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("d_sae", type=int)
    parser.add_argument("d_in", type=int)
    parser.add_argument("--steps", type=int, default=FitSettings.steps)
    parser.add_argument("--meta_d_sae", type=int)
    args = parser.parse_args()
    settings = FitSettings(meta_d_sae=args.meta_d_sae, steps=args.steps)
    cfg = StandardSAEConfig(d_in=args.d_in, d_sae=args.d_sae)
    given = given_sae(StandardSAE(cfg))
    start = time.perf_counter()
    found = checked(opened(given, settings, refit=False), settings)
    wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{args.d_sae} x {args.d_in}, {found.n_meta} meta latents, {args.steps} steps, "
        f"{torch.get_num_threads()} threads: {wall:.0f} s, "
        f"{used.ru_utime + used.ru_stime:.0f} s of processor in the process, "
        f"peak {used.ru_maxrss / 2**20:.1f} GiB"
    )


if __name__ == "__main__":
    main()
