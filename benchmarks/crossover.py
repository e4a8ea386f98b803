"""
From which share of active latents on a dense pass is faster than a sparse one.

    python -m benchmarks.crossover [--device cuda]

Forward and backward of our solo SAE, pair by pair. `max_active_share` of each backend is taken
from here.
"""

import argparse
import statistics

import torch
from sae_lens.saes.sae import TrainStepInput

from benchmarks.step import seconds
from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig

N_PAIRS = 5
SHARES = (128, 64, 32, 16, 8, 6, 4)
# batch, d_in, d_sae: a small SAE, the demo's primary and meta SAE, GPT-2 large's meta SAE
SHAPES = [
    (1024, 256, 2048),
    (2048, 576, 4096),
    (4096, 576, 368),
    (20480, 1280, 1800),
]


def pass_seconds(sae: MetaTrainingSAE, batch: torch.Tensor) -> float:
    def forward_and_backward() -> None:
        step_input = TrainStepInput(batch, {}, None, 0, False)
        sae.training_forward_pass(step_input).loss.backward()

    taken = seconds(forward_and_backward)
    sae.zero_grad()
    return taken


def ratio(n: int, d_in: int, d_sae: int, k: float, device: str) -> float:
    sparse, dense = (
        MetaTrainingSAE(
            MetaTrainingSAEConfig(
                d_in=d_in,
                d_sae=d_sae,
                k=k,
                decomposability_coefficient=0,
                use_sparse_activations=is_sparse,
                device=device,
            )
        )
        for is_sparse in (True, False)
    )
    batch = torch.randn(n, d_in, device=device)
    pairs = [
        (pass_seconds(sparse, batch), pass_seconds(dense, batch))
        for _ in range(N_PAIRS + 1)
    ]
    return statistics.median(ours / base for ours, base in pairs[1:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    device = parser.parse_args().device
    print("sparse / dense, forward and backward")
    print("| batch, d_in, d_sae | " + " | ".join(f"1/{s}" for s in SHARES) + " |")
    print("|---" * (len(SHARES) + 1) + "|")
    for n, d_in, d_sae in SHAPES:
        ratios = [ratio(n, d_in, d_sae, d_sae / share, device) for share in SHARES]
        cells = " | ".join(f"{r:.2f}" for r in ratios)
        print(f"| {n:,} x {d_in:,} x {d_sae:,} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
