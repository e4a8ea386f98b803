"""One activation, two names: a module of transformers, and a hook of TransformerLens."""

import re
from collections.abc import Collection

# modules of transformers whose output is the residual stream after a block
_BLOCKS = (
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "model.language_model.layers",
    "model.decoder.layers",
)
_MODULE = re.compile(rf"({'|'.join(map(re.escape, _BLOCKS))})\.(\d+)")
# where the blocks are in models whose name begins so
_FAMILIES = {
    r"(distil)?gpt2(-|$)": "transformer.h",
    r"(pythia|gpt-neox)-": "gpt_neox.layers",
    r"opt-": "model.decoder.layers",
    r"(gemma(-2)?-\d+b|(meta-)?llama-[23]|mistral-\d|smollm2?-|qwen(1\.5|2|2\.5|3)-\d)": "model.layers",
}
_SEES = re.compile(r"vl|vision")  # whose language model lies deeper
_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")


def transformer_lens_name(hook: str) -> str | None:
    """
    TransformerLens's name of a hook; None for a module of transformers that is no block.

    `model.layers.11` is `blocks.11.hook_resid_post`; what is TransformerLens's already stays.
    """
    if found := _MODULE.fullmatch(hook):
        return f"blocks.{found[2]}.hook_resid_post"
    return hook if hook.startswith(("blocks.", "hook_", "ln_final.")) else None


def transformers_name(hook: str, model: str | None) -> str | None:
    """
    The name of a hook in transformers; None where it has none, or the model is of no known family.

    Args:
        hook: as recorded, of either kind.
        model: the Hub's id or TransformerLens's name; the family is told by its last part.
    """
    if transformer_lens_name(hook) != hook:
        return hook
    family = (model or "").rsplit("/", 1)[-1].lower()
    found = _HOOK.fullmatch(hook)
    if found is None or _SEES.search(family):
        return None
    block = int(found[1]) - (found[2] == "pre")
    named = (blocks for begins, blocks in _FAMILIES.items() if re.match(begins, family))
    blocks = next(named, None)
    return None if blocks is None or block < 0 else f"{blocks}.{block}"


def both_names(hook: str | None) -> dict[str, str]:
    """
    What the metadata of an SAE says of its hook where that is named as in transformers.

    By TransformerLens's name `HookedSAETransformer` and `SAETransformerBridge` attach an SAE; the
    other is kept under SAELens's key for it.
    """
    name = transformer_lens_name(hook) if hook else None
    if name is None or hook is None or name == hook:
        return {}
    return {"hook_name": name, "hf_hook_name": hook}


def name_in(hook: str, known: Collection[str]) -> str | None:
    """
    What a model calls the activation `hook`.

    Args:
        hook: its name, of either kind.
        known: all names that the model has.

    Returns:
        One of `known`, or None where the model has it under neither name.
    """
    names = [hook, transformer_lens_name(hook)]
    if found := _HOOK.fullmatch(hook):
        block = int(found[1]) - (found[2] == "pre")
        names += [f"{blocks}.{block}" for blocks in _BLOCKS]
    return next((name for name in names if name in known), None)
