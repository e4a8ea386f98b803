"""What an atlas says of itself on its first page, in words."""

from dataclasses import dataclass, field
from pathlib import Path

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.table import ORIGIN
from sae_lens_meta.saved import SavedSAE


@dataclass
class Facts:
    """
    Attributes:
        lead: what the decoder is made of, in a few sentences.
        weights_sha256: of the SAE's weights, by which reports know whose atlas it is.
        notes: what the reader must know.
        made_with: name and value, of everything that it depends on.
    """

    lead: str
    weights_sha256: str
    notes: list[str] = field(default_factory=list)
    made_with: list[list[str]] = field(default_factory=list)


def facts_of(
    saved: SavedSAE,
    found: Decomposition,
    measured_on: MeasuredOn | None,
    n_tokens: int | None,
) -> Facts:
    """
    Args:
        saved: the SAE.
        found: what its latents are made of.
        measured_on: the text that was read; None where none was.
        n_tokens: that were read of it.
    """
    facts = Facts(_lead(found), saved.weights_sha256, [_stability(found)])
    facts.made_with = [
        ["model", measured_on.model if measured_on else _recorded(saved)],
        ["hook", saved.reading.hook or "not recorded"],
        ["weights, sha256", saved.weights_sha256],
        ["meta SAE", ORIGIN[found.origin]],
        *([name, str(value)] for name, value in found.settings.items()),
    ]
    if measured_on is None or n_tokens is None:
        facts.notes.append(
            "Made without text: there are no contexts, firing rates or words."
        )
        return facts
    facts.notes += measured_on.notes + measured_on.warnings
    order = measured_on.text_seed
    facts.made_with += [
        ["text", f"{Path(measured_on.dataset).name}, {measured_on.said}"],
        ["tokens read", f"{n_tokens:,}"],
        ["first document", f"{measured_on.first_document:,}"],
        ["text seed", "none: in its own order" if order is None else str(order)],
    ]
    return facts


def _recorded(saved: SavedSAE) -> str:
    model = saved.reading.model_on_the_hub or saved.reading.model
    return Path(model).name if model and model.startswith("/") else str(model)


def _lead(found: Decomposition) -> str:
    used = int((found.use > 0).sum())
    nulls = ""
    if found.nulls is not None:
        nulls = (
            f" (of rows of random direction with the same covariance "
            f"{found.nulls.same_covariance:.1%}, of rows turned at random {found.nulls.turned:.1%})"
        )
    return (
        f"{found.d_sae:,} decoder rows, made of {used:,} meta latents, "
        f"{found.parts_per_row:.1f} a row on average. These explain "
        f"{found.explained_variance:.1%} of the variance of the rows{nulls}; of a single row "
        f"{float(found.unexplained.mean()):.1%} is left unexplained on average."
    )


def _stability(found: Decomposition) -> str:
    if found.stability is None:
        return (
            "Nobody has looked whether these meta latents come back with another seed, and what does "
            "not come back is no finding: sae-lens-meta decompose looks."
        )
    n = int(found.stability.comes_back.sum())
    return (
        f"{n:,} of {found.n_meta:,} meta latents come back with another seed, closer than 95 % of "
        "those of rows of random direction with the same covariance do."
    )
