"""Measures against brute force in numpy and against cases known by construction."""

from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import AbsTopKSAE, AbsTopKSAEConfig, JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.activations.stream import ActivationBatch, stream_activations
from sae_lens_meta.measures.meta_structure import meta_explained_variance
from sae_lens_meta.measures.reconstruction import ReconstructionMeter
from sae_lens_meta.measures.top_contexts import TopContexts


@pytest.fixture
def sae() -> JumpReLUSAE:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=16, d_sae=20))
    generator = torch.Generator().manual_seed(0)
    sae.W_enc.data = torch.randn(16, 20, generator=generator)
    sae.W_dec.data = 0.2 * sae.W_enc.data.T
    sae.threshold.data.fill_(3.0)
    sae.threshold.data[7] = 1e6
    return sae


def test_reconstruction_figures_match_numpy_in_float64(
    sae: JumpReLUSAE, random_activations: torch.Tensor
) -> None:
    meter = ReconstructionMeter(sae)
    for batch in random_activations.split(70):
        meter.update(batch)
    result = meter.result()

    x = random_activations.double().numpy()
    W_enc, W_dec = (t.detach().double().numpy() for t in (sae.W_enc, sae.W_dec))
    pre = x @ W_enc
    acts = pre * (pre > sae.threshold.detach().numpy())
    std = x.std(1, ddof=1, keepdims=True)
    error = (acts @ W_dec - x) / std
    normalized = (x - x.mean(1, keepdims=True)) / std
    total = ((normalized - normalized.mean(0)) ** 2).sum()
    assert result.normalized_l2 == pytest.approx((error**2).mean(), rel=1e-5)
    assert result.explained_variance == pytest.approx(
        1 - (error**2).sum() / total, abs=1e-5
    )
    assert result.l0 == pytest.approx((acts > 0).sum(1).mean())
    assert result.n_silent == int((acts.max(0) <= 0).sum()) >= 1
    assert result.n_tokens == 300


def test_reconstruction_is_independent_of_the_scale_of_a_token(
    sae: JumpReLUSAE, random_activations: torch.Tensor
) -> None:
    """A vector 1,000 times as long counts as much as any other."""
    sae.threshold.data.fill_(0.0)  # homogeneous: acts scale with the input
    results = []
    for scale in (torch.ones(300, 1), torch.logspace(0, 3, 300)[:, None]):
        meter = ReconstructionMeter(sae)
        meter.update(random_activations * scale)
        results.append(meter.result())
    assert results[0].normalized_l2 == pytest.approx(results[1].normalized_l2, rel=1e-4)


def test_a_constant_vector_leaves_the_figures_finite(sae: JumpReLUSAE) -> None:
    meter = ReconstructionMeter(sae)
    meter.update(torch.cat([torch.zeros(1, 16), torch.randn(20, 16)]))
    assert np.isfinite(list(vars(meter.result()).values())).all()


def test_an_sae_on_hook_z_takes_activations_with_joined_heads(
    sae: JumpReLUSAE, random_activations: torch.Tensor
) -> None:
    plain = ReconstructionMeter(sae)
    plain.update(random_activations)
    sae.turn_on_forward_pass_hook_z_reshaping()
    by_head = ReconstructionMeter(sae)
    by_head.update(random_activations)
    assert by_head.result() == plain.result()
    assert sae.hook_z_reshaping_mode, "left as it was"


def test_no_activations_is_an_error_not_a_nan(sae: JumpReLUSAE) -> None:
    with pytest.raises(ValueError, match="the stream was empty"):
        ReconstructionMeter(sae).result()


def test_top_contexts_are_the_strongest_of_the_whole_stream_one_of_each(
    sae: JumpReLUSAE, random_activations: torch.Tensor
) -> None:
    passage = torch.linspace(1, 2, 5)[:, None] * sae.W_enc[:, 3].detach()
    random_activations[60:65] = passage  # all along one passage latent 3 fires most
    activations = random_activations.reshape(6, 50, 16)
    tokens = torch.arange(300).reshape(6, 50)
    contexts = TopContexts(sae, [3, 7], n_top=4, n_before=5)
    for start in range(0, 6, 2):
        contexts.update(
            ActivationBatch(tokens[start : start + 2], activations[start : start + 2])
        )
    strength = sae.encode(random_activations)[:, 3].detach().numpy()
    by_context = strength.reshape(6, 50)
    best = by_context.argmax(1) + 50 * np.arange(6)
    order = best[np.argsort(-strength[best])][:4]
    assert order[0] == 64
    assert [peak.tokens[-1] for peak in contexts.peaks[3]] == order.tolist()
    assert [p.activation for p in contexts.peaks[3]] == pytest.approx(strength[order])
    for peak in contexts.peaks[3]:
        last = peak.tokens[-1]
        first = max(last - 5, last // 50 * 50)  # a context does not leave its prompt
        assert peak.tokens == list(range(first, last + 1))
    assert contexts.peaks[7] == [], "a latent that never fires has no context"


def test_meta_structure_tells_a_shared_dictionary_from_random_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(20, 48, generator=generator)
    codes = torch.rand(400, 20, generator=generator)
    codes *= torch.rand(400, 20, generator=generator) < 0.12
    codes[codes.sum(1) == 0, 0] = 1.0
    mixtures = codes @ directions
    atoms = torch.randn(400, 48, generator=generator)
    # as far as the 1,500 smaller steps that are the default come
    shared, random = (
        meta_explained_variance(W, 36, 3, n_steps=150, lr=5e-3)
        for W in (mixtures, atoms)
    )
    assert shared > 0.9
    assert random < 0.5


def test_meta_structure_repeats_and_ignores_the_norm_of_a_row() -> None:
    W_dec = torch.randn(200, 24, generator=torch.Generator().manual_seed(0))
    scaled = W_dec * torch.linspace(0.1, 10, 200)[:, None]
    outside = torch.get_rng_state()
    first = meta_explained_variance(W_dec, 18, 2, n_steps=20)
    assert torch.equal(outside, torch.get_rng_state())
    assert meta_explained_variance(W_dec, 18, 2, n_steps=20) == first
    assert meta_explained_variance(scaled, 18, 2, n_steps=20) == pytest.approx(
        first, rel=1e-3
    )
    assert meta_explained_variance(W_dec, 18, 2, n_steps=20, seed=1) != first


class CountingStore:
    """Eight contexts of ten tokens, two at a time, in the interface of SAELens's store."""

    store_batch_size_prompts = 2
    context_size = 10
    seqpos_slice = (None,)
    exclude_special_tokens = None

    def __init__(self, n_batches: int = 4):
        self._batches = iter(range(n_batches))

    def get_batch_tokens(self, raise_at_epoch_end: bool) -> torch.Tensor:
        assert raise_at_epoch_end
        return torch.full((2, 10), next(self._batches))

    def get_activations(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[..., None].float()


@pytest.mark.parametrize(("asked", "read"), [(40, 40), (50, 50), (55, 50), (1000, 80)])
def test_stream_reads_what_was_asked_and_no_token_twice(asked: int, read: int) -> None:
    store: Any = CountingStore()
    batches = list(stream_activations(store, asked))
    assert sum(batch.tokens.numel() for batch in batches) == read
    values = [int(batch.tokens[0, 0]) for batch in batches]
    assert values == list(range(len(batches)))


def test_too_little_text_for_a_batch_is_an_error() -> None:
    store: Any = CountingStore(n_batches=0)
    with pytest.raises(ValueError, match="a batch is 2 contexts of 10"):
        list(stream_activations(store, 100))


def test_a_latent_of_an_abstopk_sae_fires_in_both_directions() -> None:
    sae = AbsTopKSAE(AbsTopKSAEConfig(d_in=8, d_sae=16, k=3))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    acts = sae.encode(x)
    assert (acts < 0).any(), "or there is nothing to test"
    meter = ReconstructionMeter(sae)
    meter.update(x)
    assert meter.result().l0 == 3
    assert np.array_equal(meter.fired, (acts != 0).sum(0).numpy())
    contexts = TopContexts(sae, range(16), n_top=1)
    contexts.update(
        ActivationBatch(torch.zeros(5, 10, dtype=torch.long), x.view(5, 10, 8))
    )
    strongest = [peaks[0].activation for peaks in contexts.peaks.values() if peaks]
    assert min(strongest) < 0 < max(strongest)
