"""Half samples of a stream that fills only some blocks, and what is not a number."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sae_lens_meta.comparison.counting import N_BLOCKS, Tally
from sae_lens_meta.comparison.differences import differences, resample
from sae_lens_meta.comparison.figures import L2, PHI
from sae_lens_meta.statistics.intervals import HalfSampled, half_samples
from tests.comparisons import compared, comparison
from tests.test_passes import random_sae

D_SAE = 40
EVALUATION: Any = compared("solo", "solo", 1e-3).evaluation
EVERYTHING = np.ones(D_SAE, dtype=bool)


def tally_of(blocks: range) -> Tally:
    tally = Tally(random_sae(D_SAE, 0))
    generator = torch.Generator().manual_seed(0)
    for block in blocks:
        x = torch.randn(200, 16, generator=generator) * (1 + block / 10)
        tally.update(x, block)
    return tally


def test_a_short_stream_is_halved_over_the_blocks_that_it_fills() -> None:
    used = range(0, N_BLOCKS, 2)
    tally = tally_of(used)
    found = resample(tally, EVALUATION, EVERYTHING)
    sums = tally.meter.sums
    l0 = sums["n_active"][list(used)] / sums["n_tokens"][list(used)]
    by_hand = half_samples(len(used)) @ l0 / (len(used) // 2)
    assert found["l0"].values == pytest.approx(by_hand)
    assert found["l0"].values.std() > 0.1
    assert found[PHI.id].values.shape == by_hand.shape
    assert {one.n_blocks for one in found.values()} == {len(used)}


def test_a_differences_interval_knows_how_many_blocks_it_is_over() -> None:
    """Half samples of the same spread, of 8 blocks in the one case and of 40 in the other."""
    saes = [compared("solo", "solo", 1e-3), compared("joint", "joint", 1e-3)]
    made = comparison(saes)
    values = np.random.default_rng(0).normal(0.1, 0.01, size=(2, 400))
    widths = []
    for n_blocks in (8, 40):
        drawn = {
            sae.name: {L2.id: HalfSampled(one, n_blocks)}
            for sae, one in zip(saes, values, strict=True)
        }
        (found,) = (d for d in differences(made, drawn) if d.figure == L2.id)
        assert found.over_tokens is not None
        widths.append(found.over_tokens.high - found.over_tokens.low)
    t = [stats.t.ppf(0.975, degrees) for degrees in (7, 39)]
    assert widths[0] / widths[1] == pytest.approx(t[0] / t[1])


def test_batches_of_the_language_model_are_the_blocks_of_its_loss() -> None:
    cost = replace(
        EVALUATION.model_cost, losses_by_batch=[[3.0, 3.1 + i / 100] for i in range(9)]
    )
    found = resample(
        tally_of(range(8)), replace(EVALUATION, model_cost=cost), EVERYTHING
    )
    assert found["ce_overhead_percent"].n_blocks == 9
    assert found["l0"].n_blocks == 8


def test_too_few_blocks_or_latents_give_no_interval() -> None:
    assert resample(tally_of(range(7)), EVALUATION, EVERYTHING) == {}
    one = np.arange(D_SAE) == 3
    assert set(resample(tally_of(range(N_BLOCKS)), EVALUATION, one)) == {
        L2.id,
        "explained_variance",
        "l0",
    }


def test_a_figure_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    made = comparison([compared("solo", "solo", 1e-3), compared("j", "joint", 1e-3)])
    made.save(tmp_path)
    made.saes[0].phi_compared.mean_abs = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.save(tmp_path)
