import gzip
import json
from pathlib import Path

import pytest

from sae_lens_meta.text import load_text


def texts(dataset) -> list[str]:
    return [row["text"] for row in dataset]


def test_pydoc_is_split_by_document_and_repeats_by_seed() -> None:
    training, held_out = load_text("pydoc", n_held_out=5, seed=1)
    assert len(held_out) == 5
    assert len(texts(training)) > 50
    assert not set(texts(training)) & set(texts(held_out))
    assert texts(load_text("pydoc", 5, seed=1)[1]) == texts(held_out)
    assert texts(load_text("pydoc", 5, seed=2)[1]) != texts(held_out)


@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
def test_a_json_lines_file_is_read_plain_or_compressed(
    tmp_path: Path, name: str
) -> None:
    lines = "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(9))
    write = gzip.compress if name.endswith("gz") else (lambda data: data)
    (tmp_path / name).write_bytes(write(lines.encode()))
    training, held_out = load_text(str(tmp_path / name), n_held_out=2)
    assert sorted(texts(training) + texts(held_out)) == [
        f"document {i}" for i in range(9)
    ]


def test_a_missing_file_an_empty_one_and_a_short_one_are_told_apart(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError, match="No text file at .*nowhere.jsonl"):
        load_text(str(tmp_path / "nowhere.jsonl"), 2)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl is empty"):
        load_text(str(tmp_path / "empty.jsonl"), 2)
    (tmp_path / "short.txt").write_text("one\nmore\n\ntwo\n")
    with pytest.raises(ValueError, match="has 2 documents, too few .* hold out 3"):
        load_text(str(tmp_path / "short.txt"), 3)
    (tmp_path / "other.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match="no column 'text', only: body"):
        load_text(str(tmp_path / "other.jsonl"), 1)
