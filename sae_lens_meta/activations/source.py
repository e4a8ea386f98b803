"""Where activations to measure come from: a language model's hook, and text."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from sae_lens import ActivationsStore
from sae_lens.util import get_special_token_ids
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.held_out import loaded
from sae_lens_meta.activations.language_model import fitted, load_language_model
from sae_lens_meta.activations.measured_on import (
    MeasuredOn,
    SourceConfig,
    assumed_documents,
    completed,
    described,
    documents_of,
    in_place_of,
    repeated_documents,
)
from sae_lens_meta.activations.rows_of_tokens import (
    TAKEN_FOR_GRANTED,
    check_rows_of_tokens,
)
from sae_lens_meta.activations.stream import (
    ActivationBatch,
    stream_activations,
    stream_tokens,
)
from sae_lens_meta.saved import Reading, SavedSAE, check_device
from sae_lens_meta.training.checks import hook_width

CONTEXTS_PER_BATCH = 8
MIXED = 16  # batches whose tokens are shuffled together


@contextmanager
def without_advice() -> Iterator[None]:
    """Without SAELens's warnings about the length of a text and the speed of its tokenizer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The training dataset contains fewer")
        warnings.filterwarnings("ignore", "All samples in the training dataset")
        warnings.filterwarnings("ignore", "Dataset is not tokenized")
        yield


@dataclass
class ActivationSource:
    """
    A loaded model and text, to read the activations of one hook from.

    Attributes:
        model: the language model.
        text: documents.
        reading: how, completely; `hook` by its name in `model`.
        d_in: width of the activations.
        device: of the activations.
    """

    model: HookedRootModule
    text: Dataset | IterableDataset
    reading: Reading
    d_in: int
    device: str
    _n_read: dict[int, int] = field(default_factory=dict, repr=False)

    def store(self, n_tokens: int) -> ActivationsStore:
        """SAELens's store of the hook's activations, from the start of the text."""
        reading: Any = self.reading
        special = self.special_tokens
        with without_advice():
            return ActivationsStore(
                model=self.model,
                dataset=self.text,
                streaming=True,
                hook_name=reading.hook,
                hook_head_index=reading.head,
                context_size=reading.context_size,
                d_in=self.d_in,
                n_batches_in_buffer=CONTEXTS_PER_BATCH,
                total_training_tokens=n_tokens,
                store_batch_size_prompts=CONTEXTS_PER_BATCH,
                train_batch_size_tokens=CONTEXTS_PER_BATCH * reading.context_size,
                prepend_bos=reading.prepend_bos,
                normalize_activations="none",  # which is the SAE's own affair
                device=torch.device(self.device),
                dtype="float32",
                seqpos_slice=reading.seqpos_slice,
                exclude_special_tokens=None
                if special is None
                else torch.tensor(special, dtype=torch.long),
                disable_concat_sequences=not reading.concatenate,
                sequence_separator_token=None
                if reading.separator == "none"
                else reading.separator,
                use_chat_formatting=reading.chat,
                autocast_lm=reading.autocast_lm,
            )

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of the whole contexts that are read at once."""
        assert self.reading.context_size is not None  # as `completed` has seen to
        return CONTEXTS_PER_BATCH * self.reading.context_size

    def stream(self, n_tokens: int, n_skipped: int = 0) -> Iterator[ActivationBatch]:
        """One pass over at most `n_tokens` tokens; see `stream_activations`."""
        n_read = 0
        for batch in stream_activations(self.store(n_tokens), n_tokens, n_skipped):
            n_read += batch.n_read
            yield batch
        if n_skipped == 0:
            self._n_read[n_tokens] = n_read

    def tokens(self, n_tokens: int) -> Iterator[torch.Tensor]:
        """The tokens that `stream` reads, in whole contexts; see `stream_tokens`."""
        return stream_tokens(self.store(n_tokens), n_tokens)

    def n_read(self, n_tokens: int) -> int:
        """
        Tokens of the whole contexts that a pass over `n_tokens` reads, fewer where the text ends.

        An SAE may read some of them alone: no special ones, or a few positions.
        """
        if n_tokens not in self._n_read:
            self._n_read[n_tokens] = sum(t.numel() for t in self.tokens(n_tokens))
        return self._n_read[n_tokens]

    def shortfall(self, n_tokens: int) -> list[str]:
        """What is to be said where the text ends before `n_tokens` are read; nothing where it does not."""
        assert self.reading.context_size is not None
        n_read = self.n_read(n_tokens)
        if n_read > n_tokens - self.reading.context_size:
            return []
        return [f"The text ended after {n_read:,} of {n_tokens:,} tokens."]

    @property
    def special_tokens(self) -> list[int] | None:
        """Ids that are left out, or None."""
        excluded = self.reading.exclude_special_tokens
        if not excluded:
            return None
        tokenizer: Any = self.model.tokenizer
        return get_special_token_ids(tokenizer) if excluded is True else list(excluded)


def load_source(
    cfg: SourceConfig,
    saes: Sequence[SavedSAE],
    to_calibrate: bool = False,
    model: HookedRootModule | None = None,
) -> tuple[ActivationSource, MeasuredOn]:
    """
    Loads the model and text that `saes` record and `cfg` names.

    Args:
        cfg: what is to be read, and what goes before the record.
        saes: that read the same activations (`check_comparable`).
        to_calibrate: whether thresholds are to be taken, which then have text of their own.
        model: the language model, where it is loaded already.

    Raises:
        ValueError: if what is needed is neither given nor recorded, the hook is of another
            width, the contexts are longer than the model's, the text is too short, or it is one
            of tokens that are not as the SAE reads them.
        FileNotFoundError: if a path does not exist.
    """
    check_device(cfg.device)
    reading, options = completed(cfg, saes[0].reading)
    documents = documents_of(cfg, saes, to_calibrate)
    _, text = loaded(cfg.dataset, documents)
    replaced: list[str] = []
    if model is None:
        model, reading, replaced = load_language_model(reading, cfg.device)
    reading = fitted(reading, model)
    tokenizer: Any = model.tokenizer
    is_of_tokens = not reading.chat and check_rows_of_tokens(
        cfg.dataset, text, reading.prepend_bos, tokenizer
    )
    width = hook_width(model, str(reading.hook), reading.head)
    if width != saes[0].d_in:
        raise ValueError(
            f"The SAE has d_in={saes[0].d_in}, but {reading.hook!r} of {reading.model!r} is "
            f"{width} wide. Give the model that the SAE was trained on."
        )
    measured_on = described(cfg, reading, documents, saes, to_calibrate)
    measured_on.overridden = [*in_place_of(options, saes[0].reading), *replaced]
    assumed = assumed_documents(cfg, documents, saes)
    assumed += [TAKEN_FOR_GRANTED] * is_of_tokens
    measured_on.options, measured_on.assumed = options, assumed
    measured_on.warnings += repeated_documents(cfg.dataset, documents, saes)
    return ActivationSource(model, text, reading, width, cfg.device), measured_on


def mixed(batches: Iterator[ActivationBatch], n_tokens: int) -> Iterator[torch.Tensor]:
    """
    Activations `[n_tokens, d_in]` of tokens from here and there in the text, as training has them.

    BatchTopK selects over a batch: tokens of one document would compete with each other alone. Of
    every `MIXED * n_tokens` that are shuffled half go out, in an order that is always the same; twice
    as many are held for a moment. A rest below half of `n_tokens` is dropped unless it is all there is.
    """
    generator = torch.Generator().manual_seed(0)
    held: list[torch.Tensor] = []
    n_held, is_first = 0, True
    for batch in batches:
        held.append(batch.rows)
        n_held += len(held[-1])
        if n_held >= MIXED * n_tokens:
            rows = _shuffled(held, generator)
            n_out = n_held // 2 // n_tokens * n_tokens
            held, n_held, is_first = [rows[n_out:].clone()], n_held - n_out, False
            yield from rows[:n_out].split(n_tokens)
            del rows  # before as many more are gathered
    if held:
        for part in _shuffled(held, generator).split(n_tokens):
            if is_first or 2 * len(part) >= n_tokens:
                yield part
            is_first = False


def _shuffled(held: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    rows = torch.cat(held)
    held.clear()
    return rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
