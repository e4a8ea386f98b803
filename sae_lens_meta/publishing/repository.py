"""Whether a repository may take a release: what is not of that release stays untouched."""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath

from huggingface_hub.repocard import REGEX_YAML_BLOCK

from sae_lens_meta.publishing.card import released_name
from sae_lens_meta.publishing.package import CARD, Package
from sae_lens_meta.training.carried import META_FOLDER
from sae_lens_meta.zoo.releases import ALLOWED_FILES, Release

# what may stand beside a release, since it can be neither weights nor their config
DOCUMENT_SUFFIXES = {
    *(".md", ".txt", ".rst", ".pdf", ".html", ".csv", ".bib", ".cff"),
    *(".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".py", ".ipynb"),
}
DOCUMENT_NAMES = {".gitattributes", ".gitignore", "LICENSE", "LICENCE", "NOTICE"}
N_NAMED = 5  # files that a message names


@dataclass
class Repository:
    """
    What a repository holds at one commit.

    Attributes:
        commit: its name.
        files: their paths.
        readme: text of its README.md; empty where there is none.
        cfg: text of the config in the package's folder; empty where there is none.
    """

    commit: str | None
    files: list[str]
    readme: str
    cfg: str


def obstacle(found: Repository, package: Package, release: Release) -> str | None:
    """
    Why a repository may not take a release; None if it may.

    It may if all that it holds is documents, and what an earlier upload of the same release
    wrote, by its card, with an SAE of the same model.
    """
    there = released_name(found.readme)
    own = _own_files(package) if there == release.name else set()
    if not REGEX_YAML_BLOCK.sub("", found.readme, count=1).strip():
        own.add(
            CARD
        )  # the Hub makes such a one of the licence chosen with a repository
    foreign = [
        name
        for name in found.files
        if name not in own and (name in package.names or not _is_document(name))
    ]
    if foreign:
        named = ", ".join(foreign[:N_NAMED])
        more = f" and {len(foreign) - N_NAMED} more" if foreign[N_NAMED:] else ""
        is_other = there not in (None, release.name)
        update = f", or update the release there: --release {there}" if is_other else ""
        return (
            f"holds files that are not of the release {release.name!r}: {named}{more}. "
            f"Give another repository, a new one for instance{update}."
        )
    model, wanted = _model(found.cfg), package.metadata.get("model_name")
    if model and wanted and model.split("/")[-1] != wanted.split("/")[-1]:
        return (
            f"holds {release.name!r} of the model {model!r}, but this SAE reads {wanted!r}. "
            "Give another repository, or the model's name as it stands there with --base_model."
        )
    return None


def stale(found: Repository, package: Package) -> list[str]:
    """Files of an earlier upload of the release that this one does not have."""
    return sorted(set(found.files) & _own_files(package) - set(package.names))


def _own_files(package: Package) -> set[str]:
    """All that an upload of the same release can have written."""
    # the release can have had a meta SAE before
    folders = (package.hook, f"{package.hook}/{META_FOLDER}")
    return {*package.names, *(f"{d}/{f}" for d in folders for f in ALLOWED_FILES)}


def _is_document(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in DOCUMENT_SUFFIXES or path.name in DOCUMENT_NAMES


def _model(cfg: str) -> str | None:
    """The language model that a config names; None where there is no such thing."""
    try:
        return json.loads(cfg)["metadata"]["model_name"]
    except (ValueError, KeyError, TypeError):
        return None
