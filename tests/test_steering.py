"""Interventions along a meta latent's direction, against an SAE whose decoder was edited by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, HookedSAETransformer
from sae_lens.registry import get_sae_class
from sae_lens.saes.sae import SAEMetadata
from transformer_lens import HookedTransformerConfig

from sae_lens_meta.decomposition.decompose import decomposition
from sae_lens_meta.decomposition.decomposition import Decomposition, decomposed
from sae_lens_meta.decomposition.fit import FitSettings, fit
from sae_lens_meta.decomposition.steering import steered, without_part
from sae_lens_meta.training.penalty import unit_rows

D_IN, D_SAE, HOOK = 16, 64, "blocks.0.hook_resid_post"
ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", "abstopk")
EXTRA: dict[str, dict[str, Any]] = {
    "topk": {"k": 6, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 6},
}


def made(
    architecture: str, normalize: str = "layer_norm", d_sae: int = D_SAE
) -> SAE[Any]:
    """A random SAE whose rows have parts, of every norm."""
    sae_class, cfg_class = get_sae_class(architecture)
    metadata = SAEMetadata(hook_name=HOOK)
    settings = {"normalize_activations": normalize, "metadata": metadata}
    cfg = cfg_class(d_in=D_IN, d_sae=d_sae, **settings, **EXTRA.get(architecture, {}))
    sae = sae_class(cfg)
    generator = torch.Generator().manual_seed(1)
    for name, weight in sae.named_parameters():
        drawn = torch.randn(weight.shape, generator=generator)
        weight.data = drawn.abs() if name == "threshold" else drawn
    return sae


def parts_of_rows(sae: SAE[Any]) -> Decomposition:
    settings = FitSettings(8, 3, steps=20, lr=1e-2).for_rows(D_SAE)
    rows = unit_rows(sae.W_dec.detach())
    return decomposed(rows, fit(rows, settings, "test"), "fitted", {})


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=D_IN,
        n_ctx=8,
        d_head=4,
        n_heads=4,
        d_vocab=11,
        act_fn="relu",
    )
    return HookedSAETransformer(cfg).eval()


TOKENS = torch.tensor([[0, 3, 5, 1, 9, 2], [4, 4, 7, 10, 6, 8]])


def edited(
    sae: SAE[Any], found: Decomposition, meta_latent: int, latents: list[int] | None
) -> SAE[Any]:
    """The same with the part subtracted from its rows."""
    other: Any = copy.deepcopy(sae)
    coefficients = found.coefficients.to_dense()[:, meta_latent].clone()
    if latents is not None:
        others = torch.ones(D_SAE, dtype=torch.bool)
        others[latents] = False
        coefficients[others] = 0
    norms = other.W_dec.detach().norm(dim=1)
    change = (norms * coefficients)[:, None] * found.directions[meta_latent]
    other.W_dec.data -= change
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        # its codes are divided by the norms of the rows that it has
        original = sae.W_dec.detach().norm(dim=1)
        other.W_dec.data /= original[:, None]
        other.W_enc.data *= original
        other.b_enc.data *= original  # type: ignore[operator]
        other.cfg.rescale_acts_by_decoder_norm = False
    return other


def most_used(found: Decomposition) -> int:
    return int(found.use.argmax())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("normalize", ["layer_norm", "none"])
def test_a_part_taken_out_is_a_decoder_row_without_it(
    architecture: str, normalize: str, model: Any
) -> None:
    sae = made(architecture, normalize)
    found = parts_of_rows(sae)
    meta_latent = most_used(found)
    some = found.latents_of(meta_latent).latents[::2].tolist()
    before = model.run_with_saes(TOKENS, saes=[sae])
    for latents in (None, some):
        with without_part(sae, found, meta_latent, latents):
            logits = model.run_with_saes(TOKENS, saes=[sae])
        by_hand = edited(sae, found, meta_latent, latents)
        wanted = model.run_with_saes(TOKENS, saes=[by_hand])
        assert torch.allclose(logits, wanted, atol=1e-4)
        assert not torch.allclose(logits, before, atol=1e-3)
    assert torch.equal(model.run_with_saes(TOKENS, saes=[sae]), before)


def test_with_the_error_term_only_the_part_is_missing(
    model: Any,
) -> None:
    sae = made("jumprelu")
    found = parts_of_rows(sae)
    meta_latent = most_used(found)
    _, cache = model.run_with_cache(TOKENS)
    x = cache[HOOK]
    acts = sae.encode(x)
    column = found.coefficients.to_dense()[:, meta_latent]
    amounts = acts @ (column * sae.W_dec.norm(dim=1)) * sae.ln_std[..., 0]  # type: ignore[operator]
    changed = x - amounts[..., None] * found.directions[meta_latent]

    def put(_x: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        return changed

    wanted = model.run_with_hooks(TOKENS, fwd_hooks=[(HOOK, put)])
    with without_part(sae, found, meta_latent):
        model.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
        # the first run's clean-up must not have taken it away
        logits = model.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
    assert torch.allclose(logits, wanted, atol=1e-4)
    plain = model.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
    assert torch.allclose(plain, model(TOKENS), atol=1e-4)


def test_steering_adds_the_direction_in_the_decoders_space(
    model: Any,
) -> None:
    sae = made("standard")
    found = parts_of_rows(sae)
    x = torch.randn(5, D_IN)
    recons = sae(x)
    with steered(sae, found, 3, 2.5):
        moved = sae(x) - recons
        logits = model.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
    deviation = x.std(dim=1, keepdim=True)
    assert torch.allclose(moved, 2.5 * deviation * found.directions[3], atol=1e-4)
    assert not torch.allclose(logits, model(TOKENS), atol=1e-3)
    assert torch.equal(sae(x), recons)


def test_an_error_inside_leaves_no_hook(model: Any) -> None:
    sae = made("standard")
    found = parts_of_rows(sae)
    before = model.run_with_saes(TOKENS, saes=[sae])
    with pytest.raises(RuntimeError), without_part(sae, found, most_used(found)):
        raise RuntimeError
    assert torch.equal(model.run_with_saes(TOKENS, saes=[sae]), before)


def test_what_cannot_be_taken_out_is_said() -> None:
    sae = made("standard")
    found = parts_of_rows(sae)
    meta_latent = most_used(found)
    without = [i for i in range(D_SAE) if meta_latent not in found.parts_of(i).latents]
    other = copy.deepcopy(sae)
    other.W_dec.data[5] *= -1
    for call, error, message in (
        (lambda: without_part(sae, found, 8), IndexError, "no meta latent 8"),
        (lambda: steered(sae, found, -1, 1.0), IndexError, "no meta latent -1"),
        (lambda: without_part(sae, found, 0, [64]), IndexError, "no latent 64"),
        (
            lambda: without_part(sae, found, meta_latent, without[:1]),
            ValueError,
            "None of the latents .* is made of",
        ),
        (
            lambda: without_part(other, found, meta_latent),
            ValueError,
            "another SAE: decoder row 5 points elsewhere",
        ),
        (
            lambda: steered(made("standard", d_sae=32), found, 0, 1.0),
            ValueError,
            "another SAE: its rows are",
        ),
    ):
        with pytest.raises(error, match=message), call():
            pass


def test_an_architecture_that_hides_its_activations_is_refused() -> None:
    sae = made("matching_pursuit", "none")
    found = parts_of_rows(sae)
    with (
        without_part(sae, found, most_used(found)),
        pytest.raises(ValueError, match="'matching_pursuit' does not pass its"),
    ):
        sae(torch.randn(3, D_IN))


@pytest.mark.slow
def test_it_acts_in_a_bridge_as_on_the_models_own_weights(smollm2: Path) -> None:
    pytest.importorskip("transformer_lens.model_bridge")
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    from benchmarks.decompose_example import META_LATENT, RELEASE

    bridge: Any = SAETransformerBridge.boot_transformers(str(smollm2), device="cpu")
    sae: Any = SAE.from_pretrained(RELEASE)  # type: ignore[call-arg]
    found = decomposition(RELEASE)
    tokens = bridge.tokenizer("She put the cup on", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hook, read = "blocks.11.hook_out", []  # by the name that the bridge gives it
        keep = [(hook, lambda x, hook: read.append(x))]  # noqa: ARG005
        plain = bridge.run_with_hooks(tokens, fwd_hooks=keep)
        x = read[0]
        acts = sae.encode(x)
        column = found.coefficients.to_dense()[:, META_LATENT]
        amounts = acts @ (column * sae.W_dec.norm(dim=1)) * sae.ln_std[..., 0]
        changed = x - amounts[..., None] * found.directions[META_LATENT]
        wanted = bridge.run_with_hooks(
            tokens,
            fwd_hooks=[(hook, lambda _x, hook: changed)],  # noqa: ARG005
        )
        bridge.add_sae(sae, use_error_term=True)
        with without_part(sae, found, META_LATENT):
            logits = bridge(tokens)
        again = bridge(tokens)
    assert torch.allclose(logits, wanted, atol=1e-3)
    assert not torch.allclose(logits, plain, atol=1e-2)
    assert torch.allclose(again, plain, atol=1e-3)
