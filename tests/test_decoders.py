"""Geometry and matching of decoders against brute force and constructed cases."""

import itertools

import numpy as np
import pytest
import torch

import sae_lens_meta.measures.geometry as geometry
import sae_lens_meta.measures.matching as matching
from sae_lens_meta.measures.geometry import decoder_geometry
from sae_lens_meta.measures.matching import match_latents, random_dictionary


def rows(n: int, d_in: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = 0.1 + 5 * torch.rand(n, 1, generator=generator)
    return scale * torch.randn(n, d_in, generator=generator)


def cosines(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    a, b = a.double(), b.double()
    return (
        (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
    ).numpy()


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_geometry_is_that_of_all_cosines(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "BLOCK_ROWS", block)
    W_dec = rows(60, 12)
    result = decoder_geometry(W_dec)
    matrix = cosines(W_dec, W_dec)
    pairs = matrix[np.triu_indices(60, 1)]
    assert result.mean_abs_cosine == pytest.approx(np.abs(pairs).mean(), rel=1e-5)
    np.fill_diagonal(matrix, -2)
    np.testing.assert_allclose(result.nearest_cosine, matrix.max(1), atol=1e-6)
    assert np.array_equal(result.nearest, matrix.argmax(1))
    assert result.histogram.sum() == len(pairs)
    expected, _ = np.histogram(pairs, 2000, (-1, 1))
    assert np.abs(np.cumsum(result.histogram) - np.cumsum(expected)).max() <= 1


def test_effective_rank_counts_directions() -> None:
    basis = torch.eye(8)
    assert decoder_geometry(basis.repeat(3, 1)).effective_rank == pytest.approx(8)
    assert decoder_geometry(torch.ones(5, 8)).effective_rank == pytest.approx(1)
    some = decoder_geometry(basis[:3].repeat(4, 1) * 7).effective_rank
    assert some == pytest.approx(3)


def test_matching_of_few_latents_is_the_best_of_all_permutations() -> None:
    a, b = rows(6, 4), rows(6, 4, seed=1)
    matrix = cosines(a, b)
    best = max(
        sum(matrix[i, j] for i, j in enumerate(order))
        for order in itertools.permutations(range(6))
    )
    result = match_latents(a, b)
    assert result.is_optimal
    assert result.cosine.sum() == pytest.approx(best, abs=1e-5)
    assert sorted(result.partner.tolist()) == list(range(6))
    assert result.upper_bound == pytest.approx(matrix.max(1).mean(), abs=1e-6)


@pytest.mark.parametrize("max_exact", [10_000, 0])
def test_shuffled_and_rescaled_rows_find_themselves(max_exact: int) -> None:
    a = rows(300, 24)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    noise = 0.01 * rows(300, 24, seed=3)
    result = match_latents(a, a[order] * 3 + noise[order], max_exact)
    assert torch.equal(order[result.partner], torch.arange(300))
    assert result.mean_cosine > 0.99


def test_sparse_matching_is_one_to_one_and_near_the_optimum() -> None:
    a, b = rows(400, 16), rows(400, 16, seed=1)
    exact, sparse = match_latents(a, b), match_latents(a, b, max_exact=0)
    assert sorted(sparse.partner.tolist()) == list(range(400))
    assert not sparse.is_optimal
    assert 0.98 * exact.mean_cosine < sparse.mean_cosine <= exact.mean_cosine + 1e-6
    assert sparse.mean_cosine <= sparse.upper_bound
    assert sparse.upper_bound == pytest.approx(exact.upper_bound, abs=1e-6)


def test_sparse_matching_is_optimal_where_every_row_is_a_candidate() -> None:
    a, b = rows(50, 8), rows(50, 8, seed=1)
    exact, sparse = match_latents(a, b), match_latents(a, b, max_exact=0)
    assert exact.cosine.min() < 0.5, "some pairs are far apart"
    assert sparse.mean_cosine == pytest.approx(exact.mean_cosine, abs=1e-6)


def test_rows_whose_candidates_are_taken_get_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matching, "N_CANDIDATES", 1)
    result = match_latents(rows(100, 4), rows(100, 4, seed=1), max_exact=0)
    assert sorted(result.partner.tolist()) == list(range(100))


@pytest.mark.parametrize("max_exact", [10_000, 0])
@pytest.mark.parametrize(("n_a", "n_b"), [(30, 50), (50, 30)])
def test_sizes_may_differ(n_a: int, n_b: int, max_exact: int) -> None:
    result = match_latents(rows(n_a, 8), rows(n_b, 8, seed=1), max_exact)
    partners = result.partner[result.partner >= 0]
    assert len(partners) == len(set(partners.tolist())) == 30
    assert np.isnan(result.cosine).sum() == n_a - 30
    assert np.isfinite(result.mean_cosine)


def test_random_dictionary_is_the_null_that_a_true_match_beats() -> None:
    a = rows(200, 32)
    noisy = a + 0.3 * a.norm(dim=1, keepdim=True) * rows(200, 32, seed=4) / 30
    null = match_latents(a, random_dictionary(noisy))
    assert match_latents(a, noisy).mean_cosine > 2 * null.mean_cosine
    assert torch.equal(random_dictionary(a, 1), random_dictionary(a, 1))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="d_in 4 and 5 cannot be matched"):
        match_latents(rows(3, 4), rows(3, 5))
    broken = rows(5, 4)
    broken[2] = 0
    with pytest.raises(ValueError, match=r"1 decoder rows are zero .*first: row 2"):
        match_latents(broken, rows(3, 4))
    broken[2] = torch.nan
    with pytest.raises(ValueError, match="row 2"):
        decoder_geometry(broken)
    with pytest.raises(ValueError, match="two rows, got 1"):
        decoder_geometry(rows(1, 4))
