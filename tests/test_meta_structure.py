"""A meta SAE fitted after training, beside SAEBench's procedure written again."""

from dataclasses import replace

import pytest
import torch

from benchmarks import meta_structure
from benchmarks.meta_structure import OURS, Procedure, ours
from sae_lens_meta.measures.meta_structure import meta_explained_variance

WIDTH = 48


@pytest.fixture
def rows() -> torch.Tensor:
    """Sums of three of 48 directions each, in 32 dimensions: a decoder with parts to find."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(WIDTH, 32, generator=generator)
    chosen = torch.rand(256, WIDTH, generator=generator).topk(3).indices
    rows = parts[chosen].sum(dim=1)
    return rows / rows.norm(dim=-1, keepdim=True)


def test_rows_made_of_parts_are_explained_and_random_ones_less(
    rows: torch.Tensor,
) -> None:
    random = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    found = [
        meta_explained_variance(decoder, WIDTH, 3, n_steps=600, lr=1e-2)
        for decoder in (rows, random)
    ]
    assert found[0] > found[1] + 0.1


def test_what_is_said_to_differ_from_saebench_is_all_that_differs(
    rows: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_structure, "N_STEPS", 300)
    monkeypatch.setattr(meta_structure, "LR", 5e-3)
    changes = {field: value for how in OURS.values() for field, value in how.items()}
    theirs = Procedure()(rows, WIDTH, 0)
    as_ours = replace(Procedure(), **changes)(rows, WIDTH, 0)
    wanted = ours(rows, WIDTH, 0)
    assert abs(as_ours - wanted) < abs(theirs - wanted) / 4
