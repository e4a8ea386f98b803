"""When a latent is dead: the author's rule, found in his recording, and what follows it here."""

from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.training.penalty import unit_rows
from tests.helpers import meta_config, sparse_batches, trainer_for
from tests.test_golden import Golden, golden, joint_sae

__all__ = ["golden"]  # a fixture

PAPERS_RECIPES = ("metasae-gpt2l-l20", "metasae-gemma2-9b-l23")
AUTHORS_WINDOW = 5


class AuthorsSAE:
    """His BatchTopK SAE and its Adam, written anew; `idle` counts batches without firing."""

    def __init__(self, golden: Golden, part: str, k: int, window: int):
        self.settings, tensors = golden
        self.k, self.window = k, window
        self.W_enc, self.W_dec, self.b_dec = (
            tensors[f"init.{part}.{name}"].clone().requires_grad_()
            for name in ("W_enc", "W_dec", "b_dec")
        )
        betas = (self.settings["beta1"], self.settings["beta2"])
        parameters = [self.W_enc, self.W_dec, self.b_dec]
        self.adam = torch.optim.Adam(parameters, self.settings["lr"], betas)
        self.idle = torch.zeros(len(self.W_dec))

    def losses(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error, and with it what the dead latents add, this batch being counted."""
        x, _, _ = self.normalized(x)
        recons, acts, codes = self.reconstruct(x)
        self.idle = (self.idle + 1) * ~(codes > 0).any(0)
        dead = self.idle >= self.window
        squared_error = loss = (recons - x).pow(2).mean()
        if dead.any():
            top = acts[:, dead].topk(min(self.settings["top_k_aux"], int(dead.sum())))
            acts = torch.zeros_like(acts[:, dead]).scatter(1, top.indices, top.values)
            error = (acts @ self.W_dec[dead] - (x - recons)).pow(2).mean()
            loss = loss + self.settings["aux_penalty"] * error
        return squared_error, loss

    def normalized(self, x: torch.Tensor) -> tuple[torch.Tensor, Any, Any]:
        if not self.settings["input_unit_norm"]:
            return x, 0.0, 1.0
        mean = x.mean(-1, keepdim=True)
        std = (x - mean).std(-1, keepdim=True)
        return (x - mean) / (std + 1e-5), mean, std

    def reconstruct(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        acts = ((x - self.b_dec) @ self.W_enc).relu()
        top = acts.flatten().topk(self.k * len(x))
        codes = torch.zeros_like(acts.flatten()).scatter(0, top.indices, top.values)
        codes = codes.view_as(acts)
        return codes @ self.W_dec + self.b_dec, acts, codes

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        assert self.W_dec.grad is not None
        self.W_dec.data = self.W_dec.data / self.W_dec.data.norm(dim=-1, keepdim=True)
        along = (self.W_dec.grad * self.W_dec.data).sum(-1, keepdim=True)
        self.W_dec.grad -= along * self.W_dec.data
        self.adam.step()
        self.adam.zero_grad()


def authors_loop(golden: Golden, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors `[steps]` of his loop, and which latents were dead, `[steps, d_sae]`."""
    settings, tensors = golden
    primary = AuthorsSAE(golden, "primary", settings["k"], window)
    meta = AuthorsSAE(golden, "meta", settings["meta_k"], window)
    squared_errors, dead = [], []
    for step, batch in enumerate(tensors["batches"], 1):
        squared_error, loss = primary.losses(batch)
        with torch.no_grad():
            x, mean, std = meta.normalized(primary.W_dec)
            target = meta.reconstruct(x)[0] * std + mean
        distances = (primary.W_dec - target).pow(2).sum(-1)
        penalty = (-distances / settings["sigma_sq"]).exp().mean()
        primary.step(loss + settings["lambda2"] * penalty)
        squared_errors.append(squared_error.item())
        dead.append(primary.idle >= window)
        if step % settings["n_primary_steps"] == 0:
            for _ in range(settings["n_meta_steps"]):
                meta.step(meta.losses(primary.W_dec.detach())[1])
    return torch.tensor(squared_errors), torch.stack(dead)


def test_the_recording_tells_the_authors_rule(golden: Golden) -> None:
    """Dead once 5 batches went by without firing, the one at hand counted: to the last digit."""
    recorded = golden[1]["trajectory.primary_l2"]
    ours, dead = authors_loop(golden, AUTHORS_WINDOW)
    torch.testing.assert_close(ours, recorded, rtol=1e-6, atol=0)
    assert dead.sum() > 50, "the case must occur"
    for other in (AUTHORS_WINDOW - 1, AUTHORS_WINDOW + 1):
        deviation = (authors_loop(golden, other)[0] / recorded - 1).abs()
        assert deviation.max() > 2e-5


@pytest.mark.parametrize("name", PAPERS_RECIPES)
def test_the_recipes_window_finds_the_authors_dead_latents_a_batch_later(
    name: str, golden: Golden
) -> None:
    settings, tensors = golden
    sae = joint_sae(golden, sparse=False)
    masks, fired = [], []
    training_forward_pass = sae.training_forward_pass

    def recorded(step_input: TrainStepInput) -> TrainStepOutput:
        assert step_input.dead_neuron_mask is not None
        masks.append(step_input.dead_neuron_mask.clone())
        output = training_forward_pass(step_input)
        fired.append((output.feature_acts > 0).any(0))
        return output

    sae.training_forward_pass = recorded  # type: ignore[method-assign]
    batches = tensors["batches"]
    window = load_recipe(name).training.dead_feature_window
    trainer = trainer_for(
        sae,
        iter(batches),
        len(batches),
        batches.shape[1],
        dead_feature_window=window,
    )
    trainer.fit()
    idle = torch.zeros(settings["d_sae"])
    n_dead = 0
    for at_hand, following in zip(fired, masks[1:], strict=False):
        idle = (idle + 1) * ~at_hand
        assert torch.equal(following, idle >= AUTHORS_WINDOW)
        n_dead += int(following.sum())
    assert n_dead > 50, "the case must occur"


def test_the_meta_sae_follows_the_same_rule() -> None:
    sae = MetaTrainingSAE(meta_config(meta_k=0.2, meta_lr=0.1))
    trainer_for(sae, sparse_batches(), 1).fit()
    meta_sae = sae.meta_sae
    assert meta_sae is not None
    idle, n_dead, n_revived = torch.zeros(12), 0, 0
    for _ in range(60):
        acts = meta_sae.encode(unit_rows(sae.W_dec.detach())).to_dense()
        fires = (acts > 0).any(0)
        n_revived += int((fires & meta_sae.dead_latents).sum())
        meta_sae.fit(sae.W_dec, 1)
        idle = (idle + 1) * ~fires
        assert torch.equal(meta_sae.dead_latents, idle >= AUTHORS_WINDOW)
        n_dead += int(meta_sae.dead_latents.sum())
    assert n_dead > 0, "the case must occur"
    assert n_revived > 0, "the case must occur"
