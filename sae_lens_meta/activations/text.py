"""Text to train and to measure on, by name, path or Hub id, split by document."""

import hashlib
import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from glob import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError

from sae_lens_meta.activations.brown import is_brown, read_brown

PYDOC = "pydoc"
KINDS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}
COMPRESSED = (".gz", ".zst")
TEXT = "text"
# columns that SAELens reads where there is no text, tokens for instance
TOKENS = ("tokens", "input_ids")  # which SAELens prefers to text
ALSO_READ = (
    *TOKENS,
    "problem",
    "messages",
    "conversation",
    "conversations",
)
N_IDENTIFYING = 100


@dataclass(frozen=True)
class TextIdentity:
    """
    What a text holds, whatever it is called, in whatever format and wherever it lies.

    Attributes:
        name: as it was given.
        sha256: of its documents in their own order, each with its length before it.
        first_sha256: of the first 100 of them.
        n_documents: how many there are; None for a dataset on the Hub.
        is_whole: whether all are hashed; of a dataset on the Hub, and of one of tokens, the
            first 100 are.
    """

    name: str
    sha256: str
    first_sha256: str
    n_documents: int | None
    is_whole: bool


def load_text(
    name: str, n_held_out: int, seed: int = 0, n_skipped: int = 0
) -> tuple[Dataset | IterableDataset, Dataset]:
    """
    Text for training, and other documents for measuring.

    A path that exists is read, whatever it is called; else the name is looked for on the Hub.
    Documents are the strings in the column `text`; a row whose text is null, no string or
    empty is no document, and a warning counts those that are left out.

    Args:
        name: `pydoc` (the English reference that comes with CPython, 0.5 MB); the path of a .jsonl,
            .json, .csv or .parquet file with a field `text`, or of a .txt file whose paragraphs are
            the documents, which may be compressed (.gz, .zst); the path of a folder of such
            files, of one that `datasets` has saved, or of the tagged Brown corpus (`brown`); or a
            dataset on the Hub, which is streamed. A folder's or dataset's configuration stands after a colon where it has
            several.
        n_held_out: number of documents kept out of training.
        seed: order of the documents of `pydoc`, of a file and of the Brown corpus. Those of
            another folder and of a dataset stay in theirs.
        n_skipped: documents to pass over before those that are held out.

    Returns:
        The documents after those held out, of which there may be none
        (`check_left_to_train`), and those held out.

    Raises:
        FileNotFoundError: if a path is given that does not exist.
        ValueError: if the text cannot be read, or has fewer documents than are passed over and
            held out, or `n_held_out` is below 1 or `n_skipped` or `seed` below 0.
    """
    if n_held_out < 1:
        raise ValueError(f"At least 1 document must be held out, got {n_held_out}.")
    if n_skipped < 0:
        raise ValueError(f"Documents to pass over must be 0 or more, got {n_skipped}.")
    if seed < 0:
        raise ValueError(f"The text_seed must be 0 or more, got {seed}.")
    documents = _in_order_of(seed, name)
    held_out = list(_first(after(documents, n_skipped), n_held_out))
    if len(held_out) < n_held_out:
        n_documents = sum(1 for _ in _first(documents, n_skipped + n_held_out))
        raise ValueError(
            f"{name!r} has {n_documents} documents, too few to pass over {n_skipped} and hold "
            f"out {n_held_out}. Pass over or hold out fewer, or give more text."
        )
    training = after(documents, n_skipped + n_held_out)
    return training, Dataset.from_list(held_out)


def check_left_to_train(
    training: Dataset | IterableDataset, name: str, n_held_out: int
) -> None:
    """
    Checks that `load_text` left documents for a training.

    Raises:
        ValueError: if all documents of the text `name` are held out.
    """
    if next(iter(training), None) is None:
        raise ValueError(
            f"All {n_held_out} documents of {name!r} are held out for measuring; none are left "
            "to train on. Hold out fewer or give more text."
        )


def text_identity(name: str) -> TextIdentity:
    """
    The hash of what a text holds: of its documents, as `load_text` takes it, before any are shuffled.

    Raises:
        FileNotFoundError: if a path is given that does not exist.
        ValueError: if the text cannot be read.
    """
    documents = read_documents(name)
    # tokens of a training are many, and their rows are slow to read
    is_whole = isinstance(documents, Dataset) and is_read_as_text(documents)
    digest, first = hashlib.sha256(), ""
    looked_at = documents if is_whole else _first(documents, N_IDENTIFYING)
    for i, document in enumerate(_contents(looked_at), 1):
        encoded = document.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
        if i == N_IDENTIFYING:
            first = digest.hexdigest()
    n_documents = len(documents) if isinstance(documents, Dataset) else None
    whole = digest.hexdigest()
    return TextIdentity(name, whole, first or whole, n_documents, is_whole)


def _first(documents: Dataset | IterableDataset, n: int) -> Dataset | IterableDataset:
    # of fewer, `datasets` before version 4 takes none
    return documents.take(
        min(n, len(documents)) if isinstance(documents, Dataset) else n
    )


def after(documents: Dataset | IterableDataset, n: int) -> Dataset | IterableDataset:
    """Those after the first `n`, of which there may be none."""
    # `skip` raises an IndexError where nothing is left
    if isinstance(documents, Dataset) and n >= len(documents):
        return documents.select([])
    return documents.skip(n)


def _in_order_of(seed: int, name: str) -> Dataset | IterableDataset:
    documents = read_documents(name)
    if name == PYDOC:
        assert isinstance(documents, Dataset)
        order = list(range(len(documents)))
        random.Random(seed).shuffle(order)
        return documents.select(order)
    return documents if order_of(name, seed) is None else documents.shuffle(seed=seed)


def order_of(name: str, seed: int) -> int | None:
    """
    The seed of the order of a text's documents; None where they stay in theirs, whatever the seed.

    So one text has as many orders as it has forms: a folder and the file in it differ.
    """
    # of Brown, in whose own order the kinds of prose follow each other
    is_shuffled = name == PYDOC or _path(name).is_file() or is_brown(_path(name))
    return seed if is_shuffled else None


def read_documents(name: str) -> Dataset | IterableDataset:
    """
    All documents of a text in the order in which they stand; see `load_text`.

    Raises:
        FileNotFoundError: if a path is given that does not exist.
        ValueError: if the text cannot be read or has no documents.
    """
    if name == PYDOC:
        from pydoc_data.topics import topics

        # some topics are given under two names
        return Dataset.from_list(
            [{TEXT: text} for text in sorted(set(topics.values()))]
        )
    before, _, configuration = name.rpartition(":")
    try:
        if _path(name).is_file():
            documents = _from_file(_path(name))
        elif _path(name).is_dir():
            documents = _from_folder(_path(name), None)
        elif before and _path(before).is_dir():
            documents = _from_folder(_path(before), configuration)
        elif _looks_like_a_path(name):
            raise FileNotFoundError(f"No text file at {name}.")
        else:
            documents = load_dataset(
                before or name,
                configuration if before else None,
                split="train",
                streaming=True,
            )
    except DatasetGenerationError as error:
        raise ValueError(
            f"The text {name} cannot be read: {error.__cause__}"
        ) from error
    assert isinstance(documents, Dataset | IterableDataset)
    return _without_empty(documents, name)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _kind(path: Path) -> str | None:
    """What `datasets` calls the kind of a file, by its name."""
    plain = path.with_suffix("") if path.suffix in COMPRESSED else path
    return KINDS.get(plain.suffix)


def _looks_like_a_path(name: str) -> bool:
    """A dataset on the Hub is called `name` or `owner/name`."""
    is_local = name.startswith(("/", "./", "../", "~", "\\"))
    return is_local or name.count("/") > 1 or _kind(Path(name)) is not None


def _from_file(path: Path) -> Dataset:
    if path.stat().st_size == 0:
        raise ValueError(f"The text file {path} is empty.")
    kind = _kind(path)
    if kind is None:
        raise ValueError(
            f"What kind of text {path} holds is told by its name, which does not end in "
            f"{', '.join(KINDS)}, or one of these and {' or '.join(COMPRESSED)}. Rename it."
        )
    if path.suffix == ".zst" and not find_spec("zstandard"):
        raise ValueError(f"{path} is read with zstandard: pip install zstandard")
    files = escape(str(path))
    return load_dataset(kind, data_files=files, split="train", **_options({kind}))


def _from_folder(path: Path, configuration: str | None) -> Any:
    if is_brown(path):
        return Dataset.from_list(read_brown(path))
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        saved = load_from_disk(path)
        if isinstance(saved, DatasetDict) and "train" not in saved:
            raise ValueError(
                f"{path} has no split 'train', only: {', '.join(map(str, saved))}. Give the folder of one."
            )
        return saved["train"] if isinstance(saved, DatasetDict) else saved
    kinds = {kind for file in path.rglob("*") if (kind := _kind(file))}
    if not kinds:
        raise ValueError(
            f"The folder {path} has no text: no file that ends in {', '.join(KINDS)}."
        )
    return load_dataset(str(path), configuration, split="train", **_options(kinds))


def _options(kinds: set[str]) -> dict[str, Any]:
    if kinds == {"text"}:
        return {"sample_by": "paragraph"}
    if kinds == {"csv"}:
        return {"converters": {TEXT: str}}  # a text of digits stays one
    return {}


def _contents(documents: Dataset | IterableDataset) -> Iterator[str]:
    """The text of each row, or where it is not what is read, all of the row."""
    if is_read_as_text(documents):
        yield from texts(documents)
    elif _columns(documents):
        yield from (json.dumps(row, default=str) for row in documents)


def is_read_as_text(documents: Dataset | IterableDataset) -> bool:
    """Whether SAELens's store reads their text: not where they have tokens too."""
    columns = _columns(documents)
    return TEXT in columns and not {*TOKENS} & {*columns}


def texts(documents: Dataset | IterableDataset) -> Iterator[Any]:
    """The column `text`, whatever it holds."""
    # row by row takes 50 times as long
    batches: Any = documents.select_columns(TEXT).iter(batch_size=1000)
    for batch in batches:
        yield from batch[TEXT]


def _columns(documents: Dataset | IterableDataset) -> list[str]:
    """Names of the columns; of a stream that has no row, none."""
    return documents.column_names or list(next(iter(documents), {}))


def _is_document(text: Any) -> bool:
    return isinstance(text, str) and text != ""


def _without_empty(
    documents: Dataset | IterableDataset, name: str
) -> Dataset | IterableDataset:
    """
    Raises:
        ValueError: if there is no column to read, or nothing in it.
    """
    columns = _columns(documents)
    if columns and not {TEXT, *ALSO_READ} & set(columns):
        raise ValueError(f"{name} has no column {TEXT!r}, only: {', '.join(columns)}.")
    if TEXT not in columns:
        return documents
    if isinstance(documents, IterableDataset):
        return documents.filter(_Filter(name))
    kept = [i for i, text in enumerate(texts(documents)) if _is_document(text)]
    if not kept:
        raise ValueError(
            f"{name} has no documents: the text of each of its {len(documents)} rows is null, no "
            "string or empty."
        )
    if n_dropped := len(documents) - len(kept):
        warnings.warn(
            f"{n_dropped:,} of {len(documents):,} rows of {name!r} are left out: their text is "
            "null, no string or empty.",
            stacklevel=2,
        )
        return documents.select(kept)
    return documents


class _Filter:
    """Keeps the documents of a stream, whose length nobody knows; warns of the first other row."""

    def __init__(self, name: str):
        self.name = name
        self.has_warned = False

    def __call__(self, row: dict[str, Any]) -> bool:
        is_document = _is_document(row[TEXT])
        if not is_document and not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"Rows of {self.name!r} are left out whose text is null, no string or empty.",
                stacklevel=2,
            )
        return is_document
