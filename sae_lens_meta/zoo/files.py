"""Files of a release: from the package or the Hub, at the pinned revision, verified."""

import shutil
from importlib.resources import files
from pathlib import Path

from huggingface_hub import hf_hub_download

from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.zoo.releases import Release, ReleasedSAE

MAX_BUNDLED = 20_000_000  # bytes


def fetch_sae(
    release: Release, sae: ReleasedSAE, folder: str, force_download: bool = False
) -> Path:
    """
    Folder on this machine that holds the files of one SAE, each with the sha256 recorded.

    What `huggingface_hub` has in its cache is not downloaded again, unless it is damaged.

    Args:
        release: the release.
        sae: of the release.
        folder: one of `sae.folders`.
        force_download: download again what is in the cache.

    Raises:
        ValueError: if the release has no weights yet, or a file is not the one recorded.
        OSError: what `huggingface_hub` raises where it cannot download.
    """
    if not (release.published or release.bundled):
        raise ValueError(
            f"The weights of {release.name!r} do not exist yet. Train them with: "
            f"{release.command}"
        )
    paths = [
        _bundled(release, name, sha256)
        if release.bundled
        else _downloaded(release, name, sha256, force_download)
        for name, sha256 in sae.files_of(folder).items()
    ]
    return paths[0].parent


def bundled_folder() -> Path:
    """Where the releases are that travel inside the package."""
    return Path(str(files("sae_lens_meta.zoo") / "bundled"))


def check_small(folder: Path, names: list[str]) -> None:
    """
    Raises:
        ValueError: if the files `names` of `folder` are more than 20 MB.
    """
    size = sum((folder / name).stat().st_size for name in names)
    if size > MAX_BUNDLED:
        raise ValueError(
            f"{folder} holds {size / 1e6:.1f} MB; a release of more than "
            f"{MAX_BUNDLED / 1e6:.0f} MB does not travel inside the package. Upload it."
        )


def bundle(folder: Path, names: list[str], release: str) -> Path:
    """
    Puts the files `names` of `folder`, card and report among them, where bundled ones are.

    Returns:
        The folder in the package.
    """
    target = bundled_folder() / release
    if target.exists():
        shutil.rmtree(target)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    return target


def _bundled(release: Release, name: str, sha256: str) -> Path:
    path = bundled_folder() / release.name / name
    if not path.is_file() or file_sha256(path) != sha256:
        raise ValueError(
            f"{name!r} of the bundled release {release.name!r} is missing or damaged. Install "
            "sae-lens-meta again."
        )
    return path


def _downloaded(release: Release, name: str, sha256: str, force: bool) -> Path:
    def download(force: bool) -> Path:
        return Path(
            hf_hub_download(
                release.repo_id,
                name,
                revision=release.revision,
                force_download=force,
            )
        )

    path = download(force)
    if file_sha256(path) == sha256:
        return path
    try:
        path = download(True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} of the release {release.name!r} is damaged in the cache, and could not "
            f"be downloaded again: {error}"
        ) from error
    if file_sha256(path) == sha256:
        return path
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise ValueError(
        f"{name!r} in {release.repo_id!r} at {release.revision} is not the file that was "
        f"released as {release.name!r}: its sha256 differs. It was not loaded, and is "
        "downloaded anew by the next call."
    )
