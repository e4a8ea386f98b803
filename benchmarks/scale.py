"""
Time and peak memory of the measures that grow with pairs of latents, at the paper's sizes.

    python -m benchmarks.scale matching-20480 matching-65536 counter-65536

Each runs in a process of its own. The dictionaries to match are a random one and a noisy,
shuffled copy of it. The counter counts random firings, 100 latents a token; its memory does
not depend on the number of tokens.
"""

import argparse
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch
from tqdm.auto import tqdm

from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.measures.phi import summarize_phi

NOISE = 1.0  # relative to a row: the cosine of a pair is then about 0.7
K, PER_UPDATE, N_TOKENS = 100, 8192, 1_000_000


def matching(d_sae: int, d_in: int) -> str:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(d_sae, d_in, generator=generator)
    shuffled = torch.randperm(d_sae, generator=generator)
    noisy = rows + NOISE * torch.randn(d_sae, d_in, generator=generator)
    start = time.perf_counter()
    found = match_latents(rows, noisy[shuffled])
    taken = time.perf_counter() - start
    right = (shuffled[found.partner] == torch.arange(d_sae)).float().mean()
    kind = "optimal" if found.is_optimal else "sparse"
    return (
        f"{taken:.0f} s, {kind}; mean cosine {found.mean_cosine:.4f}, at most "
        f"{found.upper_bound:.4f}; {100 * right:.2f} % of the pairs are the true ones"
    )


def counter(d_sae: int) -> str:
    generator = torch.Generator().manual_seed(0)
    counter = CooccurrenceCounter(d_sae)
    start = time.perf_counter()
    for _ in tqdm(range(N_TOKENS // PER_UPDATE), desc="Counting"):
        tokens = torch.arange(PER_UPDATE).repeat_interleave(K)
        # squared: some latents are common, most are rare
        latents = torch.rand(PER_UPDATE * K, generator=generator).square() * d_sae
        places = torch.stack([tokens, latents.long()])
        ones = torch.ones(PER_UPDATE * K)
        size = (PER_UPDATE, d_sae)
        fires = torch.sparse_coo_tensor(places, ones, size, check_invariants=False)
        counter.update(fires)
    counted = time.perf_counter() - start
    summarize_phi(counter)
    taken = time.perf_counter() - start - counted
    rate = counter.n_tokens / counted
    return (
        f"{rate:,.0f} tokens/s, 35 M tokens in {35e6 / rate / 60:.0f} minutes; mean |phi| "
        f"in {taken:.0f} s"
    )


JOBS: dict[str, Callable[[], str]] = {
    "matching-20480": lambda: matching(20_480, 1_280),
    "matching-65536": lambda: matching(65_536, 3_584),
    "counter-65536": lambda: counter(65_536),
}


def run(name: str) -> str:
    found = JOBS[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return f"{name}: {found}; peak {peak:.1f} GB resident"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs", nargs="*", default=list(JOBS), choices=list(JOBS))
    for name in parser.parse_args().jobs:
        with get_context("spawn").Pool(1) as pool:
            print(pool.apply(run, (name,)), flush=True)


if __name__ == "__main__":
    main()
