"""Writes an SAE, and some text that it reads, as another tool takes them."""

from typing import Literal

from sae_lens_meta.activations.language_model import model_path
from sae_lens_meta.activations.measured_on import MeasuredOn, SourceConfig
from sae_lens_meta.activations.source import ActivationSource, load_source
from sae_lens_meta.destination import check_empty, held
from sae_lens_meta.exports.config import ExportConfig
from sae_lens_meta.exports.delphi import DelphiCache
from sae_lens_meta.exports.saedashboard import (
    check_can_be_drawn,
    write_for_saedashboard,
)
from sae_lens_meta.saved import SavedSAE

Target = Literal["saedashboard", "neuronpedia", "delphi"]


def export(
    saved: SavedSAE, to: Target, cfg: ExportConfig, source_cfg: SourceConfig
) -> tuple[list[str], MeasuredOn]:
    """
    Writes what `to` reads into `cfg.output`.

    Args:
        saved: the SAE.
        to: the tool.
        cfg: which latents, and where to.
        source_cfg: text and language model.

    Returns:
        What to do with the files, a line each, and what text they are of.

    Raises:
        ValueError: if the SAE has no such latent, its hook or a decoder row is none that the tool
            reads, or the folder holds files, or as `load_source`.
        OSError: if nothing can be written to the folder.
    """
    latents = cfg.latents_of(saved)
    if to != "delphi":
        check_can_be_drawn(saved, latents)
    check_empty(cfg.output, cfg.overwrite)
    with held(cfg.output):
        source, measured_on = load_source(source_cfg, [saved])
        if to == "delphi":
            said, n_read = _for_delphi(saved, latents, cfg, source, measured_on.tokens)
        else:
            said, n_read = write_for_saedashboard(
                saved, to, latents, cfg.output, source, measured_on
            )
    if n_read <= measured_on.tokens - measured_on.context_size:
        said.append(
            f"The text ended after {n_read:,} of {measured_on.tokens:,} tokens."
        )
    return said, measured_on


def _for_delphi(
    saved: SavedSAE,
    latents: list[int],
    cfg: ExportConfig,
    source: ActivationSource,
    n_tokens: int,
) -> tuple[list[str], int]:
    cache = DelphiCache(saved.load(source.device), latents)
    n_read = 0
    for batch in source.stream(n_tokens):
        cache.update(batch)
        n_read += batch.n_read
    # the folder of a converted model, whose tokenizer can be loaded from there
    folder = cache.save(cfg.output, model_path(str(source.reading.model)))
    return [
        f"Written: {folder}",
        f"delphi's LatentDataset takes {cfg.output} as its raw_dir and {folder.name!r} as a module.",
    ], n_read
