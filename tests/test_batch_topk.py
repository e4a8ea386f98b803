"""The fast selection against SAELens's own and against a sort in float64."""

import pytest
import torch
from sae_lens.saes.batchtopk_sae import BatchTopK

from sae_lens_meta.training.backend import cpu
from sae_lens_meta.training.batch_topk import ExactBatchTopK, select_batch_topk


def heavy_tailed(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator) ** 3


def selected(pre_acts: torch.Tensor, k: float) -> set[int]:
    return set(select_batch_topk(pre_acts, k).tolist())


def sorted_in_float64(pre_acts: torch.Tensor, k: float) -> set[int]:
    n_keep = int(k * pre_acts.shape[:-1].numel())
    flat = pre_acts.double().flatten()
    order = flat.argsort(descending=True)[:n_keep]
    return set(order[flat[order] > 0].tolist())


@pytest.mark.parametrize("k", [0.3, 1, 2.5, 32])
@pytest.mark.parametrize(
    "shape", [(64,), (7, 50), (3, 5, 128), (300, 1024), (512, 2560)]
)
def test_selection_is_that_of_a_sort(shape: tuple[int, ...], k: float) -> None:
    pre_acts = heavy_tailed(*shape)
    assert selected(pre_acts, k) == sorted_in_float64(pre_acts, k)


def test_activation_and_gradient_are_stock_bit_for_bit() -> None:
    results = []
    for activation in (ExactBatchTopK(3.3), BatchTopK(3.3)):
        pre_acts = heavy_tailed(400, 700).requires_grad_(True)
        acts = activation(pre_acts)
        (acts * torch.arange(700)).sum().backward()
        results.append((acts, pre_acts.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_fewer_positive_values_than_asked_for_are_all_kept() -> None:
    pre_acts = -heavy_tailed(200, 1000).abs()
    pre_acts.view(-1)[::1777] = 1.0
    assert selected(pre_acts, 10) == set(range(0, 200_000, 1777))
    assert selected(-torch.ones(5, 8), 2) == set()


@pytest.mark.parametrize("block", [1, 7, 300, 5000])
@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (1, 64)])
def test_blocks_of_any_size_give_the_same(
    block: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "BLOCK", block)
    pre_acts = heavy_tailed(*shape)
    covered = torch.zeros(shape)
    for rows, columns in cpu.blocks(*shape):
        covered[rows, columns] += 1
    assert torch.equal(covered, torch.ones(shape))
    assert selected(pre_acts, 3) == sorted_in_float64(pre_acts, 3)


def test_order_in_which_the_largest_come_changes_nothing() -> None:
    rising = heavy_tailed(64 * 500).sort().values.view(64, 500)
    for pre_acts in (rising, rising.flip(0, 1), rising.flip(1)):
        assert selected(pre_acts, 5) == sorted_in_float64(pre_acts, 5)


def test_bfloat16_keeps_exactly_as_many_and_none_below_the_cut() -> None:
    pre_acts = heavy_tailed(300, 900).bfloat16()
    kept = select_batch_topk(pre_acts, 4)
    assert len(set(kept.tolist())) == 1200
    values = pre_acts.flatten()[kept]
    left_out = pre_acts.flatten().float().index_fill(0, kept, -torch.inf)
    assert values.min() >= left_out.max()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    pre_acts = heavy_tailed(20, 30)
    pre_acts[3, 4] = bad
    with pytest.raises(ValueError, match="NaN or inf among the pre-activations"):
        select_batch_topk(pre_acts, 2)
