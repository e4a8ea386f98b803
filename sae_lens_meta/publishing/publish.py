"""One command from a measured SAE to a release."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from sae_lens.constants import RUNNER_CFG_FILENAME

from sae_lens_meta.destination import check_writable
from sae_lens_meta.publishing.card import model_card, released_name
from sae_lens_meta.publishing.doubts import doubts
from sae_lens_meta.publishing.package import CARD, Package, make_package
from sae_lens_meta.publishing.scrub import scrubbed
from sae_lens_meta.publishing.upload import look_ahead, upload
from sae_lens_meta.saved import Reading, SavedSAE
from sae_lens_meta.zoo.files import bundle, check_small
from sae_lens_meta.zoo.releases import (
    LOADER,
    Release,
    ReleasedSAE,
    check_repo_id,
    entry_text,
    list_with,
    load_zoo,
    write_release,
)

UNKNOWN = "unknown"
RECORDED = {
    "k",
    "decomposability_coefficient",
    "decomposability_bandwidth",
    "meta_d_sae",
    "meta_k",
}


@dataclass
class PublishConfig:
    """
    What to publish, and where.

    Model and licence, where they are not given, come from the release's entry in
    pretrained.yaml, if it has one; everything else from the SAE's own metadata.

    Args:
        repo (str): Repository on the Hub, organisation/name; created if there is none.
        release (str | None): Name of the release, whose entry in pretrained.yaml is written. By
            default the repository's, and the entry is printed only.
        private (bool): Create the repository private.
        dry_run (bool): Prepare everything and show it, and look whether the repository may take
            it, but upload and write nothing.
        bundle (bool): Put the files into this package in the place of uploading them; for a
            release small enough to travel with it.
        comparison (Path | None): Output folder of `compare`, which measured the SAE; by default
            the SAE's own folder.
        base_model (str | None): The language model's name on the Hub.
        dataset (str | None): The training text's name on the Hub.
        licence (str | None): Of the weights, as the Hub names licences.
        training (str | None): A sentence on how the SAE was trained.
        output (Path): Folder that receives the files as they are uploaded.
    """

    repo: str
    release: str | None = None
    private: bool = False
    dry_run: bool = False
    bundle: bool = False
    comparison: Path | None = None
    base_model: str | None = None
    dataset: str | None = None
    licence: str | None = None
    training: str | None = None
    output: Path = Path("publish_out")


def publish(path: Path, cfg: PublishConfig, console: Console) -> Release:
    """
    Publishes the SAE in the folder `path`, with its meta SAE, if it has one, and its figures.

    Returns:
        The release as it stands, or would stand, in pretrained.yaml.

    Raises:
        ValueError: if the repository's name is malformed, the SAE records another model than
            `base_model`, the release is listed as one of another model or hook, the SAE does not record how it was trained, what is to be
            bundled has no name or is more than 20 MB, or as `make_package`.
        FileNotFoundError: as `make_package`.
        PublishError: as `upload`; of a dry run, as `look_ahead`.
    """
    package, release = prepare(path, cfg, console)
    if cfg.bundle:
        check_small(package.folder, package.names)
    if cfg.dry_run:
        if not cfg.bundle:
            look_ahead(package, release, cfg.private, console.print)
        console.print("Nothing was published. The files are in", cfg.output)
        zeros = "" if cfg.bundle else ", zeros standing for the commit"
        console.print(f"Entry of pretrained.yaml{zeros}:\n")
    elif cfg.bundle:
        folder = bundle(package.folder, package.names, release.name)
        console.print(f"Written: {folder}")
    else:
        commit = upload(package, release, cfg.private, console.print)
        release = release.model_copy(update={"revision": commit})
        console.print("Entry of pretrained.yaml:\n")
    console.print(entry_text(release), markup=False, highlight=False, soft_wrap=True)
    if cfg.release and not cfg.dry_run:
        console.print(f"Written: {write_release(release)}")
    return release


def prepare(
    path: Path, cfg: PublishConfig, console: Console
) -> tuple[Package, Release]:
    """
    Writes what `publish` uploads to `cfg.output` and shows it; asks the Hub nothing.

    Returns:
        The files with their card, and the release but for its commit.

    Raises:
        ValueError: as `publish`.
        FileNotFoundError: as `make_package`.
    """
    check_repo_id(cfg.repo)
    check_writable(cfg.output)
    if cfg.bundle and cfg.release is None:
        raise ValueError("--bundle takes the name of the release: give --release.")
    card = cfg.output / CARD
    if card.is_file() and released_name(card.read_text(errors="replace")) is None:
        raise ValueError(
            f"{card} is not a card of a release and would be replaced. Give another --output."
        )
    comparison = (cfg.comparison or path) / "comparison.json"
    known = {one.name: one for one in load_zoo().releases}.get(cfg.release or "")
    model = cfg.base_model or (known.model if known else None)
    if cfg.base_model is not None:
        _check_model(SavedSAE.read(path).reading, cfg.base_model)
    package = make_package(path, comparison, cfg.output, model)
    release = _release(path, cfg, package, known)
    if cfg.release:
        # what is wrong with the entry must not show only after the upload
        list_with(release)
    dataset = scrubbed(cfg.dataset or package.metadata.get("dataset_path") or UNKNOWN)
    model_card(package, release, dataset).save(card)
    package.names.append(CARD)
    where = "the package" if cfg.bundle else f"{cfg.repo}, in one commit"
    console.print(_contents(package, where))
    for doubt in doubts(package.measured.evaluation):
        console.print(f"[yellow]The card warns: {doubt}[/yellow]")
    return package, release


def _release(
    path: Path, cfg: PublishConfig, package: Package, known: Release | None
) -> Release:
    """The entry, but for the commit, which is not known before it is made."""
    model = str(package.metadata.get("model_name") or UNKNOWN)
    if known:
        reading = SavedSAE.read(path).reading
        recorded = str(reading.model_on_the_hub or reading.model)
        _check_same(known, package.hook, recorded, cfg.base_model)
    sae = ReleasedSAE(
        id=package.hook,
        path=package.hook,
        meta_path=package.meta_path,
        l0=round(package.measured.evaluation.reconstruction.l0, 2),
        explained_variance=round(
            package.measured.evaluation.reconstruction.explained_variance, 4
        ),
        files={
            name: sha256
            for name, sha256 in package.sha256().items()
            if name.startswith(f"{package.hook}/")
        },
    )
    return Release(
        name=cfg.release or cfg.repo.split("/")[1],
        repo_id=cfg.repo,
        revision=None if cfg.bundle else "0" * 40,
        published=not cfg.bundle,
        bundled=cfg.bundle,
        model=scrubbed(model),
        hook=package.hook,
        conversion_func=LOADER,
        licence=cfg.licence or (known.licence if known else UNKNOWN),
        paper=known.paper if known else package.objective.paper,
        training=scrubbed(cfg.training or _training(path, package, cfg.dataset)),
        command=known.command if known else None,
        saes=[sae],
    )


def _check_model(recorded: Reading, given: str) -> None:
    """A name on the Hub for a path is the publisher's word; another name than the SAE's is none."""
    on_the_hub = recorded.model_on_the_hub
    if on_the_hub is None and recorded.model and not Path(recorded.model).is_absolute():
        on_the_hub = recorded.model
    if on_the_hub and on_the_hub.split("/")[-1] != given.split("/")[-1]:
        raise ValueError(
            f"--base_model {given}: the SAE records that it was trained on {on_the_hub!r}, and "
            "its figures are of that model. Leave the option out, or give its name on the Hub."
        )


def _check_same(known: Release, hook: str, model: str, base_model: str | None) -> None:
    """A name that is listed stays the name of what it is listed as."""
    wanted = (base_model or model).split("/")[-1]
    if known.hook != hook or known.model.split("/")[-1] != wanted:
        raise ValueError(
            f"The release {known.name!r} is of the hook {known.hook!r} of {known.model!r}, but "
            f"this SAE reads {hook!r} of {base_model or model!r}. Give another --release, or "
            "the model's name on the Hub with --base_model."
        )
    if others := [sae.id for sae in known.saes if sae.id != hook]:
        raise ValueError(
            f"The release {known.name!r} has the SAEs {', '.join(others)} too, which this "
            "would drop. Give another --release."
        )


def _training(path: Path, package: Package, dataset: str | None) -> str:
    """A sentence from what the SAE and its runner recorded, and the name that is given to its text."""
    settings, metadata = package.measured.training, package.metadata
    if missing := sorted(RECORDED - set(settings)):
        raise ValueError(
            f"{path} does not record the {missing[0]} that it was trained with. Say how it "
            "was trained with --training."
        )
    tokens = ""
    if (path / RUNNER_CFG_FILENAME).is_file():
        runner: dict[str, Any] = json.loads((path / RUNNER_CFG_FILENAME).read_text())
        tokens = f"{runner.get('training_tokens', 0):,} tokens of "
    recorded = metadata.get("dataset_path")
    text = dataset or recorded or "a text that is not recorded"
    if dataset and recorded not in (None, dataset):
        text += f" (recorded as {recorded})"
    model = metadata.get("model_name") or "a model that is not recorded"
    if file := metadata.get("model_file"):
        model += f" ({file})"
    weight = f"{settings['decomposability_coefficient']:g}"
    objective = f"penalty {settings.get('penalty')}, lambda {weight}"
    if settings["decomposability_coefficient"] == 0:
        objective = "no penalty"
    if package.objective.has_meta_sae:
        objective = (
            f"lambda_2 {weight}, sigma^2 {settings['decomposability_bandwidth']:g}, "
            f"meta SAE {settings['meta_d_sae']:,} / {settings['meta_k']:g}"
        )
    return (
        f"{tokens}{text} through {model}, context {metadata.get('context_size')}, "
        f"k {settings['k']:g}, {objective}"
    )


def _contents(package: Package, where: str) -> Table:
    table = Table("file", "size", "sha256", title=f"For {where}")
    for name, sha256 in package.sha256().items():
        size = decimal((package.folder / name).stat().st_size)
        table.add_row(name, size, sha256[:16])
    return table
