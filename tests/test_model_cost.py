"""What an SAE costs the language model: of the tokens that it reads, and against 0 there alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from sae_lens import SAE, StandardSAE, StandardSAEConfig

from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.measures.evaluate import read_once
from sae_lens_meta.measures.model_cost import ModelCost
from tests.tiny_llama import CONTEXT, WIDTH, save_tiny_llama, tiny_source

ON_SOME_TOKENS = [
    {"exclude_special_tokens": True},
    {"seqpos_slice": (3, 5)},
    {"seqpos_slice": (3, 5), "exclude_special_tokens": True},
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ActivationSource:
    return tiny_source(save_tiny_llama(tmp_path_factory.mktemp("model")), n_held_out=20)


def reading(source: ActivationSource, settings: dict[str, Any]) -> ActivationSource:
    changed = replace(source.reading, **settings)
    return replace(source, reading=changed, _n_read={})


def zero_sae() -> SAE[Any]:
    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=8))
    for parameter in (sae.W_dec, sae.b_dec):
        parameter.data.zero_()
    return sae


def cost(source: ActivationSource, sae: SAE[Any], n: int, n_ce: int) -> ModelCost:
    (found,) = read_once({"sae": sae}, source, n, n_ce, lambda *_: None).values()
    return found[1]


@pytest.mark.parametrize("settings", [{}, *ON_SOME_TOKENS])
def test_a_reconstruction_by_0_recovers_nothing(
    source: ActivationSource, settings: dict[str, Any]
) -> None:
    found = cost(reading(source, settings), zero_sae(), 2048, 1024)
    assert found.ce_loss_with_sae != pytest.approx(found.ce_loss, rel=1e-7)
    assert found.ce_loss_recovered == pytest.approx(0, abs=1e-5)


def test_the_ablation_leaves_alone_what_the_sae_does_not_read(
    source: ActivationSource,
) -> None:
    some = reading(source, {"seqpos_slice": (3, 5)})
    found = cost(some, zero_sae(), 2048, 1024)
    store, hook_name = some.store(2048), some.reading.hook
    assert hook_name is not None
    losses = []
    for _ in range(4):
        tokens = store.get_batch_tokens(8)

        def zeroed(activations: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
            activations[:, 3:5] = 0
            return activations

        with torch.no_grad():
            logits: Any = some.model.run_with_hooks(
                tokens,
                return_type="logits",
                prepend_bos=False,
                fwd_hooks=[(hook_name, zeroed)],
            )
        of_token = torch.nn.functional.cross_entropy(
            logits[:, 3:5].flatten(0, 1), tokens[:, 4:6].flatten()
        )
        losses.append(of_token.item())
    assert found.ce_loss_with_sae == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_as_many_contexts_are_run_as_are_asked_for(source: ActivationSource) -> None:
    some = reading(source, {"seqpos_slice": (3, 5)})
    found = cost(some, zero_sae(), 4096, 1024)
    assert found.n_tokens == 1024 // CONTEXT * 2
    assert cost(source, zero_sae(), 2 * CONTEXT, 1024).n_tokens == 2 * CONTEXT


def test_an_sae_of_the_last_position_alone_is_refused_before_anything_is_read(
    source: ActivationSource,
) -> None:
    for positions in ((-1, None), (CONTEXT - 1, CONTEXT)):
        last = reading(source, {"seqpos_slice": positions})
        with pytest.raises(ValueError, match="position 31 alone of a context of 32"):
            cost(last, zero_sae(), 2048, 1024)
        assert last._n_read == {}


def test_where_a_text_ends_is_said_in_tokens_of_whole_contexts(
    source: ActivationSource,
) -> None:
    some = reading(source, {"seqpos_slice": (3, 5)})
    assert some.shortfall(2048) == []
    (said,) = some.shortfall(10_000_000)
    n_read = sum(batch.n_read for batch in some.stream(10_000_000))
    assert said == f"The text ended after {n_read:,} of 10,000,000 tokens."
