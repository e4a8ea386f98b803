"""What a recipe is said to take, against products and bytes counted while a step is taken."""

import weakref
from math import ceil
from typing import Any

import pytest
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.recipe import load_recipe
from sae_lens_meta.reproduce import needs

BATCH = 128


def dense(d_in: int, d_sae: int, meta_d_sae: int, **settings: Any) -> Any:
    """A config whose passes are dense on CPU too, with cycles of 2 primary and 3 meta steps."""
    return MetaTrainingSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        meta_d_sae=meta_d_sae,
        k=4,
        meta_k=2,
        use_sparse_activations=False,
        normalize_activations="layer_norm",
        primary_steps_per_cycle=2,
        meta_steps_per_cycle=3,
        **settings,
    )


class Steps:
    """Steps of SAELens's trainer, in which half of all latents are dead or none is."""

    def __init__(self, cfg: MetaTrainingSAEConfig, batch: int, has_dead: bool):
        self.sae = MetaTrainingSAE(cfg)
        trainer_cfg = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=batch, lr_end=1e-5
        )
        self.trainer = SAETrainer(trainer_cfg, self.sae, iter(()))
        self.inputs = torch.randn(batch, cfg.d_in)
        self.has_dead = has_dead
        self.take()  # Adam's moments exist from here on

    def take(self) -> Any:
        silent = [self.trainer.n_forward_passes_since_fired]
        if self.sae.meta_sae is not None:
            silent.append(self.sae.meta_sae.steps_since_fired)
        for steps in silent:
            steps.zero_()
            steps[::2] = 10**6 * self.has_dead
        return self.trainer.step(self.inputs)


@pytest.mark.parametrize(
    "cfg",
    [
        dense(32, 512, 48),
        dense(48, 256, 128),
        dense(32, 512, 48, decomposability_coefficient=0),
        dense(32, 512, 48, apply_b_dec_to_input=False),
    ],
)
def test_the_products_of_a_dense_step_are_those_that_torch_counts(
    cfg: MetaTrainingSAEConfig,
) -> None:
    cfg.meta_steps_per_cycle = 1  # the dead stay dead for one meta step only
    expected = needs.dense_flops(cfg, BATCH)
    for has_dead in (False, True):
        if has_dead:
            expected += needs.dense_aux_flops(cfg, BATCH)
        steps = Steps(cfg, BATCH, has_dead)
        with FlopCounterMode(display=False) as counter:
            steps.take()
            steps.take()  # begins with a meta phase
        assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=0.02)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside: those that live, and the most at once."""

    def __init__(self, before: list[torch.Tensor]):
        super().__init__()
        # kept, since a freed storage's address may be given out again
        self.before = [tensor.untyped_storage() for tensor in before]
        self.counted = {storage._cdata for storage in self.before}
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.counted:
            self.counted.add(storage._cdata)
            self.live += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, address: int, n_bytes: int) -> None:
        self.counted.remove(address)
        self.live -= n_bytes


@pytest.mark.parametrize(
    ("batch", "d_in", "d_sae", "meta_d_sae"),
    [
        (256, 64, 1280, 112),  # as GPT-2 large: the primary's backward
        (64, 56, 1024, 78),  # as Gemma: the meta SAE's targets and reconstructions
        (128, 8, 1024, 144),  # the penalty beside what the primary keeps
        (64, 8, 1024, 512),  # the meta SAE's backward
    ],
)
def test_the_memory_of_a_dense_step_is_the_most_that_exists_at_once(
    batch: int, d_in: int, d_sae: int, meta_d_sae: int
) -> None:
    cfg = dense(d_in, d_sae, meta_d_sae)
    steps = Steps(cfg, batch, has_dead=True)
    steps.take()
    moments = [
        value
        for state in steps.trainer.optimizer.state.values()
        for value in state.values()
    ]
    trainer = steps.trainer
    before = [*steps.sae.state_dict().values(), *moments, steps.inputs]
    before += [trainer.act_freq_scores, trainer.n_forward_passes_since_fired]
    with LiveBytes(before) as memory:
        output = steps.take()  # begins with a meta phase
    expected = needs.dense_step_bytes(cfg, batch)
    assert memory.peak == pytest.approx(expected, rel=0.04)
    # what stays, `output`, is what every SAE hands over
    assert output.feature_acts.shape == (batch, d_sae)
    assert memory.live == pytest.approx(
        needs.handed_over_bytes(cfg, batch), rel=0.05, abs=8 * 4 * batch * d_in
    )


def test_gemma_on_one_h100_trains_for_113_hours() -> None:
    recipe = load_recipe("metasae-gemma2-9b-l23")
    product, meta_product = 2 * 4096 * 3584 * 65_536, 2 * 65_536 * 3584 * 5_000
    rate, n_steps = 0.7 * 67e12, ceil(375_000_000 / 4096)
    # a cycle is ten primary and five meta steps
    joint, solo = 6 * product + (2 + 6 / 2) * meta_product, 6 * product
    dead = 3 * (2 * product + meta_product / 2)
    h100 = needs.Machine("cuda", 79, rate, reading=0, lm_weights=0, lm_bytes=2)
    found = needs.estimate(recipe, [list(recipe.saes())], h100)
    per_flop = 2 * 3 * n_steps / rate / 3600  # half the rate, three seeds
    assert found.hours["training"] == pytest.approx(per_flop * (joint + solo))
    assert found.hours["training"] == pytest.approx(113, abs=0.5)
    aux = found.hours["auxiliary losses beside it, at most"]
    assert aux == pytest.approx(per_flop * dead)
