"""Text to train and to measure on, by name, path or Hub id, split by document."""

import random
from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset

PYDOC = "pydoc"
TEXT_FILES = (".jsonl", ".jsonl.gz", ".txt")


def load_text(
    name: str, n_held_out: int, seed: int = 0, n_skipped: int = 0
) -> tuple[Dataset | IterableDataset, Dataset]:
    """
    Text for training, and other documents for measuring.

    Args:
        name: `pydoc` (the English reference that comes with CPython, 0.5 MB), the path of a
            .jsonl or .jsonl.gz file with a field `text`, of a .txt file whose paragraphs are the
            documents, or a dataset on the Hub, which is streamed, with the name of its
            configuration after a colon where it has several.
        n_held_out: number of documents kept out of training.
        seed: order of the documents of `pydoc` and of a file.
        n_skipped: documents to pass over before those that are held out.

    Raises:
        FileNotFoundError: if a path is given that does not exist.
        ValueError: if there are not more documents than are held out.
    """
    documents = _documents(name, seed).skip(n_skipped)
    first = list(documents.take(n_held_out + 1))
    if len(first) <= n_held_out:
        raise ValueError(
            f"{name!r} has {n_skipped + len(first)} documents: with {n_skipped} passed over "
            f"and {n_held_out} held out for "
            "measuring, none are left to train on. Hold out fewer or give more text."
        )
    return documents.skip(n_held_out), Dataset.from_list(first[:n_held_out])


def _documents(name: str, seed: int) -> Dataset | IterableDataset:
    if name == PYDOC:
        return _from_pydoc(seed)
    if name.endswith(TEXT_FILES):
        return _from_file(name, seed)
    path, _, configuration = name.partition(":")
    dataset = load_dataset(path, configuration or None, split="train", streaming=True)
    assert isinstance(dataset, IterableDataset)
    return dataset


def _from_pydoc(seed: int) -> Dataset:
    from pydoc_data.topics import topics

    # some topics are given under two names
    documents = [{"text": text} for text in sorted(set(topics.values()))]
    random.Random(seed).shuffle(documents)
    return Dataset.from_list(documents)


def _from_file(name: str, seed: int) -> Dataset:
    if not Path(name).is_file():
        raise FileNotFoundError(f"No text file at {name}.")
    if Path(name).stat().st_size == 0:
        raise ValueError(f"The text file {name} is empty.")
    if name.endswith(".txt"):
        dataset = load_dataset(
            "text", data_files=name, split="train", sample_by="paragraph"
        )
    else:
        dataset = load_dataset("json", data_files=name, split="train")
    assert isinstance(dataset, Dataset)
    if "text" not in dataset.column_names:
        columns = ", ".join(dataset.column_names)
        raise ValueError(f"{name} has no column 'text', only: {columns}.")
    return dataset.shuffle(seed=seed)
