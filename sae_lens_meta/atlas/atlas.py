"""How an atlas comes about: read, take apart, draw, write."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sae_lens_meta.activations.language_model import load_language_model
from sae_lens_meta.activations.measured_on import (
    MeasuredOn,
    SourceConfig,
    completed,
)
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.atlas.attached import read_comparison, read_explanations
from sae_lens_meta.atlas.collect import Observed, observe
from sae_lens_meta.atlas.contents import contents_of
from sae_lens_meta.atlas.effects import (
    reads_the_stream,
    unembedding,
)
from sae_lens_meta.atlas.facts import Facts, facts_of
from sae_lens_meta.atlas.page import write_atlas
from sae_lens_meta.decomposition.decompose import decomposition
from sae_lens_meta.decomposition.folder import read
from sae_lens_meta.decomposition.given import given_sae
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.zoo.names import load_release, release_folders

NO_TEXT = "none"  # for a dataset


@dataclass
class Attached:
    """
    What goes into an atlas beside the SAE.

    Attributes:
        decomposition: folder that `sae-lens-meta decompose` wrote; where None, that in the SAE's
            folder, or else the meta SAE that was trained with it, or else one fitted now.
        autointerp: an autointerp.json, or the folder of one.
        comparison: a comparison.json, or the folder of one.
    """

    decomposition: Path | None = None
    autointerp: Path | None = None
    comparison: Path | None = None


@dataclass
class Read:
    """
    What was read with the language model.

    Attributes:
        tokenizer: of it; None where it was not loaded.
        unembedding: `[vocabulary, d_in]`; None where it does not apply.
        observed: from a pass over text; None without one.
        measured_on: what was read.
        notes: what the reader should know.
    """

    tokenizer: Any = None
    unembedding: torch.Tensor | None = None
    observed: Observed | None = None
    measured_on: MeasuredOn | None = None
    notes: list[str] | None = None


@contextmanager
def saved_sae(name: str, sae_id: str | None) -> Iterator[SavedSAE]:
    """
    An SAE on disk, by its folder or as a release; one that SAELens converts, for the time being.

    Raises:
        ValueError, OSError: as `load_release`.
    """
    if Path(name).is_dir():
        yield SavedSAE.read(Path(name))
    elif folders := release_folders(name, sae_id):
        yield SavedSAE.read(folders[0])
    else:
        with TemporaryDirectory() as folder:
            load_release(name, sae_id).save_model(folder)
            yield SavedSAE.read(Path(folder))


def make_atlas(
    name: str,
    sae_id: str | None,
    attached: Attached,
    source: SourceConfig,
    path: Path,
) -> Facts:
    """
    Writes the atlas of an SAE.

    Args:
        name: a folder, or a release of this package or of SAELens.
        sae_id: which of a release; may be left out where there is one.
        attached: what else is known of it.
        source: text and language model; without text where its dataset is "none".
        path: of the file to write.

    Returns:
        What the page says of itself.

    Raises:
        ValueError, OSError: if the SAE, the text or what is attached cannot be read, or are not of
            one another.
    """
    with saved_sae(name, sae_id) as saved:
        given = given_sae(saved.path)
        explained = attached.autointerp and read_explanations(
            attached.autointerp, saved
        )
        matched = attached.comparison and read_comparison(
            attached.comparison, saved, given.W_dec
        )
        found = (
            read(attached.decomposition, given)
            if attached.decomposition
            else decomposition(saved.path)
        )
        seen = _read(saved, source)
    contents = contents_of(found, seen.observed, seen.unembedding)
    contents.explained, contents.matched = explained or None, matched or None
    facts = facts_of(
        saved, found, seen.measured_on, seen.observed and seen.observed.n_tokens
    )
    facts.notes += seen.notes or []
    write_atlas(Path(name).name, contents, facts, path, seen.tokenizer)
    return facts


def _read(saved: SavedSAE, cfg: SourceConfig) -> Read:
    """Loads the language model where it is needed, and reads the text where there is one."""
    if cfg.dataset == NO_TEXT:
        if cfg.model is None:
            return Read(
                notes=[
                    "Made without a language model: which tokens latents promote is not known."
                ]
            )
        reading, _, _ = completed(cfg, saved.reading)
        model, reading, _ = load_language_model(reading, cfg.device)
        seen = Read(model.tokenizer)
    else:
        source, measured_on = load_source(cfg, [saved])
        model, reading = source.model, source.reading
        observed = observe(saved.load(cfg.device), source, cfg.tokens)
        seen = Read(model.tokenizer, observed=observed, measured_on=measured_on)
    if reads_the_stream(reading.transformer_lens_hook):
        seen.unembedding = unembedding(model)
    if seen.unembedding is None:
        seen.notes = [
            f"Which tokens latents promote is not known for {reading.hook} of this model."
        ]
    return seen
