"""What a recipe is said to take, against bytes counted and seconds measured while a step is taken."""

import weakref
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

import pytest
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.shapes import SHAPES, sae_of
from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.reproduce import needs
from sae_lens_meta.reproduce.recipe import load_recipe
from sae_lens_meta.training.backend import cuda
from sae_lens_meta.training.held_selection import HeldMetaSAE


def joint(d_in: int, d_sae: int, meta_d_sae: int, **settings: Any) -> Any:
    """A config with cycles of 2 primary and 3 meta steps, at which both passes are sparse."""
    return MetaTrainingSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        meta_d_sae=meta_d_sae,
        k=4,
        meta_k=2,
        use_sparse_activations=True,
        primary_steps_per_cycle=2,
        meta_steps_per_cycle=3,
        **settings,
    )


class Steps:
    """Steps of SAELens's trainer, in which one latent in a hundred is dead."""

    def __init__(self, cfg: MetaTrainingSAEConfig, batch: int):
        self.sae = MetaTrainingSAE(cfg)
        trainer_cfg = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=batch, lr_end=1e-5
        )
        self.trainer = SAETrainer(trainer_cfg, self.sae, iter(()))
        self.inputs = torch.randn(batch, cfg.d_in)
        self.take()  # Adam's moments exist from here on

    def take(self) -> Any:
        silent = [self.trainer.n_forward_passes_since_fired]
        if self.sae.meta_sae is not None:
            silent.append(self.sae.meta_sae.steps_since_fired)
        for steps in silent:
            steps.zero_()
            steps[::100] = 10**6
        return self.trainer.step(self.inputs)


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
            # a sparse tensor's parts are counted where they are made
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
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
    [(64, 128, 2048, 180), (256, 128, 2048, 180), (64, 224, 4096, 310)],
)
def test_the_memory_of_a_step_on_a_gpu_is_the_most_that_exists_at_once(
    batch: int,
    d_in: int,
    d_sae: int,
    meta_d_sae: int,
    gpu_code: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (cuda, needs):
        monkeypatch.setattr(module, "CHUNK", 1 << 15)
    monkeypatch.setattr(needs, "LARGEST", 0)  # as of a matrix too large for graphs
    cfg = joint(d_in, d_sae, meta_d_sae)
    steps = Steps(cfg, batch)
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
        steps.take()  # begins with a meta phase
    expected = needs.gpu_step_bytes(cfg, batch)
    assert memory.peak == pytest.approx(expected, rel=0.2)
    assert memory.peak < 1.05 * expected


class Measured(NamedTuple):
    """
    A shape on a card, by benchmarks/step.py, the first H200's: docs/performance.md.

    Attributes:
        rate, bandwidth: of its product in half precision and of a copy, beside the steps.
        solo, joint, cycle: seconds of a step.
    """

    card: str
    shape: str
    rate: float
    bandwidth: float
    solo: float
    joint: float
    cycle: float


MEASURED = (
    Measured("H100", "gpt2-large", 551e12, 2.9e12, 0.0106, 0.0138, 0.0132),
    Measured("H100", "gemma-4096", 732e12, 2.9e12, 0.0437, 0.0851, 0.0676),
    Measured("H200", "gpt2-large", 521e12, 4.1e12, 0.0096, 0.0122, 0.0110),
    Measured("H200", "gemma-4096", 716e12, 4.0e12, 0.0375, 0.0695, 0.0534),
)


@pytest.mark.parametrize("kind", ["solo", "joint", "cycle"])
@pytest.mark.parametrize("found", MEASURED, ids=lambda m: f"{m.card}-{m.shape}")
def test_times_planned_for_a_gpu_are_those_that_were_measured(
    found: Measured, kind: str
) -> None:
    gpu = needs.Machine("cuda", 79, found.rate, 0, 0, 2, bandwidth=found.bandwidth)
    cfg: Any = sae_of(kind, SHAPES[found.shape], device="meta").cfg
    planned = needs.gpu_step_seconds(cfg, SHAPES[found.shape].batch, gpu)
    assert planned == pytest.approx(getattr(found, kind), rel=0.2)


def test_a_recipes_training_on_a_gpu_is_its_steps() -> None:
    recipe = load_recipe("metasae-gemma2-9b-l23")
    h100 = needs.Machine("cuda", 79, 732e12, 0, 0, 2, bandwidth=2.9e12)
    n_steps = ceil(375_000_000 / 4096)
    seconds = sum(
        needs.gpu_step_seconds(cfg, 4096, h100) for cfg in recipe.saes().values()
    )
    found = needs.estimate(recipe, [list(recipe.saes())], h100)
    assert found.hours["training"] == pytest.approx(n_steps * seconds / 3600)


def test_dense_products_of_a_held_selection_are_those_that_torch_counts() -> None:
    cfg = replace(joint(16, 128, 32), meta_selection="cycle")
    _, meta_steps, held = needs.dense_products(cfg, 64)
    meta_sae = MetaTrainingSAE(cfg).meta_sae
    assert isinstance(meta_sae, HeldMetaSAE)
    rows = torch.randn(cfg.d_sae, cfg.d_in)
    with FlopCounterMode(display=False) as fit:
        meta_sae.fit(rows, 3)
    with FlopCounterMode(display=False) as hold:
        meta_sae.hold(rows)
    # a cycle is of two primary steps
    assert (fit.get_total_flops(), hold.get_total_flops()) == (2 * meta_steps, 2 * held)


@pytest.mark.parametrize("is_sparse", [True, False], ids=["sparse", "dense"])
def test_dense_products_are_those_that_torch_counts(is_sparse: bool) -> None:
    cfg, batch = replace(joint(16, 128, 32), use_sparse_activations=is_sparse), 64
    primary, meta_steps, reconstruction = needs.dense_products(cfg, batch)
    meta_sae = MetaTrainingSAE(cfg).meta_sae
    assert meta_sae is not None
    rows = torch.randn(cfg.d_sae, cfg.d_in)
    with FlopCounterMode(display=False) as fit:
        meta_sae.fit(rows, 3)
    assert fit.get_total_flops() == 2 * meta_steps, "a cycle is of two primary steps"
    with FlopCounterMode(display=False) as reconstructed:
        meta_sae.reconstruct(rows)
    assert reconstructed.get_total_flops() == reconstruction
    solo = Steps(replace(cfg, decomposability_coefficient=0), batch)
    solo.trainer.n_forward_passes_since_fired.zero_()  # no latent is dead
    with FlopCounterMode(display=False) as step:
        solo.trainer.step(solo.inputs)
    assert step.get_total_flops() == primary


@pytest.mark.parametrize(
    ("shape", "peak_gb"), [("gpt2-large", 2.0), ("gemma-4096", 12.9)]
)
def test_memory_planned_for_a_gpu_is_what_was_measured(
    shape: str, peak_gb: float
) -> None:
    """By benchmarks/memory.py on an H100: with graphs at the first shape, without at the second."""
    sizes = SHAPES[shape]
    cfg: Any = sae_of("joint", sizes, device="meta").cfg
    weights = 2 * cfg.d_in * (cfg.d_sae + cfg.meta_width)
    planned = needs.gpu_step_bytes(cfg, sizes.batch) + 3 * needs.BYTES * weights
    assert planned / 1e9 == pytest.approx(peak_gb, rel=0.2)
