"""An SAE in, its decomposition out: the saved one, the jointly trained one, or one fitted now."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_lens import SAE

from sae_lens_meta.decomposition.decomposition import Decomposition, decomposed
from sae_lens_meta.decomposition.fit import FitSettings, fit
from sae_lens_meta.decomposition.folder import FOLDER, has_decomposition, read
from sae_lens_meta.decomposition.given import GivenSAE, given_sae
from sae_lens_meta.decomposition.nulls import Nulls, covariance_rows, turned_rows
from sae_lens_meta.decomposition.stability import Stability, matched_cosines

# Its threshold was set on the rows that it was exported with, where it leaves k of them exactly;
# a decoder in half precision moves a few.
K_TOLERANCE = 0.05


def decomposition(
    sae: SAE[Any] | Path | str,
    sae_id: str | None = None,
    settings: FitSettings | None = None,
    refit: bool = False,
) -> Decomposition:
    """
    What the latents of an SAE are made of.

    Of a folder, what `sae-lens-meta decompose` has saved in it is read; of a folder or release with
    a jointly trained meta SAE, that is opened; else one is fitted.

    Args:
        sae: an SAE in memory, a folder, or the name of a release of this package or of SAELens.
        sae_id: which of a release; may be left out where there is one.
        settings: of a fit, where one is made; what is saved must have been made with them.
        refit: fit one, whatever there is.

    Raises:
        ValueError: as `given_sae`, `GivenSAE.rows`, `FitSettings.for_rows` and `decomposed`; and if
            what is saved was made with other settings.
        OSError: as `given_sae`.
    """
    given = given_sae(sae, sae_id)
    saved = given.folder / FOLDER if given.folder else None
    if saved and has_decomposition(saved) and not refit:
        found = read(saved, given)
        if settings is not None:
            _check_saved(found, settings, saved)
        return found
    return opened(given, settings or FitSettings(), refit)


def opened(given: GivenSAE, settings: FitSettings, refit: bool) -> Decomposition:
    """
    The decomposition by the jointly trained meta SAE, or where there is none or `refit`, by a fit.

    Raises:
        ValueError: as `decomposition`; and if `settings` ask for another width or meta_k than a
            jointly trained meta SAE has, or that one is not of this decoder.
    """
    rows = given.rows
    if given.joint is None or refit:
        complete = settings.for_rows(len(rows))
        meta_sae = fit(rows, complete, "Fitting the meta SAE")
        return decomposed(rows, meta_sae, "fitted", complete.as_dict(), given.sha256)
    meta_sae = SAE.load_from_disk(given.joint, dtype="float32")
    training = dict(meta_sae.cfg.metadata.training_architecture_details or {})
    found = decomposed(rows, meta_sae, "joint", training, given.sha256)
    _check_joint(found, given.joint, settings)
    return found


def checked(found: Decomposition, settings: FitSettings) -> Decomposition:
    """
    The same with its nulls and its stability, for which three more meta SAEs are fitted.

    They have its width and its number of meta latents a row. Of a jointly trained one, stability
    is against one fitted afterwards: a joint one of another seed would be of another decoder.

    Raises:
        ValueError: as `FitSettings.for_rows`.
    """
    like = replace(settings, meta_d_sae=found.n_meta, meta_k=found.parts_per_row)
    like = like.for_rows(found.d_sae)
    # two more seeds: fits that begin at the same weights would look alike for that alone
    other_seed = replace(like, seed=like.seed + 1)
    of_nulls, rows = replace(like, seed=like.seed + 2), found.rows
    again = decomposed(rows, fit(rows, other_seed, "With another seed"), "fitted", {})
    other, by_chance = again.directions, covariance_rows(rows, of_nulls.seed)
    null = decomposed(
        by_chance, fit(by_chance, of_nulls, "Same covariance"), "fitted", {}
    )
    stability = Stability(
        cosine=matched_cosines(found.directions, other),
        null=matched_cosines(found.directions, null.directions),
        explained_variance=again.explained_variance,
        seed=other_seed.seed,
    )
    covariance = null.explained_variance
    turned = turned_rows(rows, of_nulls.seed)
    null = decomposed(turned, fit(turned, of_nulls, "Turned rows"), "fitted", {})
    nulls = Nulls(null.explained_variance, covariance, of_nulls.seed)
    return replace(found, nulls=nulls, stability=stability)


def _check_saved(found: Decomposition, settings: FitSettings, saved: Path) -> None:
    if found.origin == "joint":
        _check_joint(found, saved, settings)
        return
    asked = settings.for_rows(found.d_sae).as_dict()
    other = {n: v for n, v in asked.items() if found.settings.get(n, v) != v}
    if other:
        had = ", ".join(f"{name} {found.settings[name]}" for name in other)
        raise ValueError(
            f"{saved} holds a decomposition with {had}, and "
            f"{', '.join(f'{name} {value}' for name, value in other.items())} is asked for. Give "
            "refit=True for another one, or leave settings out."
        )


def _check_joint(found: Decomposition, joint: Path, settings: FitSettings) -> None:
    if settings.meta_d_sae not in (None, found.n_meta) or settings.meta_k is not None:
        raise ValueError(
            f"The SAE comes with a meta SAE of {found.n_meta} latents, which was trained with it. "
            "Give --refit to fit another one, or leave --meta_d_sae and --meta_k out."
        )
    k = found.settings.get("k")
    if k and abs(found.parts_per_row / k - 1) > K_TOLERANCE:
        raise ValueError(
            f"The meta SAE in {joint} was exported with {k:g} meta latents a row, and on this "
            f"SAE's rows it has {found.parts_per_row:.2f}: it is another's. Give --refit to fit "
            "one."
        )
