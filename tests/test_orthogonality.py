"""The orthogonality penalty against all pairs in float64, and its chunks."""

import copy

import pytest
import torch

from sae_lens_meta.training.orthogonality import Orthogonality


def brute_force(W_dec: torch.Tensor) -> torch.Tensor:
    """Every pair of rows, and autograd through the largest."""
    rows = W_dec / W_dec.norm(dim=1, keepdim=True)
    cosines = rows @ rows.t()
    others = cosines.masked_fill(torch.eye(len(rows), dtype=torch.bool), -2)
    return others.max(dim=1).values.clamp(min=0) ** 2


def test_penalties_and_gradient_are_those_of_all_pairs() -> None:
    torch.manual_seed(0)
    W = torch.randn(40, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(40, dtype=torch.float64)
    mine, theirs = Orthogonality().penalties(W), brute_force(W)
    torch.testing.assert_close(mine, theirs)
    (found,) = torch.autograd.grad((mine * weights).sum(), W)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), W)
    torch.testing.assert_close(found, expected)


def test_a_row_whose_others_all_point_away_costs_nothing() -> None:
    W = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    assert Orthogonality().penalties(W)[0] == 0


def test_rows_of_other_chunks_are_not_looked_at_and_chunks_follow_the_step() -> None:
    torch.manual_seed(0)
    W = torch.randn(50, 4)
    penalty = Orthogonality(chunk=20)
    first = penalty.penalties(W)
    torch.testing.assert_close(penalty.penalties(W), first, rtol=0, atol=0)
    assert (first <= brute_force(W) + 1e-6).all()
    assert (first < brute_force(W) - 1e-6).any()
    state = copy.deepcopy(penalty.state_dict())
    penalty.count(W)
    later = penalty.penalties(W)
    assert not torch.equal(later, first)
    resumed = Orthogonality(chunk=20)
    resumed.load_state_dict(state)
    torch.testing.assert_close(resumed.penalties(W), first, rtol=0, atol=0)
    assert [len(c) for c in penalty._chunks(50)] == [17, 17, 16]


@pytest.mark.parametrize("n", [3, 20, 21])
def test_chunks_hold_every_row_once(n: int) -> None:
    chunks = list(Orthogonality(chunk=20)._chunks(n))
    assert torch.cat(chunks).sort().values.tolist() == list(range(n))
