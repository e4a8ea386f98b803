import math

import numpy as np
import torch

from sae_lens_meta.penalty import decomposability, unit_rows


def test_penalty_is_the_papers_formula_in_float64() -> None:
    generator = np.random.default_rng(0)
    rows, recons = generator.normal(size=(2, 7, 5))
    by_hand = [
        math.exp(-sum((w - r) ** 2 for w, r in zip(row, recon, strict=True)) / 3.0)
        for row, recon in zip(rows, recons, strict=True)
    ]
    penalty = decomposability(torch.tensor(rows), torch.tensor(recons), bandwidth=3.0)
    np.testing.assert_allclose(penalty.numpy(), by_hand, rtol=1e-12)


def test_descending_the_penalty_moves_a_row_away_from_its_reconstruction() -> None:
    row = torch.tensor([[1.0, 0.0]], requires_grad=True)
    recon = torch.tensor([[0.6, 0.3]], requires_grad=True)
    decomposability(row, recon, bandwidth=1.0).sum().backward()
    assert row.grad is not None
    step = -row.grad
    assert torch.cosine_similarity(step, row - recon).item() > 0.999999
    assert recon.grad is None


def test_unit_rows_forget_the_norm_and_keep_the_direction() -> None:
    W_dec = torch.randn(6, 4, dtype=torch.float64)
    scaled = W_dec * torch.arange(1, 7)[:, None]
    torch.testing.assert_close(unit_rows(scaled), unit_rows(W_dec))
    torch.testing.assert_close(
        unit_rows(W_dec).norm(dim=1), torch.ones(6, dtype=torch.float64)
    )
