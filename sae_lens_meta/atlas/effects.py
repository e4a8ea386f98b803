"""
The tokens that a direction promotes and suppresses: its logit effect.

It is what the direction adds to the logits on the way past all later layers, through the last
normalisation and the unembedding alone (the "logit lens"). It is known up to a factor, which a
normalisation takes from the whole residual stream; so effects are given in standard deviations
over the vocabulary.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

BLOCK_ROWS = 256
# what is added to, or is, the residual stream
_STREAM = re.compile(
    r"blocks\.\d+\.(hook_resid_(pre|mid|post)|hook_mlp_out|hook_attn_out)"
)
_LAST_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm")


@dataclass
class Effects:
    """
    Attributes:
        promoted: `[d, n]` tokens, the most promoted first.
        promoted_by: `[d, n]`, by how many standard deviations above the mean token.
        suppressed: `[d, n]`, the most suppressed first.
        suppressed_by: `[d, n]`, below 0.
    """

    promoted: torch.Tensor
    promoted_by: torch.Tensor
    suppressed: torch.Tensor
    suppressed_by: torch.Tensor


def reads_the_stream(hook: str | None) -> bool:
    """
    Whether a hook, by TransformerLens's name, is one whose directions reach the unembedding as they are.
    """
    return hook is not None and _STREAM.fullmatch(hook) is not None


@torch.no_grad()
def unembedding(model: Any) -> torch.Tensor | None:
    """
    What a direction of the residual stream is multiplied by to become logits, `[vocabulary, d_model]`.

    The last normalisation is in it: its weights, and where it takes the mean away, that.

    Args:
        model: a HookedTransformer, or a model of transformers as SAELens wraps it.

    Returns:
        None for a model whose last normalisation or unembedding is not where it is looked for.
    """
    inner = getattr(model, "model", None)
    if hasattr(model, "W_U"):
        weights, norm = model.W_U.t(), getattr(model, "ln_final", None)
    elif inner is not None and inner.get_output_embeddings() is not None:
        weights, norm = inner.get_output_embeddings().weight, _last_norm(inner)
    else:
        return None
    if norm is None:
        return None
    # rows beyond the tokenizer's are there to fill a multiple of 64, and mean nothing
    weights = weights.float()[: len(model.tokenizer)]
    # of +1 and -1 in turn mean and deviation are 0 and 1, and a normalisation shows its weights
    signs = torch.ones(weights.shape[1], device=weights.device)
    signs[1::2] = -1
    scale = _odd_part(norm, signs, weights.dtype) / signs
    weights = weights * scale
    of_ones = _odd_part(norm, torch.ones_like(signs), weights.dtype)
    if of_ones.abs().max() < 1e-2 * scale.abs().max():  # it takes the mean away
        weights = weights - weights.mean(dim=1, keepdim=True)
    return weights.cpu()


def _odd_part(norm: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a normalisation makes of `x`, its bias left out."""
    own = next(iter(norm.parameters()), x).dtype
    with torch.no_grad():
        above, below = (norm(v.to(own)[None, None])[0, 0].to(dtype) for v in (x, -x))
    return (above - below) / 2


def _last_norm(model: Any) -> Any:
    base = getattr(model, "base_model", model)
    for holder in (base, getattr(base, "decoder", None)):
        for name in _LAST_NORMS:
            if (norm := getattr(holder, name, None)) is not None:
                return norm
    return None


@torch.no_grad()
def logit_effects(
    directions: torch.Tensor, unembedding: torch.Tensor, n: int, said: str
) -> Effects:
    """
    The tokens that each of `directions`, `[d, d_model]`, promotes and suppresses most.

    Args:
        directions: of the residual stream.
        unembedding: of the model, `[vocabulary, d_model]`.
        n: tokens on each side.
        said: what a progress bar calls it.
    """
    n = min(n, len(unembedding))
    found = []
    starts = range(0, len(directions), BLOCK_ROWS)
    for first in tqdm(starts, desc=said, leave=False, disable=len(starts) < 4):
        logits = directions[first : first + BLOCK_ROWS].float() @ unembedding.t()
        mean = logits.mean(dim=1, keepdim=True)
        deviation = logits.std(dim=1, keepdim=True).clamp(min=1e-12)
        logits = (logits - mean) / deviation
        high, low = logits.topk(n, dim=1), logits.topk(n, dim=1, largest=False)
        found.append((high.indices, high.values, low.indices, low.values))
    return Effects(*(torch.cat(part) for part in zip(*found, strict=True)))
