"""Half samples of a stream that fills only some blocks, and what is not a number."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_meta.evaluation.comparison import L2, PHI
from sae_lens_meta.evaluation.differences import resample
from sae_lens_meta.evaluation.intervals import half_samples
from sae_lens_meta.evaluation.passes import N_BLOCKS, Tally
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
    assert found["L0"] == pytest.approx(by_hand)
    assert found["L0"].std() > 0.1
    assert found[PHI].shape == by_hand.shape


def test_too_few_blocks_or_latents_give_no_interval() -> None:
    assert resample(tally_of(range(7)), EVALUATION, EVERYTHING) == {}
    one = np.arange(D_SAE) == 3
    assert set(resample(tally_of(range(N_BLOCKS)), EVALUATION, one)) == {
        L2,
        "explained variance",
        "L0",
    }


def test_a_figure_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    made = comparison([compared("solo", "solo", 1e-3), compared("j", "joint", 1e-3)])
    made.save(tmp_path)
    made.saes[0].phi_compared.mean_abs = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        made.save(tmp_path)
