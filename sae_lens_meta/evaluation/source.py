"""Where held-out activations come from: a language model, a hook, and text."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from sae_lens import SAE, ActivationsStore
from sae_lens.load_model import load_model
from transformer_lens.HookedRootModule import HookedRootModule

from sae_lens_meta.checks import hook_width
from sae_lens_meta.evaluation.activations import ActivationBatch, stream_activations
from sae_lens_meta.gguf import convert_gguf, smollm2_gguf
from sae_lens_meta.text import PYDOC, load_text

SMOLLM2 = "smollm2"
CONTEXTS_PER_BATCH = 8


@dataclass
class SourceConfig:
    """
    The language model and the text that an SAE is measured on.

    Args:
        model (str | None): `smollm2`, the path of a GGUF file, or a model that SAELens loads.
            By default the one that the SAE was trained on.
        model_class (str): AutoModelForCausalLM or HookedTransformer.
        dataset (str): `pydoc`, a .jsonl, .jsonl.gz or .txt file, or a dataset on the Hub.
        held_out_documents (int): Documents to read: those that `sae-lens-meta demo` keeps from
            training when it is given the same number and `text_seed`.
        first_document (int): Documents to pass over before them, for instance those that
            another training has read.
        text_seed (int): Seed of the order of the documents of `pydoc` and of a file.
        tokens (int): Tokens to read, as far as the documents go.
        context_size (int): Tokens of one context of the language model.
        device (str): Device of the model and the SAE.
    """

    model: str | None = None
    model_class: str = "AutoModelForCausalLM"
    dataset: str = PYDOC
    held_out_documents: int = 12
    first_document: int = 0
    text_seed: int = 42
    tokens: int = 20_000
    context_size: int = 128
    device: str = "cpu"


@contextmanager
def without_advice() -> Iterator[None]:
    """Without SAELens's warnings about the length of a training and the speed of its tokenizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The training dataset contains fewer")
        warnings.filterwarnings("ignore", "Dataset is not tokenized")
        yield


@dataclass
class ActivationSource:
    """A loaded model and text, to read activations of any of its hooks from."""

    model: HookedRootModule
    text: Dataset | IterableDataset
    context_size: int
    device: str

    def store(self, sae: SAE[Any], n_tokens: int) -> ActivationsStore:
        """SAELens's store of the activations that `sae` reads, from the start of the text."""
        with without_advice():
            return ActivationsStore.from_sae(
                self.model,
                sae,
                dataset=self.text,
                context_size=self.context_size,
                store_batch_size_prompts=CONTEXTS_PER_BATCH,
                total_tokens=n_tokens,
                device=self.device,
            )

    def stream(
        self, sae: SAE[Any], n_tokens: int, n_skipped: int = 0
    ) -> Iterator[ActivationBatch]:
        """One pass over at most `n_tokens` tokens; see `stream_activations`."""
        return stream_activations(self.store(sae, n_tokens), n_tokens, n_skipped)


def load_source(cfg: SourceConfig, sae: SAE[Any]) -> ActivationSource:
    """
    Loads the model and text that `cfg` names, for the hook of `sae`.

    Raises:
        ValueError: if no model is named or recorded, or the hook is of another width.
        FileNotFoundError: if a path does not exist.
    """
    name = cfg.model or sae.cfg.metadata.model_name
    if not name:
        raise ValueError(
            "The SAE does not record the model it was trained on. Give --model."
        )
    _, text = load_text(
        cfg.dataset, cfg.held_out_documents, cfg.text_seed, cfg.first_document
    )
    metadata = sae.cfg.metadata
    is_its_own = cfg.model_class == metadata.model_class_name
    model = load_model(
        cfg.model_class,
        model_path(name),
        device=cfg.device,
        # for instance its dtype, which the activations depend on
        model_from_pretrained_kwargs=metadata.model_from_pretrained_kwargs
        if is_its_own
        else None,
    )
    width = hook_width(model, sae.cfg.metadata.hook_name)
    if width != sae.cfg.d_in:
        raise ValueError(
            f"The SAE has d_in={sae.cfg.d_in}, but {sae.cfg.metadata.hook_name!r} of "
            f"{name!r} is {width} wide. Give the model that the SAE was trained on."
        )
    return ActivationSource(model, text, cfg.context_size, cfg.device)


def regroup(
    batches: Iterator[ActivationBatch], n_tokens: int
) -> Iterator[torch.Tensor]:
    """
    Activations `[n_tokens, d_in]` of several batches at a time.

    BatchTopK selects over thousands of tokens in training; a rest too short to compare
    with them, below half of `n_tokens`, is dropped unless it is all there is.
    """
    gathered: list[torch.Tensor] = []
    n_gathered, is_first = 0, True
    for batch in batches:
        gathered.append(batch.activations.flatten(0, 1))
        n_gathered += len(gathered[-1])
        if n_gathered >= n_tokens:
            yield torch.cat(gathered)
            gathered, n_gathered, is_first = [], 0, False
    if gathered and (is_first or 2 * n_gathered >= n_tokens):
        yield torch.cat(gathered)


def model_path(model: str) -> str:
    """What SAELens loads `model` from; a GGUF file is converted once and kept in the cache."""
    if model != SMOLLM2 and not model.endswith(".gguf"):
        return model
    gguf = smollm2_gguf() if model == SMOLLM2 else Path(model)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return str(convert_gguf(gguf, cache / "sae_lens_meta" / gguf.stem))
