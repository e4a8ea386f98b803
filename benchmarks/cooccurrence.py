"""
Tokens per second of the co-occurrence counter, against a dense product of the indicators.

    python -m benchmarks.cooccurrence

The dense product, float32 on all threads, is what the author's code does (on a GPU, in half
precision). Firing follows a power law: frequent latents meet on many tokens.
"""

import argparse
import statistics

import torch

from benchmarks.step import seconds
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter

N_PAIRS = 5
BATCH = 1000  # tokens handed over at a time


def firing_lists(n_tokens: int, d_sae: int, k: int) -> torch.Tensor:
    """`[n_tokens, k]` distinct latents of each token, latent i at a rate of about 1 / i."""
    weights = 1 / torch.arange(1, d_sae + 1).float().sqrt()
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(
        weights.expand(n_tokens, -1), k, replacement=False, generator=generator
    )


def as_indicators(latents: torch.Tensor, d_sae: int) -> torch.Tensor:
    """Sparse indicators `[n_tokens, d_sae]`."""
    n, k = latents.shape
    tokens = torch.arange(n).repeat_interleave(k)
    places = torch.stack([tokens, latents.flatten()])
    ones = torch.ones(n * k)
    return torch.sparse_coo_tensor(places, ones, (n, d_sae), check_invariants=False)


def count(counter: CooccurrenceCounter, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        counter.update(batch)
    _ = counter.together  # counts what is still gathered


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--d_sae", type=int, default=20480)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=50_000)
    parser.add_argument("--dense_tokens", type=int, default=2000)
    args = parser.parse_args()
    parts = firing_lists(args.tokens, args.d_sae, args.k).split(BATCH)
    batches = [as_indicators(part, args.d_sae) for part in parts]
    dense = torch.cat([b.to_dense() for b in batches[: args.dense_tokens // BATCH]])
    counter = CooccurrenceCounter(args.d_sae)
    pairs = []
    for _ in range(N_PAIRS + 1):  # the first compiles and warms up
        ours = args.tokens / seconds(lambda: count(counter, batches))
        theirs = len(dense) / seconds(lambda: dense.t() @ dense)
        pairs.append((ours, theirs))
    ours, theirs = (statistics.median(rates) for rates in zip(*pairs[1:], strict=True))
    ratio = statistics.median(a / b for a, b in pairs[1:])
    print(f"d_sae {args.d_sae}, k {args.k}, {torch.get_num_threads()} threads")
    print(
        f"counter {ours:,.0f} tokens/s, dense product {theirs:,.0f}, ratio {ratio:.0f}"
    )


if __name__ == "__main__":
    main()
