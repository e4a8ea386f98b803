"""
How far the variance that a fresh meta SAE explains lies from SAEBench's figure, and why.

    python -m benchmarks.meta_structure

Fits meta SAEs to the decoder of the paper's bundled release as `evaluate` does, as `meta_structure` of
sae-bench 0.6.0 does, over three seeds; and, with the first of them, as the latter does but with one
thing at a time done as here. In float32: SAEBench's autocast to bfloat16 is left out.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

import torch
from rich.console import Console
from rich.table import Table
from sae_lens import SAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm, trange

import sae_lens_meta  # noqa: F401  (registers the bundled release)
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.training.meta_fit import meta_fit
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.training.penalty import unit_rows
from sae_lens_meta.training.silence import DEAD_AFTER_STEPS

RELEASE = "metasae-smollm2-135m-instruct-l11"
HOOK = "blocks.11.hook_resid_post"
K, N_STEPS, ROWS, LR = 4, 1500, 1024, 5e-4  # the same in both
Fit = Callable[[torch.Tensor, int, int], float]


@dataclass
class Procedure:
    """
    SAEBench's, where nothing is changed.

    Attributes:
        decoder_init_norm: of the meta SAE's initial decoder rows.
        normalize: of the rows, in which the loss is taken as well.
        aux_loss: whether latents that were silent for five steps are revived; SAEBench's window
            of 2,000 steps is longer than the fit.
        beta2: of Adam.
        clips: whether the norm of the gradient is held to 1.
        replaces: whether a row can be drawn twice in a step.
    """

    decoder_init_norm: float = 0.1
    normalize: str = "none"
    aux_loss: bool = False
    beta2: float = 0.999
    clips: bool = True
    replaces: bool = True

    def __call__(self, rows: torch.Tensor, width: int, seed: int) -> float:
        """Share of the variance of unit `rows` that a meta SAE fitted like this explains."""
        torch.manual_seed(seed)
        meta_sae = NormalizedBatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=rows.shape[1],
                d_sae=width,
                k=K,
                normalize_activations=self.normalize,  # type: ignore[arg-type]
                decoder_init_norm=self.decoder_init_norm,
                aux_loss_coefficient=1 / 32,
                use_sparse_activations=True,
            )
        )
        betas = (0.9, self.beta2)
        adam = torch.optim.Adam(meta_sae.parameters(), lr=LR, betas=betas)
        silent = torch.zeros(width)
        for step in trange(N_STEPS, leave=False):
            dead = silent >= DEAD_AFTER_STEPS if self.aux_loss else None
            drawn = self._drawn(len(rows))
            output = meta_sae.training_forward_pass(
                TrainStepInput(rows[drawn], {}, dead, step, is_logging_step=False)
            )
            output.loss.backward()
            if self.clips:
                clip_grad_norm_(meta_sae.parameters(), 1.0)
            adam.step()
            adam.zero_grad()
            fired = output.feature_acts.sum(dim=0).to_dense() > 0
            silent = (silent + 1) * ~fired
        with torch.no_grad():
            distances = (rows - meta_sae(rows)).pow(2).sum(dim=-1)
        return float(meta_fit(rows, distances)["meta_explained_variance"])

    def _drawn(self, n_rows: int) -> torch.Tensor:
        if self.replaces:
            return torch.randint(n_rows, (ROWS,))
        return torch.randperm(n_rows)[:ROWS]


OURS = {
    "decoder rows start at norm 1, not 0.1": {"decoder_init_norm": 1.0},
    "rows normalised (layer_norm)": {"normalize": "layer_norm"},
    "silent latents revived": {"aux_loss": True},
    "Adam's beta2 0.99, not 0.999": {"beta2": 0.99},
    "gradient not clipped": {"clips": False},
    "rows drawn without replacement": {"replaces": False},
}


def ours(rows: torch.Tensor, width: int, seed: int) -> float:
    return meta_explained_variance(rows, width, K, N_STEPS, ROWS, LR, seed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.25])
    args = parser.parse_args()
    rows = unit_rows(SAE.from_pretrained(RELEASE, HOOK).W_dec.detach())
    fits: dict[str, Fit] = {"ours": ours, "SAEBench's": Procedure()}
    fits |= {f"– {what}": replace(Procedure(), **how) for what, how in OURS.items()}
    everything = {field: value for how in OURS.values() for field, value in how.items()}
    fits["– all of these"] = replace(Procedure(), **everything)
    table = Table(title="Decoder variance explained, seeds 0, 1, 2 or seed 0")
    table.add_column("")
    for ratio in args.ratio:
        table.add_column(f"width {ratio:g}", justify="right")
    for what, fit in tqdm(fits.items()):
        seeds = (0,) if what.startswith("–") else (0, 1, 2)
        cells = []
        for ratio in args.ratio:
            width = ceil(ratio * len(rows))
            values = [fit(rows, width, seed) for seed in seeds]
            cells.append(", ".join(f"{value:.4f}" for value in values))
        table.add_row(what, *cells)
        tqdm.write(f"{what}: {' | '.join(cells)}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
