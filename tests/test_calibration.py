"""Thresholds per latent against a direct search over all pre-activations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig

from sae_lens_meta.measures.calibration import N_BINS, NEVER, Calibrator, calibrate
from tests.helpers import meta_config, sparse_batches, train

D_SAE, K, BATCH = 40, 5, 500


@pytest.fixture
def sae() -> JumpReLUSAE:
    """Latents from frequent to rare, and two dead ones; one threshold for all."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=16, d_sae=D_SAE))
    generator = torch.Generator().manual_seed(0)
    sae.W_enc.data = torch.randn(16, D_SAE, generator=generator)
    sae.W_enc.data *= torch.linspace(2, 0.3, D_SAE)
    sae.b_enc.data[7] = sae.b_enc.data[8] = -1e4
    sae.threshold.data.fill_(2.0)
    return sae


def batches(n: int = 40) -> list[torch.Tensor]:
    """Batches of different scale, so that BatchTopK's cut differs between them."""
    generator = torch.Generator().manual_seed(1)
    scales = 1 + 0.5 * torch.rand(n, generator=generator)
    return [torch.randn(BATCH, 16, generator=generator) * scale for scale in scales]


def pre_activations(sae: JumpReLUSAE) -> np.ndarray:
    x = torch.cat(batches())
    return (x @ sae.W_enc + sae.b_enc).detach().double().numpy()


def selected_by_hand(sae: JumpReLUSAE) -> np.ndarray:
    """BatchTopK's choice `[n, d_sae]`, by a sort of each batch."""
    choices = []
    for pre in np.split(pre_activations(sae), len(batches())):
        cut = np.sort(pre, axis=None)[-K * BATCH]
        choices.append(pre >= cut)
    return np.concatenate(choices)


def calibrated(sae: JumpReLUSAE, rule: str = "rate") -> np.ndarray:
    calibrator = Calibrator(sae, K)
    for batch in batches():
        calibrator.update(batch)
    return calibrator.thresholds(rule).numpy()  # type: ignore[arg-type]


def test_thresholds_are_those_of_a_direct_search(sae: JumpReLUSAE) -> None:
    pre, selected = pre_activations(sae), selected_by_hand(sae)
    ours, n_selected = calibrated(sae), selected.sum(0)
    own = n_selected >= 100
    assert own.sum() > 20
    bin_width = 2 * pre.max() / N_BINS
    for latent in own.nonzero()[0]:
        ordered = np.sort(pre[:, latent])[::-1]
        exact = ordered[n_selected[latent] - 1 : n_selected[latent] + 1].mean()
        assert abs(ours[latent] - exact) < bin_width
    n_above = (pre > ours).sum(0)
    np.testing.assert_allclose(n_above[own], n_selected[own], rtol=0.02, atol=3)
    assert n_above[own].sum() == pytest.approx(n_selected[own].sum(), rel=0.002)


def test_equal_error_rule_balances_its_rates_and_over_fires(sae: JumpReLUSAE) -> None:
    pre, selected = pre_activations(sae), selected_by_hand(sae)
    ours = calibrated(sae, "equal_error")
    rates = calibrated(sae, "rate")
    own = selected.sum(0) >= 100
    for latent in own.nonzero()[0]:
        fires, chosen = pre[:, latent] > ours[latent], selected[:, latent]
        missed = (chosen & ~fires).sum() / chosen.sum()
        wrong = (fires & ~chosen).sum() / (~chosen).sum()
        assert abs(missed - wrong) < 0.02
    assert (ours[own] <= rates[own] + 2 * pre.max() / N_BINS).all()
    assert (pre > ours)[:, own].sum() > (pre > rates)[:, own].sum()


def test_rare_latents_take_the_highest_cut_and_dead_ones_never_fire(
    sae: JumpReLUSAE,
) -> None:
    pre, n_selected = pre_activations(sae), selected_by_hand(sae).sum(0)
    ours = calibrated(sae)
    cuts = [np.sort(p, axis=None)[-K * BATCH] for p in np.split(pre, len(batches()))]
    rare = (n_selected > 0) & (n_selected < 100)
    assert rare.any(), "the case must occur"
    np.testing.assert_allclose(ours[rare], max(cuts), rtol=1e-6)
    assert (n_selected == 0)[[7, 8]].all()
    assert (ours[n_selected == 0] == NEVER).all()


@pytest.mark.parametrize("order", [1, -1])
def test_a_range_that_grows_with_the_data_changes_little(
    sae: JumpReLUSAE, order: int
) -> None:
    """Batches of rising scale widen the histograms again and again, falling ones never."""
    calibrator = Calibrator(sae, K)
    scaled = [b * 4.0**power for power, b in enumerate(batches(6))][::order]
    for batch in scaled:
        calibrator.update(batch)
    thresholds = calibrator.thresholds().numpy()
    x = torch.cat(scaled)
    pre = (x @ sae.W_enc + sae.b_enc).detach().numpy()
    cuts = [np.sort(p, axis=None)[-K * BATCH] for p in np.split(pre, 6)]
    n_selected = (pre >= np.repeat(cuts, BATCH)[:, None]).sum(0)
    assert pre.max() < calibrator._range <= 2 * pre.max() * 1.01
    own = n_selected >= 100
    n_above = (pre > thresholds).sum(0)
    np.testing.assert_allclose(n_above[own], n_selected[own], rtol=0.03, atol=10)


def test_report_counts_what_it_says(sae: JumpReLUSAE) -> None:
    report = calibrate(sae, iter(batches()), K)
    pre, selected = pre_activations(sae)[:4096], selected_by_hand(sae)[:4096]
    fires = pre > sae.threshold.detach().numpy()
    assert report.n_tokens == len(batches()) * BATCH
    assert report.n_checked == 4096
    assert report.l0_after == pytest.approx(fires.sum(1).mean(), rel=1e-3)
    assert report.l0_before == pytest.approx((pre > 2.0).sum(1).mean(), rel=1e-3)
    hits, either = (fires & selected).sum(1), fires.sum(1) + selected.sum(1)
    f1 = 2 * hits / np.maximum(either, 1)
    assert report.f1_after == pytest.approx(f1.mean(), abs=1e-3)
    assert report.n_calibrated + report.n_rare + report.n_dead == D_SAE
    assert report.f1_after > report.f1_before


def test_thresholds_travel_with_the_weights(tmp_path: Path) -> None:
    """A real export, calibrated, saved and loaded by stock SAELens."""
    train(meta_config(), 60).save_inference_model(tmp_path / "raw")
    sae = SAE.load_from_disk(tmp_path / "raw")
    stream = sparse_batches(seed=4)
    report = calibrate(sae, (next(stream) for _ in range(100)))
    assert report.k == 4, "read from the metadata"
    sae.save_model(tmp_path / "calibrated")
    loaded = SAE.load_from_disk(tmp_path / "calibrated")
    assert type(loaded) is JumpReLUSAE
    assert loaded.threshold.dtype == torch.float32
    assert isinstance(sae, JumpReLUSAE)
    assert torch.equal(loaded.threshold, sae.threshold)
    assert len(loaded.threshold.unique()) > 30
    assert (loaded.cfg.metadata.calibration or {})["k"] == 4
    fresh = torch.cat([next(stream) for _ in range(100)])
    l0 = (loaded.encode(fresh) > 0).float().sum(1).mean().item()
    assert l0 == pytest.approx(4, rel=0.05)
    assert report.f1_after > 0.8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_sae_is_calibrated_to_what_it_can_hold(
    sae: JumpReLUSAE, tmp_path: Path, dtype: str
) -> None:
    """Dead latents never fire, the others where unrounded thresholds have them fire."""
    halved = sae.to(dtype=getattr(torch, dtype))
    calibrator = Calibrator(halved, K)
    for batch in batches():
        calibrator.update(batch)
    unrounded = calibrator._matching_rate()
    report = calibrate(halved, iter(batches()), K)
    halved.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is JumpReLUSAE
    assert loaded.threshold.dtype == loaded.W_enc.dtype == halved.W_enc.dtype
    assert torch.isfinite(loaded.threshold).all()
    assert torch.equal(loaded.threshold.float(), halved.threshold)
    x = torch.cat(batches())
    acts = loaded.encode(x)
    n_selected = calibrator._selected.sum(1)
    assert report.n_dead > 0, "the case must occur"
    assert not (acts[:, n_selected == 0] > 0).any()
    own = n_selected >= 100
    pre_acts = calibrator._pre_activations(x).detach().numpy()
    fires = (acts > 0).numpy()
    assert (fires == (pre_acts > unrounded))[:, own].all()
    assert fires.sum(1).mean() == pytest.approx(K, rel=0.02)


def test_batches_that_nothing_is_selected_of_are_refused(sae: JumpReLUSAE) -> None:
    with pytest.raises(ValueError, match="k=0.3 selects nothing in a batch of 3 .* 4"):
        calibrate(sae, [torch.randn(3, 16)], k=0.3)
    report = calibrate(sae, [torch.randn(4, 16)], k=0.3)
    assert report.n_rare == 1


def test_bad_input_is_named(sae: JumpReLUSAE) -> None:
    with pytest.raises(ValueError, match="'standard' has no thresholds"):
        Calibrator(StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)), K)
    with pytest.raises(ValueError, match="got None. Where the SAE does not record"):
        Calibrator(sae)
    with pytest.raises(ValueError, match="at most d_sae=40, got 41"):
        Calibrator(sae, 41)
    with pytest.raises(ValueError, match="the stream was empty"):
        calibrate(sae, [], K)
    before = sae.threshold.clone()
    with pytest.raises(ValueError, match="NaN or inf"):
        calibrate(sae, [torch.full((3, 16), torch.nan)], K)
    assert torch.equal(sae.threshold, before), "left as it was"
