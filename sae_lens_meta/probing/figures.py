"""The figures of probing, each a mean over labels."""

from math import nan

from sae_lens_meta.measures.figures import Better, Figure, by_id
from sae_lens_meta.probing.result import ProbedSAE
from sae_lens_meta.probing.sparse_probe import FEW, KS


def _mean(
    id_: str,
    label: str,
    explained: str,
    better: Better | None = None,
    is_part: bool = False,
) -> Figure[ProbedSAE]:
    def of(sae: ProbedSAE) -> float:
        value = sae.means[id_].value
        return nan if value is None else value

    return Figure(id_, label, of, ".3f", explained, better, is_part=is_part)


def _reached(k: int) -> Figure[ProbedSAE]:
    def of(sae: ProbedSAE) -> float:
        needed = [score.needed for score in sae.labels.values()]
        return sum(n is not None and n <= k for n in needed) / len(needed)

    return Figure(
        f"reached_by_{k}",
        f"labels that {k} latents bring to 95 % of the dense probe",
        of,
        ".3f",
        f"Share of the labels for which a probe of {k} latents comes that near the ceiling.",
        "higher",
    )


SHUFFLED = "The same after the labels were moved to other tokens: what chance gives."
FIGURES: dict[str, Figure[ProbedSAE]] = by_id(
    (
        _mean(
            "single",
            "F1 of the best single latent's firing",
            "Of each label's best latent, chosen on one half and scored on the other.",
            "higher",
        ),
        _mean("shuffled_single", "labels shuffled", SHUFFLED, is_part=True),
        _mean(
            "one",
            "F1 of a probe of 1 latent",
            "A logistic probe on how strongly one latent fires.",
            "higher",
        ),
        _mean(
            "few",
            f"F1 of a probe of {FEW} latents",
            f"A logistic probe on {FEW} latents.",
            "higher",
        ),
        _mean("shuffled_few", "labels shuffled", SHUFFLED, is_part=True),
        _reached(FEW),
        _reached(KS[-1]),
        _mean(
            "silent",
            "silent: the label's latent, where it holds",
            "Share of a label's tokens on which its latents do not fire.",
            "lower",
        ),
        _mean(
            "taken",
            "one latent says it instead",
            "Of the label's tokens, those where one other latent carries the probe's direction.",
            "lower",
            is_part=True,
        ),
        _mean(
            "taken_by_child",
            "and that a child's",
            "Of those, where that latent is specific to a child of the label.",
            "lower",
            is_part=True,
        ),
        _mean(
            "absorption",
            "absorption, as published",
            "Share of a label's tokens that count as absorbed (arXiv:2409.14507).",
            "lower",
        ),
        _mean(
            "absorption_fraction",
            "absorption fraction",
            "How much of the probe's direction absorbing latents carry.",
            "lower",
        ),
        Figure(
            "l0",
            "L0",
            lambda sae: sae.l0,
            ".1f",
            "Latents that fire on a token.",
            unit="latents a token",
        ),
    )
)
"""Figures by id; those from `silent` to `absorption_fraction` are shares of a label's tokens."""
