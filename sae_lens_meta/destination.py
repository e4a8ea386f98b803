"""Where a run writes to: proven to take files, held by one run at a time, and never half written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from filelock import FileLock, Timeout

LOCK = ".lock"


def check_writable(folder: Path) -> None:
    """
    Proves that files can be written to `folder`, which need not exist, and leaves no trace.

    Raises:
        OSError: if they cannot, saying why.
    """
    _remove(_make_writable(folder))


def check_new(path: Path, overwrite: bool, suffix: str | None = None) -> None:
    """
    Proves that the file `path` can be written, and that nothing is lost by it.

    Args:
        path: of the file.
        overwrite: whether it may exist.
        suffix: that its name must end in, where other programs know the kind of file by that.

    Raises:
        ValueError: if it exists and is not to be overwritten, is a folder, or ends otherwise.
        OSError: if its folder cannot be written to.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder. Give the name of a file.")
    if suffix is not None and path.suffix.lower() != suffix:
        raise ValueError(
            f"{path} does not end in {suffix}, by which other programs know what it is. Give "
            f"--output {path}{suffix}."
        )
    if path.exists() and not overwrite:
        raise ValueError(
            f"{path} exists. Write elsewhere, or give --overwrite to replace it."
        )
    check_writable(path.parent)


def check_empty(folder: Path, overwrite: bool) -> None:
    """
    Proves that files can be written to `folder`, and are not mixed with others.

    Raises:
        ValueError: if it holds files and is not to be overwritten.
        OSError: if files cannot be written to it.
    """
    held_already = folder.is_dir() and any(p.name != LOCK for p in folder.iterdir())
    if held_already and not overwrite:
        raise ValueError(
            f"{folder} holds files already. Give another --output, or --overwrite to write "
            "over them."
        )
    check_writable(folder)


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[None]:
    """
    Makes `folder` and holds it by a file in it, which is gone afterwards.

    One that a killed run has left holds nothing. A run that fails before it has written anything
    leaves no folder that was not there.

    Args:
        folder: that is written to.
        name: of the file, where what is held is less than the whole folder.

    Raises:
        ValueError: if another run holds it.
        OSError: if files cannot be written to it.
    """
    made = _make_writable(folder)
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
        if not (folder / name).exists():  # the run before was just taking it away
            lock.release()
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"{folder} is being written by another run. Wait for it, or give another --output."
        ) from error
    has_failed = True
    try:
        yield
        has_failed = False
    finally:
        # once, and while nobody else can hold it: the next one may be another run's
        with suppress(OSError):  # of which the run's own error would not be heard
            (folder / name).unlink()
        if has_failed:
            _remove(made)
        lock.release()


def _make_writable(folder: Path) -> list[Path]:
    """The folders that had to be made, `folder` first; removed again where it cannot be used."""
    made: list[Path] = []
    try:
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        _remove(made)
        raise OSError(
            f"Nothing can be written to {folder}: {error.strerror}. Give another folder."
        ) from error
    return made


def _remove(folders: Iterable[Path]) -> None:
    with suppress(OSError):  # gone, or another process writes to it by now
        for path in filter(Path.is_dir, folders):
            path.rmdir()


def check_same(
    folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]
) -> None:
    """
    Checks that the run in `folder` is the one that is asked for, by its settings.

    Raises:
        ValueError: if it is another one, naming the first setting in which they differ.
    """
    for key, value in asked.items():
        there = found.get(key)
        if there != value:
            same = f"--dataset {there}, or " if key == "dataset" else ""
            raise ValueError(
                f"{folder} holds a run with {key} {there!r}; this one has {value!r}. Give "
                f"{same}another --output, or delete it."
            )


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a run killed meanwhile leaves the one before, or none."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
