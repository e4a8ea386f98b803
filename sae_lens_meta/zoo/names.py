"""
The releases under their names in SAELens: the one place that changes how SAELens loads.

SAELens keeps its releases in a dictionary, which takes seconds to read, and its loaders in another;
ours are added to both, to the first when it is asked for. One thing has no seam: `SAE.from_pretrained`
demands an SAE id, and says of a wrong name only that it is wrong. Its two methods are therefore
wrapped, and everything else is theirs.
"""

import functools
import inspect
import sys
import warnings
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from sae_lens import SAE
from sae_lens.constants import SPARSITY_FILENAME
from sae_lens.loading import pretrained_saes_directory as saelens_directory
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS,
    NAMED_PRETRAINED_SAE_LOADERS,
    get_sae_lens_config_from_disk,
    sae_lens_disk_loader,
)
from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup
from safetensors.torch import load_file

from sae_lens_meta.zoo.files import fetch_sae
from sae_lens_meta.zoo.releases import LOADER, Release, ReleasedSAE, load_zoo

DIRECTORY = "get_pretrained_saes_directory"
MAX_LISTED = 40  # SAE ids in a message; a release of SAELens has up to thousands
WRAPPED = ("from_pretrained", "from_pretrained_with_cfg_and_sparsity")


def list_pretrained(pattern: str = "*") -> list[Release]:
    """The releases of this package whose names match, for instance `metasae-*`."""
    return [
        release for release in load_zoo().releases if fnmatch(release.name, pattern)
    ]


def releases_table(releases: list[Release]) -> Table:
    """A line for each SAE."""
    table = Table()
    table.add_column("release", no_wrap=True)  # a name is there to be copied
    for header in ("SAE id", "model", "L0", "explained variance", "after", "weights"):
        table.add_column(header, overflow="fold")
    for release in releases:
        weights = "no"
        if release.bundled:
            weights = "in the package"
        elif release.published:
            weights = release.repo_id
        for sae in release.saes:
            figures = [
                "" if f is None else f"{f:g}" for f in (sae.l0, sae.explained_variance)
            ]
            # what its objective is from; nothing where that is this package's own
            after = (release.paper or "").replace("https://arxiv.org/abs/", "arXiv:")
            of_sae = (release.name, sae.id, release.model)
            table.add_row(*of_sae, *figures, after, weights)
    return table


def load_meta_sae(
    release: str, sae_id: str | None = None, device: str = "cpu"
) -> SAE[Any]:
    """
    The meta SAE of a release, a `jumprelu` SAE over the primary's unit decoder rows.

    Args:
        release: name of the release.
        sae_id: which SAE of it; may be left out where there is one.
        device: to load it on.

    Raises:
        ValueError: if there is no such release or SAE, it was trained without a meta SAE, its
            weights do not exist yet, or a file is not the one that was released.
    """
    found = _release(release)
    sae = _sae(found, sae_id)
    if sae.meta_path is None:
        raise ValueError(
            f"The release {release!r} was trained without a meta SAE ({found.training}). "
            f"`sae-lens-meta decompose {release}` fits one to its decoder rows."
        )
    return SAE.load_from_disk(fetch_sae(found, sae, sae.meta_path), device)


def sae_folder(name: str) -> Path:
    """
    The folder of an SAE, by its path or as a release of one SAE.

    Raises:
        ValueError: if it is neither, or as `load_meta_sae`.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        found = _release(name)
    except ValueError as error:
        raise ValueError(f"There is no folder {name!r}. {error}") from error
    sae = _sae(found, None)
    return fetch_sae(found, sae, sae.path)


def release_folders(
    name: str, sae_id: str | None = None
) -> tuple[Path, Path | None] | None:
    """
    The folders of an SAE and of its meta SAE, of a release of this package; None of any other.

    The second is None where the SAE was trained without a meta SAE.

    Raises:
        ValueError: as `load_meta_sae`, but for the name.
    """
    if name not in {release.name for release in load_zoo().releases}:
        return None
    found = _release(name)
    sae = _sae(found, sae_id)
    meta = None if sae.meta_path is None else fetch_sae(found, sae, sae.meta_path)
    return fetch_sae(found, sae, sae.path), meta


def load_release(name: str, sae_id: str | None = None) -> SAE[Any]:
    """
    An SAE of any release that SAELens knows by name, or of a repository on the Hub.

    Args:
        name: of the release, or `organisation/name` of the repository.
        sae_id: which of its SAEs; may be left out where a release has one.

    Raises:
        ValueError: if there is no such release, or it has several SAEs and `sae_id` is none of
            them.
        OSError: what `huggingface_hub` raises where it cannot download.
    """
    directory = _directory()
    if name not in directory and "/" not in name:
        near = get_close_matches(name, list(directory), n=3, cutoff=0.6)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"There is no folder and no release {name!r}.{hint}")
    ids = list(directory[name].saes_map) if name in directory else []
    if sae_id is None and len(ids) == 1:
        sae_id = ids[0]
    if sae_id is None or (ids and sae_id not in ids):
        raise ValueError(
            f"{name!r} has several SAEs, one of which is given as sae_id; got {sae_id!r}. "
            + _listed(ids, sae_id)
        )
    return SAE.from_pretrained(name, sae_id)


def _listed(ids: list[str], like: str | None) -> str:
    """Names SAE ids, those that resemble `like` first, and says how many are left out."""
    if not ids:
        return "SAELens has no list of this repository's."
    near = get_close_matches(like or "", ids, n=5)
    shown = [*near, *(known for known in ids if known not in near)][:MAX_LISTED]
    rest = len(ids) - len(shown)
    return f"They are: {', '.join(shown)}{f', and {rest} more' if rest else ''}."


def register_zoo() -> None:
    """
    Has SAELens find the releases, and lets their names stand alone.

    Again without effect. Where SAELens has changed the methods to be wrapped, it warns
    and leaves them: the releases then load with an SAE id.
    """
    _extend_directory()
    NAMED_PRETRAINED_SAE_LOADERS[LOADER] = _load
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS[LOADER] = _load_config
    for name in WRAPPED:
        _wrap(name)


def _extend_directory() -> None:
    """Puts a directory with our releases in the place of SAELens's, wherever that is called."""
    original = getattr(saelens_directory, DIRECTORY)
    if hasattr(original, "of_saelens"):
        original.cache_clear()  # our list may have changed
        return

    @functools.cache
    def extended() -> dict[str, PretrainedSAELookup]:
        ours = {release.name: _lookup(release) for release in load_zoo().releases}
        return {**original(), **ours}

    extended.of_saelens = original  # type: ignore[attr-defined]
    for module in list(sys.modules.values()):
        if getattr(module, DIRECTORY, None) is original:
            setattr(module, DIRECTORY, extended)


def _directory() -> dict[str, PretrainedSAELookup]:
    return getattr(saelens_directory, DIRECTORY)()


def _lookup(release: Release) -> PretrainedSAELookup:
    return PretrainedSAELookup(
        release=release.name,
        repo_id=release.repo_id,
        model=release.model,
        conversion_func=release.conversion_func,
        saes_map={sae.id: sae.path for sae in release.saes},
        # SAELens's own defaults where nothing is known
        expected_var_explained={
            sae.id: 1.0 if sae.explained_variance is None else sae.explained_variance
            for sae in release.saes
        },
        expected_l0={sae.id: sae.l0 or 0.0 for sae in release.saes},
        neuronpedia_id={},
        norm_scaling_factor={},
        config_overrides=None,
    )


def _wrap(name: str) -> None:
    original = getattr(SAE, name).__func__
    if hasattr(original, "wrapped_by_sae_lens_meta"):
        return
    if list(inspect.signature(original).parameters)[:3] != ["cls", "release", "sae_id"]:
        warnings.warn(
            f"SAELens has changed SAE.{name}: releases of sae_lens_meta load with an SAE "
            "id only. Please report this with your version of sae-lens.",
            stacklevel=2,
        )
        return

    @functools.wraps(original)
    def with_optional_id(
        cls: Any, release: str, sae_id: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        return original(cls, release, _sae_id(release, sae_id), *args, **kwargs)

    with_optional_id.wrapped_by_sae_lens_meta = True  # type: ignore[attr-defined]
    setattr(SAE, name, classmethod(with_optional_id))


def _sae_id(release: str, sae_id: str | None) -> str:
    directory = _directory()
    if release not in directory and "/" not in release:
        near = get_close_matches(release, list(directory), n=3, cutoff=0.6)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"Release {release} not found in pretrained SAEs directory.{hint}"
        )
    if sae_id is not None:
        return sae_id
    is_ours = release in directory and directory[release].conversion_func == LOADER
    if not is_ours:
        raise TypeError(f"SAE.from_pretrained of {release!r} takes an sae_id as well.")
    return _sae(_release(release), None).id


def _release(name: str) -> Release:
    releases = {release.name: release for release in load_zoo().releases}
    if name not in releases:
        near = get_close_matches(name, list(releases), n=3, cutoff=0.6) or list(
            releases
        )
        raise ValueError(
            f"There is no release {name!r} of MetaSAEs. There are: {', '.join(near)}."
        )
    return releases[name]


def _sae(release: Release, sae_id: str | None) -> ReleasedSAE:
    saes = {sae.id: sae for sae in release.saes}
    if sae_id is None and len(saes) == 1:
        return release.saes[0]
    if sae_id not in saes:
        raise ValueError(
            f"The release {release.name!r} has the SAEs {', '.join(saes)}, one of which is given "
            f"as sae_id; got {sae_id!r}."
        )
    return saes[sae_id]


def _by_folder(repo_id: str, folder_name: str) -> tuple[Release, ReleasedSAE]:
    for release in load_zoo().releases:
        for sae in release.saes:
            if (release.repo_id, sae.path) == (repo_id, folder_name):
                return release, sae
    raise ValueError(f"No release of MetaSAEs is in {folder_name!r} of {repo_id!r}.")


def _load(
    repo_id: str,
    folder_name: str,
    device: str = "cpu",
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor], torch.Tensor | None]:
    """SAELens's protocol of a loader: config, weights, and log sparsity if there is any."""
    release, sae = _by_folder(repo_id, folder_name)
    folder = fetch_sae(release, sae, sae.path, force_download)
    cfg, state_dict = sae_lens_disk_loader(folder, device, cfg_overrides)
    has_sparsity = f"{sae.path}/{SPARSITY_FILENAME}" in sae.files
    sparsity = None
    if has_sparsity:
        sparsity = load_file(folder / SPARSITY_FILENAME, device=device)["sparsity"]
    return cfg, state_dict, sparsity


def _load_config(
    repo_id: str,
    folder_name: str,
    device: str | None = None,
    force_download: bool = False,
    cfg_overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    release, sae = _by_folder(repo_id, folder_name)
    folder = fetch_sae(release, sae, sae.path, force_download)
    return get_sae_lens_config_from_disk(folder, device, cfg_overrides)
