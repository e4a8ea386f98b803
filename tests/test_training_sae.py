from contextlib import suppress
from typing import Any

import pytest
import torch
from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainCoefficientConfig
from torch.utils._python_dispatch import TorchDispatchMode

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.penalty import decomposability, unit_rows
from tests.helpers import (
    D_IN,
    D_SAE,
    forward,
    meta_config,
    sparse_batches,
    trainer_for,
)


def meta_state(sae: MetaTrainingSAE) -> dict[str, torch.Tensor]:
    assert sae.meta_sae is not None
    return {name: t.clone() for name, t in sae.meta_sae.state_dict().items()}


def test_solo_without_layer_norm_is_stock_batchtopk_bit_for_bit() -> None:
    shared: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "k": 1.5}
    ours = MetaTrainingSAE(
        meta_config(
            **shared,
            decomposability_coefficient=0,
            normalize_activations="none",
            use_sparse_activations=False,
        )
    )
    torch.manual_seed(ours.cfg.init_seed)
    stock = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            **shared, aux_loss_coefficient=1 / 32, decoder_init_norm=1.0
        )
    )
    for sae in (ours, stock):
        sae.b_enc.data[:6] = -2.0  # these start silent: dead after 20 steps
    trainers = [trainer_for(sae, sparse_batches(), 80) for sae in (ours, stock)]
    had_dead = False
    for batch, _ in zip(sparse_batches(), range(80), strict=False):
        had_dead |= bool(trainers[0].dead_neurons.any())
        outputs = [trainer.step(batch) for trainer in trainers]
        assert torch.equal(outputs[0].loss, outputs[1].loss)
        for name, loss in outputs[1].losses.items():
            assert torch.equal(outputs[0].losses[name], loss)
    assert had_dead, "the run must exercise the auxiliary loss"
    for name, tensor in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_a_dead_latent_under_layer_norm_is_revived_and_does_not_raise() -> None:
    sae = MetaTrainingSAE(meta_config(decomposability_coefficient=0))
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[3] = True
    sae.b_enc.data[3] = -100.0
    output = forward(sae, next(sparse_batches()), dead)
    output.losses["auxiliary_reconstruction_loss"].backward()
    assert sae.W_enc.grad is not None
    assert (sae.W_enc.grad.abs().sum(0) > 0).nonzero().flatten().tolist() == [3]


def test_losses_under_layer_norm_ignore_the_scale_and_mean_of_a_vector() -> None:
    sae = MetaTrainingSAE(meta_config())
    batch = next(sparse_batches())
    scale = torch.logspace(0, 3, len(batch))[:, None]
    plain, moved = forward(sae, batch), forward(sae, batch * scale + scale)
    torch.testing.assert_close(
        plain.losses["mse_loss"], moved.losses["mse_loss"], rtol=1e-3, atol=0
    )
    # what is handed out is in the space of the input
    torch.testing.assert_close(
        moved.sae_out, plain.sae_out * scale + scale, rtol=1e-2, atol=1
    )


def test_normalised_mse_matches_a_float64_computation_by_hand() -> None:
    sae = MetaTrainingSAE(meta_config(decomposability_coefficient=0, dtype="float64"))
    x = next(sparse_batches()).double()
    normalized = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
    norms = sae.W_dec.norm(dim=1)
    pre = ((normalized - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms
    cut = pre.relu().flatten().sort(descending=True).values[4 * len(x) - 1]
    acts = torch.where(pre >= cut, pre.relu(), 0)
    recons = (acts / norms) @ sae.W_dec + sae.b_dec
    by_hand = (recons - normalized).pow(2).sum(1).mean()
    torch.testing.assert_close(forward(sae, x).losses["mse_loss"], by_hand)


def joint_loss(sae: MetaTrainingSAE, batch: torch.Tensor) -> torch.Tensor:
    return forward(sae, batch).loss


def test_gradient_of_the_joint_loss_agrees_with_finite_differences() -> None:
    sae = MetaTrainingSAE(meta_config(dtype="float64"))
    meta_sae = sae.meta_sae
    assert meta_sae is not None
    batch = next(sparse_batches()).double()
    fixed_recons = meta_sae.reconstruct(unit_rows(sae.W_dec.detach()))
    meta_sae.reconstruct = lambda W_dec: fixed_recons  # noqa: ARG005 # r_i has no gradient
    forward(sae, batch).loss.backward()
    gradient = sae.W_dec.grad
    assert gradient is not None
    step = 1e-6
    for row, column in [(0, 0), (5, 3), (17, 15), (40, 8), (63, 2)]:
        losses = []
        for sign in (1, -1):
            sae.W_dec.data[row, column] += sign * step
            losses.append(joint_loss(sae, batch).item())
            sae.W_dec.data[row, column] -= sign * step
        numeric = (losses[0] - losses[1]) / (2 * step)
        assert numeric == pytest.approx(
            gradient[row, column].item(), rel=1e-5, abs=1e-7
        )


def test_penalty_reaches_the_decoder_only_with_the_factor_d_in() -> None:
    sae = MetaTrainingSAE(meta_config())
    output = forward(sae, next(sparse_batches()), coefficient=0.7)
    loss = output.losses["decomposability_loss"]
    loss.backward()
    assert sae.meta_sae is not None
    for name, parameter in sae.meta_sae.named_parameters():
        assert parameter.grad is None, name
    for name, parameter in sae.named_parameters():
        assert (parameter.grad is not None) == (name == "W_dec"), name
    recons = sae.meta_sae.reconstruct(sae.W_dec)
    penalties = decomposability(sae.W_dec, recons, 1.0).penalties
    expected = 0.7 * D_IN * penalties.mean()
    torch.testing.assert_close(loss, expected)


def test_meta_steps_leave_the_primary_and_its_gradients_alone() -> None:
    sae = MetaTrainingSAE(meta_config())
    assert sae.meta_sae is not None
    before = {name: p.clone() for name, p in sae.named_parameters()}
    meta_before = meta_state(sae)
    sae.meta_sae.fit(sae.W_dec, 3)
    for name, parameter in sae.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert not torch.equal(sae.meta_sae.W_dec, meta_before["W_dec"])


def test_meta_fit_is_torchs_adam_over_its_own_parameters() -> None:
    ours, reference = (MetaTrainingSAE(meta_config()).meta_sae for _ in range(2))
    assert ours is not None and reference is not None
    rows = unit_rows(next(sparse_batches()))
    for n_steps in (1, 4, 2):  # the moments must survive between phases
        ours.fit(rows, n_steps)
    adam = torch.optim.Adam(reference.parameters(), lr=1e-2, betas=(0.9, 0.99))
    for _ in range(7):
        forward(reference, rows, reference.dead_latents).loss.backward()
        adam.step()
        adam.zero_grad()
        # the count of dead latents belongs to fit; no latent dies in this run
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name), parameter, rtol=1e-5, atol=1e-6, msg=name
        )


def test_meta_sae_counts_its_dead_latents_and_revives_them() -> None:
    meta_sae = MetaTrainingSAE(meta_config()).meta_sae
    assert meta_sae is not None
    meta_sae.b_enc.data[5] = -100.0
    rows = unit_rows(next(sparse_batches()))
    meta_sae.fit(rows, 4)
    assert not meta_sae.dead_latents[5]
    before = meta_sae.W_enc[:, 5].clone()
    meta_sae.fit(rows, 1)
    assert meta_sae.dead_latents.nonzero().flatten().tolist() == [5]
    assert torch.equal(before, meta_sae.W_enc[:, 5]), "no loss reached it while alive"
    meta_sae.fit(rows, 1)
    assert not torch.equal(before, meta_sae.W_enc[:, 5]), (
        "the auxiliary loss reaches it"
    )


def test_cycle_runs_the_meta_steps_after_every_n_primary_steps() -> None:
    sae = MetaTrainingSAE(meta_config())
    assert sae.meta_sae is not None
    trainer = trainer_for(sae, sparse_batches(), 10)
    meta_steps = []
    for batch, _ in zip(sparse_batches(), range(10), strict=False):
        trainer.step(batch)
        meta_steps.append(int(sae.meta_sae.adam_step))
    assert meta_steps == [0, 0, 0, 2, 2, 2, 4, 4, 4, 6]


def test_meta_sae_is_frozen_within_the_primary_phase() -> None:
    sae = MetaTrainingSAE(meta_config())
    trainer = trainer_for(sae, sparse_batches(), 4)
    batches = sparse_batches()
    start = meta_state(sae)
    for _ in range(3):
        trainer.step(next(batches))
    frozen = meta_state(sae)
    assert all(torch.equal(frozen[name], start[name]) for name in start)
    trainer.step(next(batches))
    assert not torch.equal(meta_state(sae)["W_enc"], start["W_enc"])


def test_trainer_sees_the_primary_and_the_state_dict_holds_both() -> None:
    sae = MetaTrainingSAE(meta_config())
    names = [name for name, _ in sae.named_parameters()]
    assert sorted(names) == ["W_dec", "W_enc", "b_dec", "b_enc"]
    assert len(list(sae.parameters())) == 4
    state = sae.state_dict()
    for name in (
        "W_enc",
        "exp_avg_W_enc",
        "exp_avg_sq_b_dec",
        "adam_step",
        "steps_since_fired",
    ):
        assert f"meta_sae.{name}" in state


def test_solo_has_no_meta_sae_and_no_coefficient() -> None:
    sae = MetaTrainingSAE(meta_config(decomposability_coefficient=0))
    assert sae.meta_sae is None
    assert sae.get_coefficients() == {}
    assert not any("meta_sae" in name for name in sae.state_dict())
    output = forward(sae, next(sparse_batches()))
    assert set(output.losses) == {"mse_loss", "auxiliary_reconstruction_loss"}


def test_warm_up_is_saelens_own_schedule_of_the_coefficient() -> None:
    sae = MetaTrainingSAE(meta_config(decomposability_warm_up_steps=4))
    assert sae.get_coefficients() == {"decomposability": TrainCoefficientConfig(0.3, 4)}
    trainer = trainer_for(sae, sparse_batches(), 6)
    ratios = []
    for batch, _ in zip(sparse_batches(), range(6), strict=False):
        output = trainer.step(batch)
        penalty = output.metrics["mean_penalty"]
        ratios.append((output.losses["decomposability_loss"] / (penalty * D_IN)).item())  # type: ignore[operator]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.1
    assert ratios[-1] == pytest.approx(0.3)


def test_primary_steps_move_the_decoder_away_from_a_frozen_meta_sae() -> None:
    def penalty_after_training(coefficient: float) -> float:
        sae = MetaTrainingSAE(
            meta_config(
                decomposability_coefficient=coefficient, primary_steps_per_cycle=1000
            )
        )
        assert sae.meta_sae is not None
        sae.meta_sae.fit(sae.W_dec, 50)
        trainer_for(sae, sparse_batches(), 30, lr=1e-2, lr_end=1e-2).fit()
        recons = sae.meta_sae.reconstruct(sae.W_dec)
        return decomposability(sae.W_dec, recons, 1.0).penalties.mean().item()

    assert penalty_after_training(1.0) < 0.95 * penalty_after_training(1e-9)


def test_initial_weights_follow_the_seed_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = MetaTrainingSAE(meta_config(init_seed=5))
    torch.manual_seed(2)
    outside = torch.get_rng_state()
    again = MetaTrainingSAE(meta_config(init_seed=5))
    assert torch.equal(outside, torch.get_rng_state())
    other = MetaTrainingSAE(meta_config(init_seed=6))
    for name, tensor in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert not torch.equal(first.W_dec, other.W_dec)
    assert first.meta_sae is not None and other.meta_sae is not None
    assert not torch.equal(first.meta_sae.W_dec, other.meta_sae.W_dec)
    # the two share a generator: equal seeds must not make equal rows
    assert not torch.allclose(first.meta_sae.W_dec, first.W_dec[:12])


class RecordDraws(TorchDispatchMode):
    """Devices of the tensors that random values are drawn into."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.devices.append(args[0].device.type)
        return func(*args, **(kwargs or {}))


def test_weights_of_any_device_are_drawn_on_the_cpu() -> None:
    with RecordDraws() as draws, suppress(AssertionError, RuntimeError):
        MetaTrainingSAE(meta_config(device="cuda"))  # raises, once drawn, without CUDA
    assert set(draws.devices) == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_weights_on_cuda_are_those_on_the_cpu() -> None:
    outside = torch.cuda.get_rng_state()
    on_cuda = MetaTrainingSAE(meta_config(device="cuda"))
    assert torch.equal(outside, torch.cuda.get_rng_state())
    assert on_cuda.cfg.device == "cuda"
    # what decides what is done next is looked at on the host
    on_host = {*MetaTrainingSAE.host_counts, "meta_sae.adam_step"}
    for name, tensor in MetaTrainingSAE(meta_config()).state_dict().items():
        device = "cpu" if name in on_host else "cuda"
        assert on_cuda.state_dict()[name].device.type == device, name
        assert torch.equal(on_cuda.state_dict()[name].cpu(), tensor), name


def test_hooks_are_the_primarys_and_the_error_term_works_around_them() -> None:
    with pytest.warns(DeprecationWarning):
        sae = MetaTrainingSAE(meta_config(), use_error_term=True)
    assert not any("." in name for name in sae.hook_dict)
    batch = next(sparse_batches())
    torch.testing.assert_close(sae(batch), batch, rtol=1e-4, atol=1e-4)
    assert set(dict(sae.named_children())) >= {"meta_sae", "hook_sae_input"}


def test_bfloat16_weights_keep_exact_counters() -> None:
    sae = MetaTrainingSAE(meta_config()).to(dtype=torch.bfloat16)
    assert sae.meta_sae is not None
    assert sae.meta_sae.cfg.dtype == "bfloat16"
    assert sae.meta_sae.W_dec.dtype == torch.bfloat16
    sae.meta_sae.fit(sae.W_dec, 300)
    assert int(sae.meta_sae.adam_step) == 300
    assert torch.isfinite(forward(sae, next(sparse_batches()).bfloat16()).loss)


def test_autocast_leaves_the_meta_sae_in_float32() -> None:
    results = []
    for enabled in (False, True):
        sae = MetaTrainingSAE(meta_config())
        assert sae.meta_sae is not None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            sae.meta_sae.fit(sae.W_dec, 3)
            output = forward(sae, next(sparse_batches()))
        results.append((sae.meta_sae.W_dec, output.metrics["mean_penalty"]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
