import gzip
import hashlib
import json
import random
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, IterableDataset, load_dataset
from packaging.version import Version

import sae_lens_meta.activations.text as text
from sae_lens_meta.activations.text import check_left_to_train, load_text, text_identity

DOCUMENTS = [f"document {i}, of one line" for i in range(9)]


def texts(dataset: Any) -> list[str]:
    return [row["text"] for row in dataset]


def all_of(name: str, n_held_out: int = 1) -> list[str]:
    training, held_out = load_text(name, n_held_out)
    return sorted(texts(training) + texts(held_out))


def lines(documents: list[Any]) -> str:
    return "".join(json.dumps({"text": document}) + "\n" for document in documents)


def write(path: Path, documents: list[str]) -> Path:
    """A file of the kind that its name tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: Any = Dataset.from_dict({"n": range(len(documents)), "text": documents})
    kind = path.name.removesuffix(".gz").split(".")[-1]
    if kind == "parquet":
        rows.to_parquet(str(path))
    elif kind == "csv":
        rows.to_csv(str(path))
    else:
        plain = {
            "json": json.dumps([{"text": document} for document in documents]),
            "jsonl": lines(documents),
            "txt": "\n\n".join(documents),
        }[kind].encode()
        path.write_bytes(gzip.compress(plain) if path.suffix == ".gz" else plain)
    return path


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` may read files only."""
    load = text.load_dataset

    def checked(name: str, *args: Any, **kwargs: Any) -> Any:
        assert "data_files" in kwargs or Path(name).is_dir(), f"{name} is looked up"
        return load(name, *args, **kwargs)

    monkeypatch.setattr(text, "load_dataset", checked)


def test_pydoc_is_split_by_document_and_repeats_by_seed() -> None:
    training, held_out = load_text("pydoc", n_held_out=5, seed=1)
    assert len(held_out) == 5
    assert len(texts(training)) > 50
    assert not set(texts(training)) & set(texts(held_out))
    assert texts(load_text("pydoc", 5, seed=1)[1]) == texts(held_out)
    assert texts(load_text("pydoc", 5, seed=2)[1]) != texts(held_out)


def test_documents_keep_the_order_that_earlier_releases_were_held_out_in(
    tmp_path: Path,
) -> None:
    from pydoc_data.topics import topics

    expected = sorted(set(topics.values()))
    random.Random(42).shuffle(expected)
    training, held_out = load_text("pydoc", 4, 42, n_skipped=3)
    assert texts(held_out) + texts(training) == expected[3:]

    path = str(write(tmp_path / "docs.jsonl", DOCUMENTS))
    shuffled = load_dataset("json", data_files=path, split="train").shuffle(seed=42)
    training, held_out = load_text(path, 4, 42, n_skipped=3)
    assert texts(held_out) + texts(training) == texts(shuffled)[3:]


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "name",
    [
        "docs.jsonl",
        "docs.jsonl.gz",
        "docs.json",
        "docs.json.gz",
        "docs.csv",
        "docs.parquet",
        "docs.txt",
        "with:colon.jsonl",
        "br[1]*.jsonl",
        "folder/docs.jsonl",
        "folder:1/docs.parquet",
        "folder/docs.txt",
    ],
)
def test_what_is_there_is_read_and_known_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path / name, DOCUMENTS)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    given = name.split("/")[0]
    for way in (given, str(tmp_path / given), f"~/{given}"):
        assert all_of(way) == DOCUMENTS
        assert text_identity(way).sha256 == sha256_of(DOCUMENTS)
    assert text_identity(given).n_documents == 9
    assert text_identity(given).is_whole


def sha256_of(documents: list[str]) -> str:
    parts = b"".join(
        len(d.encode()).to_bytes(8, "little") + d.encode() for d in documents
    )
    return hashlib.sha256(parts).hexdigest()


@pytest.mark.usefixtures("no_hub")
def test_a_saved_dataset_is_read_with_its_split(tmp_path: Path) -> None:
    saved: Any = Dataset.from_dict({"text": DOCUMENTS})
    saved.save_to_disk(tmp_path / "saved")
    assert all_of(str(tmp_path / "saved")) == DOCUMENTS
    assert text_identity(str(tmp_path / "saved")).sha256 == sha256_of(DOCUMENTS)
    both = saved.train_test_split(test_size=3, shuffle=False)
    both.save_to_disk(tmp_path / "both")
    assert all_of(str(tmp_path / "both")) == DOCUMENTS[:6]
    del both["train"]
    both.save_to_disk(tmp_path / "test_only")
    with pytest.raises(ValueError, match="no split 'train', only: test"):
        load_text(str(tmp_path / "test_only"), 1)


def test_the_identity_follows_the_documents_and_their_order(tmp_path: Path) -> None:
    found = {}
    for name, documents in {
        "a": ["ab", "c"],
        "split": ["a", "bc"],
        "turned": ["c", "ab"],
        "more": ["ab", "c", "d"],
    }.items():
        path = write(tmp_path / f"{name}.jsonl", documents)
        found[name] = text_identity(str(path)).sha256
    assert len(set(found.values())) == 4


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["no.csv", "./no", "a/b/no", "~/no", "no.jsonl.zst"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"No text file at {name}"):
        load_text(name, 1)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No text file at .*nowhere.jsonl"):
        load_text(str(tmp_path / "nowhere.jsonl"), 2)
    for name, content, message in [
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("short.txt", "one\nmore\n\ntwo\n", "has 2 documents, too few .* hold out 3"),
        ("other.jsonl", '{"body": "x"}\n', "no column 'text', only: body"),
        ("cut.jsonl", '{"text": "x"}\n{"text": "y', "cut.jsonl cannot be read: JSON"),
        ("docs.docx", "x", "docs.docx .* does not end in .jsonl, .json"),
        ("nulls.jsonl", '{"text": null}\n', "no documents: .* each of its 1 rows"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            load_text(str(tmp_path / name), 3)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder has no text: no file that ends in"):
        load_text(str(tmp_path / "folder"), 1)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin1"))
    with pytest.raises(ValueError, match="latin.txt cannot be read: 'utf-8' codec"):
        load_text(str(tmp_path / "latin.txt"), 1)


def test_zstd_is_read_or_the_package_named_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.zst"
    if find_spec("zstandard"):
        import zstandard  # pyright: ignore[reportMissingImports]

        path.write_bytes(zstandard.compress(lines(DOCUMENTS).encode()))
        assert all_of(str(path)) == DOCUMENTS
    else:
        path.write_bytes(b"\x28\xb5\x2f\xfd")
        with pytest.raises(ValueError, match="pip install zstandard"):
            load_text(str(path), 1)


def test_all_documents_can_be_measured_but_none_be_left_for_a_training(
    tmp_path: Path,
) -> None:
    path = str(write(tmp_path / "docs.jsonl", DOCUMENTS))
    training, held_out = load_text(path, len(DOCUMENTS))
    assert sorted(texts(held_out)) == DOCUMENTS
    with pytest.raises(ValueError, match="All 9 documents .* none are left to train"):
        check_left_to_train(training, path, 9)
    check_left_to_train(load_text(path, 8)[0], path, 8)


def test_rows_without_text_are_left_out_counted_and_change_nothing_else(
    tmp_path: Path,
) -> None:
    path = str(write(tmp_path / "docs.jsonl", DOCUMENTS))
    odd: list[Any] = [None, 5, "", ["x"], {"text": "x"}]
    if Version(datasets.__version__) < Version("5"):
        # which refuses a column of several types
        odd = [None, None, "", "", None]
    (tmp_path / "odd.jsonl").write_text(
        lines(odd[:2]) + lines(DOCUMENTS) + '{"other": 1}\n' + lines(odd[2:])
    )
    with pytest.warns(UserWarning, match="6 of 15 rows of .*odd.jsonl. are left out"):
        found = load_text(str(tmp_path / "odd.jsonl"), 3, seed=7, n_skipped=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = load_text(path, 3, seed=7, n_skipped=1)
        identity = text_identity(path)
    assert list(map(texts, found)) == list(map(texts, expected))
    with pytest.warns(UserWarning, match="are left out"):
        odd_identity = text_identity(str(tmp_path / "odd.jsonl"))
    assert odd_identity.sha256 == identity.sha256
    assert odd_identity.n_documents == 9


def test_a_stream_leaves_out_rows_without_text_and_is_known_by_its_first_hundred(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [f"document {i}" for i in range(150)]
    n_read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal n_read
        for document in [None, *documents]:
            n_read += 1
            yield {"text": document}

    def stream(*_args: Any, **_kwargs: Any) -> IterableDataset:
        return IterableDataset.from_generator(rows)

    # there is no Hub to stream from
    monkeypatch.setattr(text, "load_dataset", stream)
    with pytest.warns(UserWarning, match="Rows of 'owner/name' are left out"):
        training, held_out = load_text("owner/name", 2, n_skipped=1)
    assert texts(held_out) == documents[1:3]
    assert texts(training) == documents[3:]
    n_read = 0
    with pytest.warns(UserWarning, match="Rows of 'owner/name' are left out"):
        found = text_identity("owner/name")
    assert n_read < 150
    assert (found.sha256, found.n_documents) == (sha256_of(documents[:100]), None)
    assert not found.is_whole


@pytest.mark.parametrize(
    ("n_held_out", "n_skipped", "message"),
    [
        (0, 0, "At least 1 document must be held out, got 0"),
        (-3, 0, "must be held out, got -3"),
        (2, -1, "pass over must be 0 or more, got -1"),
        (5, 200, "has 9 documents, too few to pass over 200"),
    ],
)
def test_numbers_of_documents_that_make_no_sense_are_refused(
    tmp_path: Path, n_held_out: int, n_skipped: int, message: str
) -> None:
    path = str(write(tmp_path / "docs.jsonl", DOCUMENTS))
    with pytest.raises(ValueError, match=message):
        load_text(path, n_held_out, n_skipped=n_skipped)


def test_a_seed_below_0_is_named() -> None:
    with pytest.raises(ValueError, match="text_seed must be 0 or more, got -1"):
        load_text("pydoc", 3, -1)
