"""What else is known of latents: a judge's explanations, and a comparison with other SAEs."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from sae_lens_meta.autointerp.results import FILENAME, AutoInterpretation
from sae_lens_meta.autointerp.scoring import CHANCE, SCORES, ScoredLatent
from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.measures.top_contexts import Peak
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.zoo.names import sae_folder


@dataclass
class Explained:
    """
    Attributes:
        judge: whose explanations.
        latents: that were explained, by number.
    """

    judge: str
    latents: dict[int, ScoredLatent]


@dataclass
class Split:
    """A latent of another SAE that latents of this one divide between them, in words, and where it fires."""

    said: str
    peaks: list[Peak]


@dataclass
class Matched:
    """
    How latents lie to those of the reference of a comparison.

    Attributes:
        name: of the reference.
        partner: by latent, which of its latents is matched and the cosine of the two decoder
            rows; None where its weights are not on this machine.
        splits: by latent, latents of the reference that it is a part of.
        vocabulary: text of the tokens in their contexts, by id.
        notes: what the reader should know.
    """

    name: str
    partner: dict[int, tuple[int, float]] | None
    splits: dict[int, list[Split]] = field(default_factory=dict)
    vocabulary: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_explanations(path: Path, saved: SavedSAE) -> Explained:
    """
    A judge's explanations of the latents of an SAE.

    Args:
        path: an autointerp.json, or the folder of one.
        saved: the SAE.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not one, or of other SAEs.
    """
    found = AutoInterpretation.load(_file(path, FILENAME))
    for sae in found.saes:
        if sae.weights_sha256 == saved.weights_sha256:
            return Explained(found.judge, {one.latent: one for one in sae.latents})
    raise ValueError(
        f"{path} has explanations of {', '.join(repr(sae.name) for sae in found.saes)}, none of "
        "which has the weights of this SAE. Run `sae-lens-meta autointerp` on it."
    )


def shown_scores(latent: ScoredLatent) -> list[list[str | float]]:
    """Each score's name, its value or why there is none, and what chance gives."""
    rows: list[list[str | float]] = []
    for score in SCORES:
        value = latent.scores.get(score)
        why = latent.missing.get(score, "not taken")
        rows.append([score, why if value is None else value, CHANCE[score]])
    return rows


def read_comparison(path: Path, saved: SavedSAE, W_dec: torch.Tensor) -> Matched:
    """
    The latents of a comparison's reference, its first SAE of the baseline, that match.

    Args:
        path: a comparison.json, or the folder of one.
        saved: the SAE, which the comparison must have measured.
        W_dec: its decoder, `[d_sae, d_in]`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not one, or of other SAEs.
    """
    found = Comparison.load(_file(path, "comparison.json"))
    own = next((sae for sae in found.saes if sae.is_of(saved)), None)
    if own is None:
        raise ValueError(
            f"{path} compares {', '.join(sae.name for sae in found.saes)}, none of which is this "
            "SAE. Run `sae-lens-meta compare` on it."
        )
    reference = next(sae for sae in found.saes if sae.group == found.baseline)
    if own is reference:
        note = f"The comparison's reference is this SAE ({own.name}); it has no match in it."
        return Matched(reference.name, None, notes=[note])
    matched = Matched(reference.name, _partners(reference, W_dec))
    if matched.partner is None:
        matched.notes.append(
            f"The weights of {reference.name}, which the comparison names as {reference.path}, are not "
            "on this machine: latents are not matched to it."
        )
    counts = found.split_counts
    group = [sae for sae in found.saes if counts and sae.group == counts.group]
    if group and group[0] is own:
        matched.splits = _splits(found, reference.name)
        matched.vocabulary = found.vocabulary
    return matched


def _file(path: Path, name: str) -> Path:
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no {name} at {path}.")
    return file


def _partners(
    reference: ComparedSAE, W_dec: torch.Tensor
) -> dict[int, tuple[int, float]] | None:
    try:
        other = SavedSAE.read(sae_folder(reference.path))
    except (ValueError, OSError):
        return None
    if not reference.is_of(other):
        return None
    found = match_latents(W_dec, other.load().W_dec)  # type: ignore[arg-type]
    return {
        latent: (int(partner), float(found.cosine[latent]))
        for latent, partner in enumerate(found.partner)
        if partner >= 0
    }


def _splits(found: Comparison, reference: str) -> dict[int, list[Split]]:
    splits: dict[int, list[Split]] = {}
    for entry in found.splitting:
        candidate = entry.candidate
        for part in candidate.parts:
            others = [p.latent for p in candidate.parts if p.latent != part.latent]
            score = (
                ""
                if candidate.score is None
                else f"; split score {candidate.score:.2f}"
            )
            said = (
                f"Latent {candidate.latent} of {reference} may be split into this one and "
                f"{' and '.join(map(str, others))}: this one fires on {part.covers:.0%} of its "
                f"tokens (phi {part.phi:.2f}){score}."
            )
            splits.setdefault(part.latent, []).append(Split(said, entry.contexts.peaks))
    return splits
