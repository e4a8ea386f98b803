"""Annealing of k, and dead rows drawn anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.saes.sae import TrainStepInput

from sae_lens_meta.training.resampling import ENCODER_SCALE, resample
from tests.test_penalties import BATCH, D_IN, D_SAE, batch, new_sae, train, trainer_of


def step_input(step: int, dead: torch.Tensor | None = None) -> TrainStepInput:
    return TrainStepInput(
        sae_in=batch(step),
        coefficients={},
        dead_neuron_mask=dead,
        n_training_steps=step,
        is_logging_step=False,
    )


@pytest.mark.parametrize("is_sparse", [True, False])
def test_k_falls_in_a_straight_line_and_then_stays(is_sparse: bool) -> None:
    sae = new_sae(
        k_start=12.0,
        k_anneal_steps=8,
        decomposability_coefficient=0,
        use_sparse_activations=is_sparse,
    )
    kept = []
    for step in range(11):
        acts = sae.training_forward_pass(step_input(step)).feature_acts
        acts = acts.to_dense() if acts.is_sparse else acts
        kept.append(int((acts > 0).sum()) / BATCH)
    expected = [12, 11, 10, 9, 8, 7, 6, 5, 4, 4, 4]
    # where an activation is not above 0 fewer are kept
    assert kept == pytest.approx(expected, abs=0.05)


def test_an_export_before_k_is_reached_has_the_k_that_it_records_and_says_so(
    tmp_path: Path,
) -> None:
    sae = new_sae(k_start=16.0, k_anneal_steps=100, decomposability_coefficient=0)
    for step in range(20):
        sae.training_forward_pass(step_input(step))
    with pytest.warns(UserWarning, match="After 20 steps k is still 13.6, .* at k=4"):
        sae.save_inference_model(tmp_path / "live")
    sae.save_model(tmp_path / "checkpoint")
    loaded: Any = TrainingSAE.load_from_disk(tmp_path / "checkpoint")
    with pytest.warns(UserWarning, match="After 20 steps"):
        loaded.save_inference_model(tmp_path / "loaded")
    x = torch.cat([batch(step) for step in range(20)])
    l0 = []
    for name in ("live", "loaded"):
        codes = SAE.load_from_disk(tmp_path / name).encode(x)
        l0.append(float((codes > 0).float().sum(dim=1).mean()))
    assert l0 == pytest.approx([4, 4], abs=0.3)


def test_dead_rows_take_the_direction_of_a_residual() -> None:
    torch.manual_seed(0)
    sae = new_sae(decomposability_coefficient=0)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[[3, 40]] = True
    before = {n: v.clone() for n, v in sae.state_dict().items()}
    residuals = torch.randn(20, D_IN)
    resample(sae, dead, residuals, seed=1)
    cosines = torch.nn.functional.cosine_similarity(
        sae.W_dec[dead][:, None], residuals[None], dim=2
    )
    torch.testing.assert_close(cosines.max(dim=1).values, torch.ones(2))
    norm = before["W_dec"][~dead].norm(dim=1).median()
    torch.testing.assert_close(sae.W_dec[dead].norm(dim=1), norm.expand(2))
    encoder_norm = ENCODER_SCALE * before["W_enc"][:, ~dead].norm(dim=0).median()
    torch.testing.assert_close(sae.W_enc[:, dead].norm(dim=0), encoder_norm.expand(2))
    torch.testing.assert_close(
        sae.W_enc[:, dead].t() / encoder_norm, sae.W_dec[dead] / norm
    )
    assert (sae.b_enc[dead] == 0).all()
    torch.testing.assert_close(sae.W_dec[~dead], before["W_dec"][~dead], rtol=0, atol=0)
    living = sae.W_enc[:, ~dead]
    torch.testing.assert_close(living, before["W_enc"][:, ~dead], rtol=0, atol=0)


def test_residuals_are_drawn_by_the_fourth_power_of_their_norm() -> None:
    residuals = torch.eye(2, D_IN) * torch.tensor([[1.0], [2.0]])
    counts, sae = torch.zeros(2), new_sae(decomposability_coefficient=0)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[0] = True
    for seed in range(300):
        resample(sae, dead, residuals, seed)
        counts[sae.W_dec[0].argmax()] += 1
    assert counts[1] / counts.sum() == pytest.approx(16 / 17, abs=0.045)


@pytest.mark.parametrize("dead", [[], list(range(D_SAE))])
def test_with_none_or_all_dead_nothing_is_drawn(dead: list[int]) -> None:
    sae = new_sae(decomposability_coefficient=0)
    before = sae.W_dec.clone()
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[dead] = True
    resample(sae, mask, torch.randn(5, D_IN), seed=0)
    torch.testing.assert_close(sae.W_dec, before, rtol=0, atol=0)


def dead_sae(**settings: Any) -> Any:
    """With five latents that can never fire, for all that the auxiliary loss does."""
    sae = new_sae(decomposability_coefficient=0, aux_loss_coefficient=0, **settings)
    sae.b_enc.data[:5] = -1e3
    return sae


def test_dead_latents_come_to_life_when_due_and_not_after_the_last_step() -> None:
    stayed = trainer_of(dead_sae())
    train(stayed, 0, 60)
    assert stayed.dead_neurons[:5].all()
    woken = trainer_of(dead_sae(resample_every=20))
    train(woken, 0, 20)
    assert woken.dead_neurons[:5].all()
    train(woken, 20, 60)
    assert woken.dead_neurons[:5].sum() <= 1
    late = trainer_of(dead_sae(resample_every=20, resample_until=19))
    train(late, 0, 60)
    assert late.dead_neurons[:5].all()


def test_adam_forgets_the_latents_drawn_anew_and_no_others() -> None:
    trainer = trainer_of(dead_sae(resample_every=20))
    train(trainer, 0, 20)
    sae, state = trainer.sae, trainer.optimizer.state
    for parameter in (sae.W_dec, sae.W_enc, sae.b_enc):
        state[parameter]["exp_avg"].fill_(7.0)
        state[parameter]["exp_avg_sq"].fill_(7.0)
    train(trainer, 20, 21)
    # one step after they were cleared or kept at 7: 0.9 * 7 and 0.999 * 7 are left of those
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = True
    for of in (state[sae.W_dec]["exp_avg"], state[sae.W_enc]["exp_avg"].t()):
        assert (of[dead].abs() < 1).all() and (of[~dead] > 5).all()
    squares = state[sae.b_enc]["exp_avg_sq"]
    assert (squares[dead] < 1).all() and (squares[~dead] > 6).all()


def test_another_optimizer_s_step_leaves_it_all_for_the_right_one() -> None:
    trainer = trainer_of(dead_sae(resample_every=20))
    train(trainer, 0, 20)
    sae, state = trainer.sae, trainer.optimizer.state
    state[sae.W_dec]["exp_avg"].fill_(7.0)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = True
    resample(sae, dead, torch.randn(9, D_IN), seed=0)
    other = torch.nn.Parameter(torch.ones(3))
    other.grad = torch.ones(3)
    torch.optim.Adam([other]).step()
    assert (state[sae.W_dec]["exp_avg"] == 7).all()
    train(trainer, 21, 22)
    assert (state[sae.W_dec]["exp_avg"][dead].abs() < 1).all()
