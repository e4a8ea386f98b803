"""The implied-overlap penalty against dense counts in float64."""

import pytest
import torch

from sae_lens_meta.training.implied_overlap import (
    FREE_COSINE,
    HALVED_EVERY,
    MIN_RATIO,
    MIN_SHARE,
    RENEWED_EVERY,
    ImpliedOverlap,
)

D_SAE, BATCH = 12, 256


def codes(seed: int, n: int = BATCH) -> torch.Tensor:
    """Latent 0 fires often; 1 and 2 only with it; 3 only with 1; the others by themselves."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(n, D_SAE, generator=generator) < 0.15
    draws = torch.rand(n, 4, generator=generator)
    fires[:, 0] = draws[:, 0] < 0.6
    fires[:, 1] = fires[:, 0] & (draws[:, 1] < 0.5)
    fires[:, 2] = fires[:, 0] & (draws[:, 2] < 0.2)
    fires[:, 3] = fires[:, 1] & (draws[:, 3] < 0.5)
    return fires * torch.rand(n, D_SAE, generator=generator)


def counted(steps: int, n_parents: int = D_SAE) -> ImpliedOverlap:
    overlap = ImpliedOverlap(D_SAE, n_parents)
    for step in range(steps):
        overlap.count(codes(step))
    return overlap


def parents_of(overlap: ImpliedOverlap) -> set[tuple[int, int]]:
    children, slots = overlap.is_parent.nonzero(as_tuple=True)
    parents = overlap.watched[children, slots]
    return set(zip(children.tolist(), parents.tolist(), strict=True))


def dense_parents(steps: int) -> set[tuple[int, int]]:
    """The rule over all pairs, counted one matrix a step."""
    together = torch.zeros(D_SAE, D_SAE, dtype=torch.float64)
    for step in range(steps):
        fires = (codes(step) != 0).double()
        together += fires.t() @ fires
        # parents are settled before counts are halved
        if (step + 1) % HALVED_EVERY == 0 and step + 1 < steps:
            together /= 2
    f = together.diagonal()
    is_parent = (together / f[:, None] > MIN_SHARE) & (f > MIN_RATIO * f[:, None])
    return {(i, j) for i, j in is_parent.nonzero().tolist() if i != j}


@pytest.mark.parametrize("steps", [2 * RENEWED_EVERY, 6 * RENEWED_EVERY])
def test_parents_are_those_of_counts_over_all_pairs(steps: int) -> None:
    expected = dense_parents(steps)
    assert {(1, 0), (2, 0), (3, 0), (3, 1)} <= expected
    assert parents_of(counted(steps)) == expected


def test_few_are_watched_and_the_parents_are_among_them() -> None:
    found = parents_of(counted(4 * RENEWED_EVERY, n_parents=2))
    assert {(1, 0), (2, 0), (3, 0), (3, 1)} <= found


def test_of_a_thousand_latents_parents_of_rare_ones_are_found_and_no_others() -> None:
    """128 families of eight: the more often a child fires, the sooner its parent is found."""
    generator = torch.Generator().manual_seed(0)
    n_families, n_children, batch = 128, 7, 2048
    rates = torch.logspace(-4, -2, n_families * n_children)
    rates = rates[torch.randperm(len(rates), generator=generator)]
    rates = rates.view(n_families, n_children)
    parent_rates = 10 * rates.max(dim=1).values
    overlap = ImpliedOverlap(n_families * (1 + n_children))
    for _ in range(5 * RENEWED_EVERY):
        draws = torch.rand(batch, n_families, generator=generator)
        samples, family = (draws < parent_rates).nonzero(as_tuple=True)
        chance = (rates / parent_rates[:, None])[family]
        fires = torch.rand(chance.shape, generator=generator) < chance
        of_child, child = fires.nonzero(as_tuple=True)
        latents = [family * (1 + n_children)]
        latents.append(latents[0][of_child] + 1 + child)
        places = torch.stack(
            [torch.cat([samples, samples[of_child]]), torch.cat(latents)]
        )
        shape = (batch, len(overlap.firings))
        ones = torch.ones(len(places[0]))
        fired = torch.sparse_coo_tensor(places, ones, shape, check_invariants=True)
        overlap.count(fired)
    found = parents_of(overlap)
    assert all(p % (1 + n_children) == 0 and p < c <= p + n_children for c, p in found)
    share = {}
    for low, high in ((1e-4, 5e-4), (5e-4, 2e-3), (2e-3, 1)):
        family, child = ((rates >= low) & (rates < high)).nonzero(as_tuple=True)
        parents = family * (1 + n_children)
        pairs = zip((parents + 1 + child).tolist(), parents.tolist(), strict=True)
        share[low] = sum(pair in found for pair in pairs) / len(family)
    assert share[2e-3] > 0.99 and share[5e-4] > 0.8


def test_counts_are_exact_from_when_a_pair_is_watched() -> None:
    overlap = counted(RENEWED_EVERY)
    (slot,) = (overlap.watched[3] == 1).nonzero()[:, 0].tolist()
    assert overlap.firings_watched[3, slot] == 0
    n_child = n_both = 0
    for step in range(RENEWED_EVERY, RENEWED_EVERY + 40):
        fires = codes(step) != 0
        n_child += int(fires[:, 3].sum())
        n_both += int((fires[:, 3] & fires[:, 1]).sum())
        overlap.count(codes(step))
    assert overlap.firings_watched[3, slot] == n_child
    assert overlap.together[3, slot] == n_both == n_child


def test_sparse_codes_count_as_dense_ones() -> None:
    dense, sparse = ImpliedOverlap(D_SAE), ImpliedOverlap(D_SAE)
    for step in range(2 * RENEWED_EVERY):
        dense.count(codes(step))
        sparse.count(codes(step).to_sparse_coo())
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_loaded_one_goes_on_as_the_first_would() -> None:
    whole = counted(3 * RENEWED_EVERY)
    part = counted(RENEWED_EVERY + 30)
    resumed = ImpliedOverlap(D_SAE, D_SAE)
    resumed.load_state_dict(part.state_dict())
    for step in range(RENEWED_EVERY + 30, 3 * RENEWED_EVERY):
        resumed.count(codes(step))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


def test_penalty_and_gradient_reach_the_child_alone() -> None:
    overlap = counted(2 * RENEWED_EVERY)
    torch.manual_seed(0)
    W = torch.randn(D_SAE, 5, dtype=torch.float64, requires_grad=True)
    rows = W / W.norm(dim=1, keepdim=True)
    expected = torch.zeros(D_SAE, dtype=torch.float64)
    for child, parent in parents_of(overlap):
        cosine = rows[child] @ rows[parent].detach()
        above = torch.zeros(D_SAE, dtype=torch.float64)
        above[child] = 1
        expected = expected + above * (cosine - FREE_COSINE).clamp(min=0) ** 2
    found = overlap.penalties(W)
    torch.testing.assert_close(found, expected)
    (mine,) = torch.autograd.grad(found.sum(), W)
    (theirs,) = torch.autograd.grad(expected.sum(), W)
    torch.testing.assert_close(mine, theirs)
    assert (mine[0] == 0).all(), "a parent of others and a child of none"
    assert (mine[[1, 2, 3]] != 0).any()


def test_before_anything_fired_nothing_is_charged() -> None:
    overlap = ImpliedOverlap(D_SAE)
    assert overlap.penalties(torch.randn(D_SAE, 4)).sum() == 0
    overlap.count(torch.zeros(BATCH, D_SAE))
    assert overlap.penalties(torch.randn(D_SAE, 4)).sum() == 0
