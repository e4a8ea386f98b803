import math

import numpy as np
import torch

from sae_lens_meta.training.penalty import decomposability, unit_rows


def test_penalty_is_the_papers_formula_in_float64() -> None:
    generator = np.random.default_rng(0)
    W_dec, recons = generator.normal(size=(2, 7, 5))
    rows = W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)
    distances = [
        sum((w - r) ** 2 for w, r in zip(row, recon, strict=True))
        for row, recon in zip(rows, recons, strict=True)
    ]
    result = decomposability(torch.tensor(W_dec), torch.tensor(recons), bandwidth=3.0)
    by_hand = [math.exp(-distance / 3.0) for distance in distances]
    np.testing.assert_allclose(result.penalties.numpy(), by_hand, rtol=1e-12)
    np.testing.assert_allclose(result.squared_distances.numpy(), distances, rtol=1e-12)


def test_gradient_is_that_of_autograd_through_the_normalisation() -> None:
    W_dec = torch.randn(9, 6, dtype=torch.float64) * torch.arange(1, 10)[:, None]
    recons = torch.randn(9, 6, dtype=torch.float64) / 3
    weights = torch.randn(9, dtype=torch.float64)
    ours, reference = (W_dec.clone().requires_grad_() for _ in range(2))
    (decomposability(ours, recons, 0.7).penalties * weights).sum().backward()
    distances = (unit_rows(reference) - recons).pow(2).sum(dim=1)
    (torch.exp(-distances / 0.7) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-10, atol=1e-12)


def test_descending_the_penalty_turns_a_row_away_from_its_reconstruction() -> None:
    row = torch.tensor([[3.0, 0.0]], requires_grad=True)
    recon = torch.tensor([[0.6, 0.3]], requires_grad=True)
    decomposability(row, recon, bandwidth=1.0).penalties.sum().backward()
    assert row.grad is not None
    across = torch.tensor([[0.0, -1.0]])  # what is along the row would change its norm
    assert torch.cosine_similarity(-row.grad, across).item() > 0.999999
    assert recon.grad is None


def test_unit_rows_forget_the_norm_and_keep_the_direction() -> None:
    W_dec = torch.randn(6, 4, dtype=torch.float64)
    scaled = W_dec * torch.arange(1, 7)[:, None]
    torch.testing.assert_close(unit_rows(scaled), unit_rows(W_dec))
    torch.testing.assert_close(
        unit_rows(W_dec).norm(dim=1), torch.ones(6, dtype=torch.float64)
    )
