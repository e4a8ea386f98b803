"""
How fast the meta SAE learns a decoder that stands still.

    python -m benchmarks.critic SAE_FOLDER

For several learning rates: the share of the variance of the decoder rows that it explains, by its
steps. In a joint training the decoder moves, so that this is the best that it could do there.
"""

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from sae_lens import SAE
from tqdm.auto import tqdm

from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.meta_fit import meta_fit
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.penalty import unit_rows

STEPS = (50, 100, 200, 400, 800, 1600)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def learned(W_dec: torch.Tensor, width: int, k: float, lr: float) -> list[float]:
    """Explained variance after each number of steps."""
    cfg = MetaSAEConfig(
        d_in=W_dec.shape[1],
        d_sae=width,
        k=k,
        lr=lr,
        normalize_activations="layer_norm",
        aux_loss_coefficient=1 / 32,
        decoder_init_norm=1.0,
    )
    torch.manual_seed(0)
    meta_sae = MetaSAE(cfg)
    explained, before = [], 0
    for n_steps in tqdm(STEPS, desc=f"lr {lr:g}", leave=False):
        meta_sae.fit(W_dec, n_steps - before)
        before = n_steps
        mse = (unit_rows(W_dec) - meta_sae.reconstruct(W_dec)).pow(2).sum(-1)
        explained.append(float(meta_fit(W_dec, mse)["meta_explained_variance"]))
    return explained


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=368)
    parser.add_argument("--k", type=float, default=4)
    args = parser.parse_args()
    W_dec = SAE.load_from_disk(args.folder).W_dec.detach()
    table = Table(
        title=f"Variance of {len(W_dec):,} rows explained by {args.width} / {args.k:g}"
    )
    table.add_column("meta_lr")
    for n_steps in STEPS:
        table.add_column(f"{n_steps} steps", justify="right")
    for lr in RATES:
        row = learned(W_dec, args.width, args.k, lr)
        table.add_row(f"{lr:g}", *(f"{value:.3f}" for value in row))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
