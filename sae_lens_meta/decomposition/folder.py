"""A decomposition on disk: a plain SAE of SAELens, and beside it what is known of it."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from sae_lens_meta.decomposition.decomposition import Decomposition, decomposed
from sae_lens_meta.decomposition.given import GivenSAE
from sae_lens_meta.decomposition.nulls import Nulls
from sae_lens_meta.decomposition.stability import Stability
from sae_lens_meta.formats import check_format
from sae_lens_meta.hashing import file_sha256

FOLDER = "decomposition"  # in that of the SAE
RECORD = "decomposition.json"
FORMAT = 1
DIGITS = 6


def has_decomposition(folder: Path) -> bool:
    """Whether `write` wrote there."""
    return (folder / RECORD).is_file()


def write(found: Decomposition, folder: Path, name: str) -> None:
    """
    Saves the meta SAE as SAELens saves one, and decomposition.json with all that is known of it.

    Args:
        found: to be saved.
        folder: for it, made where it does not exist.
        name: of the SAE that was taken apart.
    """
    weights, _ = found.meta_sae.save_model(folder)
    record = {
        "format": FORMAT,
        "sae": {
            "name": name,
            "d_sae": found.d_sae,
            "d_in": found.rows.shape[1],
            "decoder_sha256": found.decoder_sha256,
        },
        "origin": found.origin,
        "meta_d_sae": found.n_meta,
        "settings": found.settings,
        "weights_sha256": file_sha256(weights),
        "explained_variance": found.explained_variance,
        "parts_per_row": found.parts_per_row,
        "nulls": asdict(found.nulls) if found.nulls else None,
        "stability": _stability_record(found.stability),
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def read(folder: Path, given: GivenSAE) -> Decomposition:
    """
    The decomposition of `given` that `write` saved in `folder`.

    Raises:
        ValueError: if it is that of another SAE, a file is damaged, or it was written by a later
            version of this package.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        written, of = record["format"], record["sae"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Run decompose again."
        ) from error
    check_format(path, written, FORMAT, "run decompose again")
    if of["decoder_sha256"] != given.sha256:
        raise ValueError(
            f"{folder} is the decomposition of another SAE than {given.name}: of {of['name']}, "
            f"with {of['d_sae']} rows of width {of['d_in']} and other values. Run decompose "
            "again, with --overwrite where it is to be replaced."
        )
    return _restored(folder, record, given)


def _restored(folder: Path, record: dict[str, Any], given: GivenSAE) -> Decomposition:
    weights = folder / "sae_weights.safetensors"
    if not weights.is_file() or file_sha256(weights) != record["weights_sha256"]:
        raise ValueError(
            f"{weights} is missing or not the file that {RECORD} was written with. Run decompose "
            "again."
        )
    meta_sae = SAE.load_from_disk(folder, dtype="float32")
    found = decomposed(
        given.rows, meta_sae, record["origin"], record["settings"], given.sha256
    )
    nulls, stability = record["nulls"], record["stability"]
    return replace(
        found,
        nulls=Nulls(**nulls) if nulls else None,
        stability=_stability(stability) if stability else None,
    )


def _stability_record(stability: Stability | None) -> dict[str, Any] | None:
    if stability is None:
        return None
    lists = {
        name: [round(value, DIGITS) for value in getattr(stability, name).tolist()]
        for name in ("cosine", "null")
    }
    return {
        "seed": stability.seed,
        "explained_variance": stability.explained_variance,
        **lists,
    }


def _stability(record: dict[str, Any]) -> Stability:
    return Stability(
        cosine=torch.tensor(record["cosine"]),
        null=torch.tensor(record["null"]),
        explained_variance=record["explained_variance"],
        seed=record["seed"],
    )
