"""The penalty over SAELens's own architectures: theirs without it, theirs and the penalty with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from sae_lens_meta.training.meta_config import MetaSAEConfig
from sae_lens_meta.training.meta_sae import MetaSAE

D_IN, D_SAE, BATCH = 16, 48, 64
STOCK = {
    "topk": {"k": 4, "aux_loss_coefficient": 0.5},
    "jumprelu": {"jumprelu_init_threshold": 0.1},
    "standard": {"l1_coefficient": 0.3, "l1_warm_up_steps": 20},
    "gated": {"l1_coefficient": 0.3},
    "matryoshka_batchtopk": {"k": 4, "matryoshka_widths": [16, 48]},
}
META = {"meta_d_sae": 6, "meta_k": 2, "primary_steps_per_cycle": 3}
META |= {"meta_steps_per_cycle": 4, "meta_lr": 1e-2}
architectures = pytest.mark.parametrize("stock", STOCK)


def made(architecture: str, **settings: Any) -> TrainingSAE[Any]:
    sae_class, config_class = get_sae_training_class(architecture)
    sizes: Any = {"d_in": D_IN, "d_sae": D_SAE, "decoder_init_norm": 0.5}
    return sae_class(config_class(**sizes, **settings))


def with_penalty(stock: str, coefficient: float = 0.3) -> TrainingSAE[Any]:
    settings = STOCK[stock] | META
    return made(f"meta_{stock}", decomposability_coefficient=coefficient, **settings)


def coefficients(sae: TrainingSAE[Any], step: int) -> dict[str, float]:
    found = {}
    for name, one in sae.get_coefficients().items():
        if not isinstance(one, TrainCoefficientConfig):
            one = TrainCoefficientConfig(one, 0)
        found[name] = one.value * min(1.0, (step + 1) / max(1, one.warm_up_steps))
    return found


def inputs(sae: TrainingSAE[Any], x: torch.Tensor, step: int) -> TrainStepInput:
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[:5] = step > 10
    return TrainStepInput(x, coefficients(sae, step), dead, step, False)


def batches(n_steps: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        yield torch.randn(BATCH, D_IN, generator=generator)


def train(sae: TrainingSAE[Any], n_steps: int) -> list[float]:
    adam = torch.optim.Adam(sae.parameters(), lr=3e-3)
    losses = []
    for step, x in enumerate(batches(n_steps)):
        output = sae.training_forward_pass(inputs(sae, x, step))
        output.loss.backward()
        adam.step()
        adam.zero_grad()
        losses.append(float(output.loss))
    return losses


@architectures
def test_without_the_penalty_it_is_the_stock_class_bit_for_bit(stock: str) -> None:
    solo, plain = with_penalty(stock, 0.0), made(stock, **STOCK[stock])
    weights = {k: v for k, v in solo.state_dict().items() if k in plain.state_dict()}
    assert weights.keys() == plain.state_dict().keys()
    plain.load_state_dict(weights)
    assert train(solo, 100) == train(plain, 100)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(solo.state_dict()[name], tensor), name


@architectures
def test_the_penalty_is_added_to_the_stock_loss_and_turns_rows_alone(
    stock: str,
) -> None:
    joint = with_penalty(stock)
    train(joint, 20)
    plain = made(stock, **STOCK[stock])
    own = plain.state_dict().keys()
    plain.load_state_dict({k: v for k, v in joint.state_dict().items() if k in own})
    (x,) = batches(1)
    ours = joint.training_forward_pass(inputs(joint, x, 20))
    theirs = plain.training_forward_pass(inputs(plain, x, 20))
    assert joint.meta_sae is not None  # type: ignore[union-attr]
    rows = joint.W_dec.detach().double().requires_grad_()
    unit = rows / rows.norm(dim=-1, keepdim=True)
    recons = joint.meta_sae.reconstruct(joint.W_dec.detach()).double()  # type: ignore[operator, union-attr]
    by_hand = 0.3 * D_IN * torch.exp(-(unit - recons).pow(2).sum(-1)).mean()
    assert float(ours.loss - theirs.loss) == pytest.approx(float(by_hand), rel=1e-4)
    for output in (ours, theirs):
        output.loss.backward()
    (turned,) = torch.autograd.grad(by_hand, rows)
    ours_grad, theirs_grad = joint.W_dec.grad, plain.W_dec.grad
    assert ours_grad is not None and theirs_grad is not None
    torch.testing.assert_close(
        (ours_grad - theirs_grad).double(), turned, atol=1e-5, rtol=1e-3
    )
    assert turned.norm() > 1e-3
    for name, parameter in plain.named_parameters():
        if name != "W_dec":
            gradient = dict(joint.named_parameters())[name].grad
            torch.testing.assert_close(gradient, parameter.grad)


@architectures
def test_a_larger_coefficient_leaves_rows_that_are_explained_less(stock: str) -> None:
    explained = []
    for coefficient in (1e-6, 3.0):
        sae = with_penalty(stock, coefficient)
        train(sae, 200)
        rows = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=-1, keepdim=True)
        distances = (rows - sae.meta_sae.reconstruct(rows)).pow(2).sum(-1)  # type: ignore[operator, union-attr]
        explained.append(1 - float(distances.mean()))
    assert explained[1] < explained[0] - 0.02


@architectures
def test_stock_saelens_loads_what_is_saved_and_the_meta_sae_beside_it(
    stock: str, tmp_path: Path
) -> None:
    joint, plain = with_penalty(stock), made(stock, **STOCK[stock])
    train(joint, 30)
    own = plain.state_dict().keys()
    plain.load_state_dict({k: v for k, v in joint.state_dict().items() if k in own})
    joint.save_inference_model(tmp_path / "joint")
    plain.save_inference_model(tmp_path / "plain")
    ours, theirs = (SAE.load_from_disk(tmp_path / n) for n in ("joint", "plain"))
    assert type(ours) is type(theirs) and type(ours).__module__.startswith("sae_lens.")
    assert ours.cfg.metadata.training_architecture == f"meta_{stock}"
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    meta = SAE.load_from_disk(tmp_path / "joint" / "meta")
    assert meta.cfg.architecture() == "jumprelu"
    assert meta.W_dec.shape == (6, D_IN)


@architectures
def test_a_checkpoint_goes_on_bit_for_bit(stock: str, tmp_path: Path) -> None:
    through, halves = with_penalty(stock), with_penalty(stock)
    train(halves, 10)
    halves.save_model(tmp_path)
    resumed = with_penalty(stock)
    resumed.load_weights_from_checkpoint(tmp_path)
    train(through, 10)
    # each with a fresh Adam of the primary, which SAELens's trainer keeps
    assert train(resumed, 10) == train(through, 10)
    for name, tensor in through.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_the_meta_saes_adam_is_torchs_bit_for_bit() -> None:
    cfg = MetaSAEConfig(d_in=D_IN, d_sae=6, k=2, lr=1e-2, adam_beta2=0.95)
    ours, theirs = MetaSAE(cfg), MetaSAE(cfg)
    theirs.load_state_dict(ours.state_dict())
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        gradients = [
            torch.randn(p.shape, generator=generator) for p in ours.parameters()
        ]
        for other, gradient in zip(theirs.parameters(), gradients, strict=True):
            other.grad = gradient.clone()
        ours.take_adam_step(gradients)
        adam.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)


@architectures
def test_the_meta_saes_parameters_are_its_own(stock: str, tmp_path: Path) -> None:
    joint = with_penalty(stock)
    meta: Any = joint.meta_sae
    own = {id(parameter) for parameter in meta.parameters()}
    assert own and not own & {id(p) for p in joint.parameters()}
    joint.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in meta.parameters())
    assert not any(parameter.requires_grad for parameter in joint.parameters())
    joint.requires_grad_(True)
    meta.W_dec.grad = torch.ones_like(meta.W_dec)
    joint.zero_grad()
    assert meta.W_dec.grad is not None
    init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        reduced, _ = DistributedDataParallel(joint)._build_params_for_reducer()
    finally:
        destroy_process_group()
    assert {id(p) for p in reduced} == {id(p) for p in joint.parameters()}
