"""The figures of probing, each a mean over labels."""

from math import nan

from sae_lens_meta.measures.figures import Better, Figure, by_id
from sae_lens_meta.probing.result import ProbedSAE
from sae_lens_meta.probing.sparse_probe import FEW, KS


def _mean(
    id_: str, label: str, better: Better | None = None, is_part: bool = False
) -> Figure[ProbedSAE]:
    def of(sae: ProbedSAE) -> float:
        value = sae.means[id_].value
        return nan if value is None else value

    return Figure(id_, label, of, ".3f", better, is_part=is_part)


def _reached(k: int) -> Figure[ProbedSAE]:
    def of(sae: ProbedSAE) -> float:
        needed = [score.needed for score in sae.labels.values()]
        return sum(n is not None and n <= k for n in needed) / len(needed)

    label = f"labels that {k} latents bring to 95 % of the dense probe"
    return Figure(f"reached_by_{k}", label, of, ".3f", "higher")


FIGURES: dict[str, Figure[ProbedSAE]] = by_id(
    (
        _mean("single", "F1 of the best single latent's firing", "higher"),
        _mean("shuffled_single", "labels shuffled", is_part=True),
        _mean("one", "F1 of a probe of 1 latent", "higher"),
        _mean("few", f"F1 of a probe of {FEW} latents", "higher"),
        _mean("shuffled_few", "labels shuffled", is_part=True),
        _reached(FEW),
        _reached(KS[-1]),
        _mean("silent", "silent: the label's latent, where it holds", "lower"),
        _mean("taken", "one latent says it instead", "lower", is_part=True),
        _mean("taken_by_child", "and that a child's", "lower", is_part=True),
        _mean("absorption", "absorption, as published", "lower"),
        _mean("absorption_fraction", "absorption fraction", "lower"),
        Figure("l0", "L0", lambda sae: sae.l0, ".1f", unit="latents a token"),
    )
)
"""Figures by id; those from `silent` to `absorption_fraction` are shares of a label's tokens."""
