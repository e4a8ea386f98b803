"""The sparse pass against the dense one in float64, and what it must not do."""

from typing import Any

import pytest
import torch
from sae_lens.saes.sae import TrainStepOutput
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sae_lens_meta import MetaTrainingSAE, MetaTrainingSAEConfig
from sae_lens_meta.training.normalized_batchtopk import NormalizedBatchTopKTrainingSAE
from sae_lens_meta.training.penalty import unit_rows
from tests.helpers import (
    D_IN,
    D_SAE,
    forward,
    meta_config,
    sparse_batches,
    trainer_for,
)

ROUNDING = 1e-5


def random_sae(sparse: bool, dtype: str, **changes: Any) -> MetaTrainingSAE:
    """Weights of no special scale: rows of any norm, biases that matter."""
    sae = MetaTrainingSAE(
        meta_config(dtype=dtype, use_sparse_activations=sparse, **changes)
    )
    generator = torch.Generator().manual_seed(7)
    for part in (sae, sae.meta_sae):
        for name, parameter in part.named_parameters() if part else []:
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 1.0 if name.startswith("W") else 0.1
            parameter.data = (scale * noise).to(parameter.dtype)
    return sae


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-12)).item()


def assert_same_pass(
    ours: NormalizedBatchTopKTrainingSAE,
    reference: NormalizedBatchTopKTrainingSAE,
    batch: torch.Tensor,
    dead: torch.Tensor | None,
) -> None:
    outputs: list[TrainStepOutput] = []
    for sae in (ours, reference):
        outputs.append(forward(sae, batch.to(sae.dtype), dead))
        outputs[-1].loss.backward()
    sparse, dense = outputs
    assert sparse.feature_acts.is_sparse and not dense.feature_acts.is_sparse
    acts = sparse.feature_acts.to_dense()
    assert torch.equal(acts > 0, dense.feature_acts > 0)
    assert relative_error(acts, dense.feature_acts) < ROUNDING
    assert relative_error(sparse.sae_out, dense.sae_out) < ROUNDING
    for name, loss in dense.losses.items():
        assert relative_error(sparse.losses[name], loss) < ROUNDING, name
    for name, parameter in reference.named_parameters():
        gradient = ours.get_parameter(name).grad
        assert gradient is not None and parameter.grad is not None
        assert relative_error(gradient, parameter.grad) < ROUNDING, name


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize("n_dead", [0, 3, 11])
@pytest.mark.parametrize(
    "shape",
    [
        {"d_in": 3, "d_sae": 13, "k": 1, "meta_d_sae": 4, "meta_k": 1},
        {"d_in": 16, "d_sae": 64, "k": 0.4, "meta_d_sae": 12},
        {"d_in": 64, "d_sae": 2048, "k": 16, "meta_d_sae": 180},
        {"d_in": 96, "d_sae": 20480, "k": 64, "meta_d_sae": 1800, "meta_k": 4},
    ],
)
def test_float32_sparse_pass_is_the_dense_one_in_float64(
    shape: dict[str, Any], n_dead: int
) -> None:
    dead = torch.zeros(shape["d_sae"], dtype=torch.bool)
    dead[1 :: shape["d_sae"] // 12][:n_dead] = True
    batch = next(sparse_batches(d_in=shape["d_in"]))
    assert_same_pass(
        random_sae(True, "float32", **shape),
        random_sae(False, "float64", **shape),
        batch,
        dead if n_dead else None,
    )


@pytest.mark.usefixtures("either_code")
@pytest.mark.parametrize(
    "changes",
    [
        {"rescale_acts_by_decoder_norm": False},
        {"apply_b_dec_to_input": False},
        {"normalize_activations": "none"},
        {"decomposability_coefficient": 0},
    ],
)
def test_every_convention_has_its_sparse_pass(changes: dict[str, Any]) -> None:
    dead = torch.arange(D_SAE) % 3 == 0  # more than d_in / 2 of them
    ours = random_sae(True, "float32", **changes)
    reference = random_sae(False, "float64", **changes)
    assert_same_pass(ours, reference, next(sparse_batches()), dead)


@pytest.mark.usefixtures("either_code")
def test_meta_sae_over_rows_is_the_dense_one_in_float64() -> None:
    metas, rows = [], unit_rows(random_sae(True, "float32").W_dec.detach())
    for sparse, dtype in ((True, "float32"), (False, "float64")):
        meta_sae = random_sae(sparse, dtype).meta_sae
        assert meta_sae is not None
        metas.append(meta_sae)
    dead = torch.arange(12) == 5
    assert_same_pass(metas[0], metas[1], rows, dead)
    scaled = rows * torch.arange(1, D_SAE + 1)[:, None]  # it sees directions only
    ours, theirs = metas[0].reconstruct(scaled), metas[1].reconstruct(scaled.double())
    assert relative_error(ours, theirs) < ROUNDING


@pytest.mark.usefixtures("either_code")
def test_a_whole_training_is_the_dense_one_in_float64() -> None:
    """With meta phases and dead latents: 40 steps of Adam on both."""
    trainers = []
    for sparse in (True, False):
        sae = MetaTrainingSAE(
            meta_config(dtype="float64", use_sparse_activations=sparse)
        )
        sae.b_enc.data[:6] = -2.0  # silent at first: dead after 20 steps
        trainers.append(trainer_for(sae, sparse_batches(), 40))
    for _, batch in zip(range(40), sparse_batches(), strict=False):
        for trainer in trainers:
            trainer.step(batch.double())
    ours, reference = trainers
    assert bool(reference.dead_neurons.any()), (
        "the run must exercise the auxiliary loss"
    )
    for name, tensor in reference.sae.state_dict().items():
        assert torch.allclose(ours.sae.state_dict()[name], tensor, rtol=1e-7), name
    # SAELens's statistics of a step take the sparse codes as they are
    assert torch.equal(ours.act_freq_scores, reference.act_freq_scores)
    assert torch.equal(
        ours.n_forward_passes_since_fired, reference.n_forward_passes_since_fired
    )


def test_encoders_are_the_only_dense_products_of_a_step() -> None:
    sae = MetaTrainingSAE(meta_config(use_sparse_activations=True))
    trainer = trainer_for(sae, sparse_batches(), 1)
    batch = next(sparse_batches())
    with FlopCounterMode(display=False) as counter:
        trainer.step(batch)
    primary, meta = 2 * len(batch) * D_IN * D_SAE, 2 * D_SAE * D_IN * 12
    # the overlaps of rows with their reconstructions, and the mean row
    vectors = 2 * 2 * D_SAE * D_IN
    assert counter.get_total_flops() == primary + meta + vectors
    assert sae.meta_sae is not None
    with FlopCounterMode(display=False) as counter:
        sae.meta_sae.fit(sae.W_dec, 1)
    assert counter.get_total_flops() == meta


class LargestTensor(TorchDispatchMode):
    """Remembers the number of values of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self.numel = max(self.numel, leaf.numel())
        return result


def test_codes_never_exist_as_a_dense_matrix() -> None:
    n, d_sae = 2048, 4096  # two blocks
    sae = MetaTrainingSAE(
        MetaTrainingSAEConfig(d_in=8, d_sae=d_sae, k=4, use_sparse_activations=True)
    )
    trainer = trainer_for(sae, sparse_batches(), 1)
    with LargestTensor() as largest:
        trainer.step(torch.randn(n, 8))
    assert largest.numel < n * d_sae


def test_choice_goes_by_shape_and_device_unless_it_is_made() -> None:
    def is_sparse(**changes: Any) -> bool | None:
        return MetaTrainingSAE(meta_config(**changes)).passes_sparse()

    assert is_sparse(k=4) and not is_sparse(k=16)
    assert is_sparse(k=16, use_sparse_activations=True)
    assert not is_sparse(k=4, use_sparse_activations=False)
    # each SAE for itself: the meta SAE's codes are denser here
    joint = MetaTrainingSAE(meta_config(k=4, meta_k=3))
    assert joint.meta_sae is not None and not joint.meta_sae.passes_sparse()
    with pytest.raises(ValueError, match="needs dtype float32 or float64, got bfloat"):
        meta_config(dtype="bfloat16", use_sparse_activations=True)


@pytest.mark.usefixtures("either_code")
def test_hooks_see_and_change_what_they_would_see_and_change_in_a_dense_pass() -> None:
    sae = MetaTrainingSAE(meta_config(use_sparse_activations=True))
    batch = next(sparse_batches())
    ablated = 5

    def ablate(acts: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        return acts.index_fill(1, torch.tensor([ablated]), 0)

    plain = forward(sae, batch).feature_acts
    assert plain.is_sparse and (plain.to_dense()[:, ablated] > 0).any()
    with sae.hooks(fwd_hooks=[("hook_sae_acts_post", ablate)]):
        watched = forward(sae, batch)
    assert not (watched.feature_acts[:, ablated] > 0).any()
    assert forward(sae, batch).feature_acts.is_sparse
    with sae.hooks(fwd_hooks=[("hook_sae_recons", lambda recons, hook: 0 * recons)]):  # noqa: ARG005
        output = forward(sae, batch)
    normalized = (batch - batch.mean(1, keepdim=True)) / batch.std(1, keepdim=True)
    energy = normalized.pow(2).sum(1).mean()
    torch.testing.assert_close(output.losses["mse_loss"], energy, rtol=1e-3, atol=0)


def test_autocast_changes_the_encoder_alone() -> None:
    dead = torch.arange(D_SAE) % 3 == 0
    losses = []
    for enabled in (False, True):
        sae = MetaTrainingSAE(meta_config(use_sparse_activations=True))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            output = forward(sae, next(sparse_batches()), dead)
        output.loss.backward()
        assert all(p.grad is not None for p in sae.parameters())
        losses.append(output.loss.item())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
