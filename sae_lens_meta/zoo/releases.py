"""pretrained.yaml: the list of releases, its types, and what can be wrong with it."""

import re
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationError,
    model_validator,
)
from sae_lens.constants import (
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
)
from sae_lens.loading.pretrained_saes_directory import (
    get_pretrained_saes_directory as known_releases,
)

from sae_lens_meta.destination import write_whole
from sae_lens_meta.formats import check_format

FORMAT = 1
LOADER = "sae_lens_meta"  # what SAELens's directory calls our loader
NEEDED_FILES = {SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME}
ALLOWED_FILES = {*NEEDED_FILES, SPARSITY_FILENAME}
# what Windows takes for a device, whatever ending it has
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{value!r} is not {what}")
        return value

    return AfterValidator(check)


def check_inside(value: str) -> str:
    """
    A path inside a repository, which every system can have below a folder.

    Raises:
        ValueError: if it is absolute, leads out of the folder or nowhere, is not written
            plainly, or has a part that is no name of a file or folder on Windows.
    """
    if value.startswith("/"):
        raise ValueError(
            f"{value!r} is not a plain path inside the repository: absolute"
        )
    for part in value.split("/"):
        if reason := _why_no_name(part):
            raise ValueError(
                f"{value!r} is not a plain path inside the repository: {reason}"
            )
    return value


def _why_no_name(part: str) -> str | None:
    """What keeps one part of a path from being a name; None where nothing does."""
    if part in ("", ".", ".."):
        return f"it has {part!r} where the name of a file or folder belongs"
    if not part.isprintable():
        return f"{part!r} has a character that cannot be seen"
    if found := set(part) & set('\\:*?"<>|'):
        return f"{part!r} has a {min(found)!r}, which no name has on Windows"
    if part[-1] in ". ":
        return f"{part!r} ends in {part[-1]!r}, which Windows drops"
    if part.split(".")[0].rstrip().lower() in DEVICES:
        return f"{part!r} is the name of a device on Windows"
    return None


def check_repo_id(value: str) -> str:
    """
    A repository on the Hub, `organisation/name`.

    Raises:
        ValueError: if it is not one.
    """
    try:
        validate_repo_id(value)
    except HFValidationError as error:
        raise ValueError(str(error)) from error
    if "/" not in value:
        raise ValueError(f"{value!r} is not of the form organisation/name")
    return value


# without ours, which `register_zoo` has it list as well
saelens_releases = getattr(known_releases, "of_saelens", known_releases)


def check_release_name(value: str) -> str:
    """
    A name for `SAE.from_pretrained`.

    Raises:
        ValueError: if it has other characters than letters, digits, `.`, `-` and `_`, cannot
            be the name of a folder, or is that of a release of SAELens.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}", value, re.ASCII):
        raise ValueError(
            f"{value!r} is no name for a release: letters, digits, '.', '-' and '_'"
        )
    if reason := _why_no_name(value):
        raise ValueError(f"{value!r} is no name for a release: {reason}")
    if value in saelens_releases():
        raise ValueError(f"{value!r} is the name of a release of SAELens")
    return value


Inside = Annotated[str, AfterValidator(check_inside)]
Sha256 = Annotated[str, _matching(r"[0-9a-f]{64}", "a sha256 in hexadecimal")]
Revision = Annotated[str, _matching(r"[0-9a-f]{40}", "the 40 digits of a commit")]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


class ReleasedSAE(_Strict):
    """
    One SAE of a release.

    Attributes:
        id: what SAELens calls its `sae_id`.
        path: its folder in the repository.
        meta_path: the folder of its meta SAE; None where it was trained without one.
        l0: mean number of latents that fire on a held-out token; None before it exists.
        explained_variance: as `ReconstructionMeter` takes it; None before it exists.
        files: sha256 of every file, by its path in the repository.
    """

    id: str
    path: Inside
    meta_path: Inside | None = None
    l0: float | None = None
    explained_variance: float | None = None
    files: dict[Inside, Sha256] = {}

    @model_validator(mode="after")
    def _files_are_those_of_its_saes(self) -> "ReleasedSAE":
        for name in self.files:
            folder, _, base = name.rpartition("/")
            if folder not in self.folders or base not in ALLOWED_FILES:
                raise ValueError(
                    f"{name!r} is no file of the SAEs in "
                    f"{' and '.join(map(repr, self.folders))}: those are "
                    f"{', '.join(sorted(ALLOWED_FILES))}"
                )
        return self

    @property
    def folders(self) -> tuple[str, ...]:
        """That of the SAE, and that of its meta SAE where it has one."""
        return (self.path,) if self.meta_path is None else (self.path, self.meta_path)

    def files_of(self, folder: str) -> dict[str, str]:
        """sha256 by path of the files in one of `folders`."""
        return {
            f: sha for f, sha in self.files.items() if f.rpartition("/")[0] == folder
        }


class Release(_Strict):
    """
    A release.

    Attributes:
        name: what `SAE.from_pretrained` is given.
        repo_id: repository on the Hub.
        revision: commit that is downloaded; None before it exists.
        published: whether weights exist.
        bundled: whether they travel inside the package.
        model: language model.
        hook: whose activations the SAEs read.
        conversion_func: what SAELens loads them with; there is one.
        licence: of the weights.
        paper: URL; None where what they were trained with is from none.
        training: one sentence on how the SAEs were, or are to be, trained.
        command: trains it; may be left out where weights exist.
        saes: one or several.
    """

    name: Annotated[str, AfterValidator(check_release_name)]
    repo_id: Annotated[str, AfterValidator(check_repo_id)]
    revision: Revision | None = None
    published: bool
    bundled: bool = False
    model: str
    hook: str
    conversion_func: Literal["sae_lens_meta"]
    licence: str
    paper: str | None = None
    training: str
    command: str | None = None
    saes: list[ReleasedSAE]

    @model_validator(mode="after")
    def _weights_are_recorded_where_they_exist(self) -> "Release":
        if not self.saes:
            raise ValueError(f"{self.name!r} has no SAE")
        if len({sae.id for sae in self.saes}) < len(self.saes):
            raise ValueError(f"{self.name!r} has an SAE id twice")
        if not (self.published or self.bundled):
            if self.command is None:
                raise ValueError(f"{self.name!r} has no weights and no command")
            return self
        if self.published and self.revision is None:
            raise ValueError(f"{self.name!r} is published but has no revision")
        for sae in self.saes:
            wanted = {f"{d}/{f}" for d in sae.folders for f in NEEDED_FILES}
            if missing := sorted(wanted - set(sae.files)):
                raise ValueError(f"no sha256 of {missing[0]!r}, though weights exist")
            if sae.l0 is None or sae.explained_variance is None:
                raise ValueError(f"no l0 or explained_variance of {sae.id!r}")
        return self


class Zoo(_Strict):
    """
    All of pretrained.yaml.

    Attributes:
        releases: in the file's order.
        format: of the file; 1.
    """

    releases: list[Release]
    format: int = FORMAT

    @model_validator(mode="after")
    def _is_of_a_known_format(self) -> "Zoo":
        check_format("it", self.format, FORMAT)
        return self


def zoo_path() -> Path:
    """pretrained.yaml as it was installed."""
    return Path(str(files("sae_lens_meta.zoo") / "pretrained.yaml"))


def load_zoo(path: Path | None = None) -> Zoo:
    """
    Reads pretrained.yaml.

    Raises:
        ValueError: if it is not a list of releases, naming the line that is wrong.
    """
    path = path or zoo_path()
    return _parsed(path.read_text(encoding="utf-8"), path)


def _parsed(text: str, path: Path) -> Zoo:
    root = None
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        _refuse_duplicate_keys(root, path)
        zoo = Zoo.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        # of a misspelt key, what is there says more than what is missing
        errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        first = errors[0]
        line = _line_of(root, first["loc"])
        steps = ".".join(map(str, first["loc"]))
        where = f"line {line}, {steps}" if steps else f"line {line}"
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}, {where}: {message}.") from error
    known = set()
    for i, release in enumerate(zoo.releases):
        for value in (
            release.name,
            *(f"{release.repo_id}/{s.path}" for s in release.saes),
        ):
            if value in known:
                line = _line_of(root, ("releases", i))
                raise ValueError(f"{path}, line {line}: {value!r} stands twice.")
            known.add(value)
    return zoo


def entry_text(release: Release) -> str:
    """A release as it stands in pretrained.yaml."""
    plain = release.model_dump(exclude_defaults=True)
    lines = yaml.safe_dump([plain], sort_keys=False, allow_unicode=True, width=100)
    return textwrap.indent(lines, "  ")


def list_with(release: Release, path: Path | None = None) -> str:
    """
    The text of pretrained.yaml with an entry in the place of the one of that name, or at the end.

    The other lines, comments included, stay as they are. A round trip through ruamel.yaml would
    break and indent them anew, and drop a comment with the entry that stands before it.

    Raises:
        ValueError: if the list is not valid, before or with the entry.
    """
    path = path or zoo_path()
    names = [known.name for known in load_zoo(path).releases]
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    start = end = len(lines)
    if release.name in names:
        root: Any = yaml.compose(text, yaml.SafeLoader)
        (entries,) = (v.value for k, v in root.value if k.value == "releases")
        place = names.index(release.name)
        start = entries[place].start_mark.line
        if place + 1 < len(names):
            end = entries[place + 1].start_mark.line
        while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
            end -= 1  # a comment belongs to what follows it
    written = "".join([*lines[:start], entry_text(release), *lines[end:]])
    _parsed(written, path)
    return written


def write_release(release: Release, path: Path | None = None) -> Path:
    """
    Writes pretrained.yaml as `list_with` has it.

    Returns:
        The file that was written.

    Raises:
        ValueError: as `list_with`; the file is then untouched.
    """
    path = (path or zoo_path()).resolve()
    written = list_with(release, path)
    write_whole(path, written)
    return path


def _refuse_duplicate_keys(node: Any, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        known = set()
        for key, value in node.value:
            if key.value in known:
                line = key.start_mark.line + 1
                raise ValueError(f"{path}, line {line}: {key.value!r} stands twice.")
            known.add(key.value)
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def _line_of(node: Any, location: Sequence[int | str]) -> int:
    """Line of the innermost node on the way to `location` that exists."""
    line = 1 if node is None else node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
        elif isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == step]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
            continue
        else:
            break
        line = node.start_mark.line + 1
    return line
