"""Meta latents that are selected once in a cycle: what that holds, and what it follows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.training.held_selection import HeldMetaSAE
from sae_lens_meta.training.meta_sae import MetaSAE
from sae_lens_meta.training.penalty import unit_rows
from tests.helpers import meta_config, sparse_batches, trainer_for

ROUNDING = 1e-5


def cycle_sae(**changes: Any) -> MetaTrainingSAE:
    """In the middle of a cycle: the rows have moved since the selection."""
    sae = MetaTrainingSAE(meta_config(meta_selection="cycle", **changes))
    trainer = trainer_for(sae, sparse_batches(), 100, lr=1e-2)
    for _, batch in zip(range(5), sparse_batches(), strict=False):
        trainer.step(batch)
    assert int(sae.steps_in_cycle) == 2
    return sae


def in_float64(sae: MetaTrainingSAE, W_dec: torch.Tensor) -> torch.Tensor:
    """Reconstructions of the rows by the latents that are held, written out."""
    meta_sae = sae.meta_sae
    assert isinstance(meta_sae, HeldMetaSAE)
    weights = {name: p.detach().double() for name, p in meta_sae.named_parameters()}
    rows, eps = unit_rows(W_dec.double()), 0.0
    mean, std = torch.zeros(len(rows), 1).double(), torch.ones(len(rows), 1).double()
    if sae.cfg.normalize_activations == "layer_norm":
        mean, std, eps = rows.mean(1, keepdim=True), rows.std(1, keepdim=True), 1e-5
    x = (rows - mean) / (std + eps)
    x = x - weights["b_dec"] * sae.cfg.apply_b_dec_to_input
    held = torch.zeros(len(rows) * meta_sae.cfg.d_sae).double()
    held[meta_sae.held[meta_sae.held >= 0]] = 1
    pre_acts = x @ weights["W_enc"] + weights["b_enc"]
    codes = pre_acts.relu() * held.view(len(rows), -1)
    recons = codes @ weights["W_dec"] + weights["b_dec"]
    return recons * std + mean


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"normalize_activations": "none"},
        {"apply_b_dec_to_input": False},
        {"rescale_acts_by_decoder_norm": False},
        {"d_in": 3, "d_sae": 1500, "k": 0.5, "meta_d_sae": 20},
    ],
)
def test_what_is_held_reconstructs_the_rows_as_they_are_now(
    changes: dict[str, Any],
) -> None:
    sae = MetaTrainingSAE(meta_config(meta_selection="cycle", **changes))
    meta_sae, generator = sae.meta_sae, torch.Generator().manual_seed(3)
    assert isinstance(meta_sae, HeldMetaSAE)
    for part in (sae, meta_sae):
        for parameter in part.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    meta_sae.hold(sae.W_dec.detach())
    moved = sae.W_dec.detach() + 0.5 * torch.randn(sae.W_dec.shape, generator=generator)
    ours, exact = meta_sae.reconstruct(moved), in_float64(sae, moved)
    assert (ours - exact).norm() < ROUNDING * exact.norm()
    # the selection is that of the rows before they moved, not a new one
    assert (MetaSAE.reconstruct(meta_sae, moved) - exact).norm() > 0.01 * exact.norm()


def test_without_a_move_it_is_what_every_step_selects() -> None:
    sae = cycle_sae()
    assert isinstance(sae.meta_sae, HeldMetaSAE)
    sae.meta_sae.hold(sae.W_dec.detach())
    held = sae.meta_sae.reconstruct(sae.W_dec.detach())
    anew = MetaSAE.reconstruct(sae.meta_sae, sae.W_dec.detach())
    assert (held - anew).norm() < ROUNDING * anew.norm()


def test_it_is_selected_in_the_first_step_of_a_cycle_and_held_until_the_next() -> None:
    sae = MetaTrainingSAE(meta_config(meta_selection="cycle"))
    trainer, held = trainer_for(sae, sparse_batches(), 100, lr=1e-2), []
    for _, batch in zip(range(9), sparse_batches(), strict=False):
        trainer.step(batch)
        assert isinstance(sae.meta_sae, HeldMetaSAE)
        held.append(sae.meta_sae.held.clone())
    same = [torch.equal(a, b) for a, b in zip(held, held[1:], strict=False)]
    assert same == [True, True, False] * 2 + [True, True]


def test_a_run_resumes_in_the_middle_of_a_cycle_to_the_bit(tmp_path: Path) -> None:
    """With another selection it would not: the rows have moved."""

    def steps(sae: MetaTrainingSAE, first: int, last: int) -> MetaTrainingSAE:
        trainer = trainer_for(sae, sparse_batches(), 100, lr=1e-2)
        if first:
            trainer.load_trainer_state(tmp_path)
        for number, batch in zip(range(last), sparse_batches(), strict=False):
            if number >= first:
                trainer.step(batch)
        sae.save_model(tmp_path)
        trainer.save_trainer_state(tmp_path)
        return sae

    cfg = meta_config(meta_selection="cycle")
    steps(MetaTrainingSAE(cfg), 0, 5)
    resumed = MetaTrainingSAE(cfg)
    resumed.load_weights_from_checkpoint(tmp_path)
    resumed = steps(resumed, 5, 8)
    whole = steps(MetaTrainingSAE(cfg), 0, 8)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_the_share_that_a_meta_phase_did_not_look_at_is_logged() -> None:
    sae = MetaTrainingSAE(
        meta_config(
            meta_selection="cycle", meta_lr=0.03, meta_steps_per_cycle=6, meta_d_sae=60
        )
    )
    trainer, shares = trainer_for(sae, sparse_batches(), 100), []
    for _, batch in zip(range(4), sparse_batches(), strict=False):
        shares.append(trainer.step(batch).metrics.get("meta_share_missed"))
    assert shares[:3] == [None] * 3
    assert 0 < shares[3] < 1


def test_a_checkpoint_of_the_other_way_of_selecting_is_refused(tmp_path: Path) -> None:
    MetaTrainingSAE(meta_config()).save_model(tmp_path)
    sae = MetaTrainingSAE(meta_config(meta_selection="cycle"))
    with pytest.raises(ValueError, match="meta_selection"):
        sae.load_weights_from_checkpoint(tmp_path)
