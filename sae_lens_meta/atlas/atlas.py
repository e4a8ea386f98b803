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
from sae_lens_meta.activations.source import ActivationSource, load_source
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
from sae_lens_meta.hooks import transformer_lens_name
from sae_lens_meta.measures.geometry import checked_unit_rows
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
class Loaded:
    """
    The language model and the text of an atlas, as far as there are any.

    Attributes:
        model: the language model; None where it is not needed.
        hook: that the SAE reads, by its name in the model.
        source: of activations; None without text.
        measured_on: the text; None without one.
    """

    model: Any = None
    hook: str | None = None
    source: ActivationSource | None = None
    measured_on: MeasuredOn | None = None

    def unembedding(self) -> tuple[torch.Tensor | None, list[str]]:
        """`[vocabulary, d_in]`, or None and why there is none."""
        if self.model is None:
            return None, [
                "Made without a language model: what latents promote is not known."
            ]
        name = transformer_lens_name(self.hook) if self.hook else None
        found = unembedding(self.model) if reads_the_stream(name) else None
        if found is None:
            return None, [
                f"What latents promote is not known for {self.hook} of this model."
            ]
        return found, []


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
    # what can be wrong is looked at before what takes long
    with saved_sae(name, sae_id) as saved:
        given = given_sae(saved.path)
        checked_unit_rows(given.W_dec)
        explained = attached.autointerp and read_explanations(
            attached.autointerp, saved
        )
        loaded = _loaded(saved, source)
        matched = attached.comparison and read_comparison(
            attached.comparison, saved, given.W_dec
        )
        found = (
            read(attached.decomposition, given)
            if attached.decomposition
            else decomposition(saved.path)
        )
        observed = _observed(saved, loaded, source)
        logits, notes = loaded.unembedding()
        contents = contents_of(found, observed, logits)
        contents.explained, contents.matched = explained or None, matched or None
        facts = facts_of(
            saved, found, loaded.measured_on, observed and observed.n_tokens
        )
    if loaded.source:
        facts.notes += loaded.source.shortfall(source.tokens)
    facts.notes += notes
    tokenizer = loaded.model and loaded.model.tokenizer
    write_atlas(Path(name).name, contents, facts, path, tokenizer)
    return facts


def _loaded(saved: SavedSAE, cfg: SourceConfig) -> Loaded:
    if cfg.dataset != NO_TEXT:
        source, measured_on = load_source(cfg, [saved])
        return Loaded(source.model, source.reading.hook, source, measured_on)
    if cfg.model is None:
        return Loaded()
    reading, _ = completed(cfg, saved.reading)
    model, reading, _ = load_language_model(reading, cfg.device)
    return Loaded(model, reading.hook)


def _observed(saved: SavedSAE, loaded: Loaded, cfg: SourceConfig) -> Observed | None:
    if loaded.source is None:
        return None
    return observe(saved.load(cfg.device), loaded.source, cfg.tokens)
