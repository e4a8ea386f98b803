"""Whether documents were held out is told by what a text holds, not by what it is called."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.evaluation.held_out import (
    Documents,
    default_documents,
    overlaps,
    seen_by,
)
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.text import text_identity

SEED = 42


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"text": f"document {i}"}) for i in range(40)]
    path.write_text("\n".join(rows))
    return path


def trained(folder: Path, text: Path | None, **metadata: Any) -> SavedSAE:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=4, d_sae=8))
    if text is not None:
        sae.cfg.metadata.dataset_path = str(text)
        sae.cfg.metadata.text_sha256 = text_identity(str(text)).sha256
        sae.cfg.metadata.held_out = {"documents": 10, "text_seed": SEED}
    for key, value in metadata.items():
        setattr(sae.cfg.metadata, key, value)
    sae.save_model(folder)
    return SavedSAE.read(folder)


def documents(name: Path | str, first: int = 0, number: int = 10) -> Documents:
    return Documents(text_identity(str(name)), first, number, SEED)


def calibration(text: Path, first: int, number: int) -> dict[str, Any]:
    sha256 = text_identity(str(text)).sha256
    of = {"sha256": sha256, "first_document": first, "documents": number}
    return {"rule": "rate", "n_tokens": 1, "text": of | {"text_seed": SEED}}


def test_the_training_text_is_known_under_every_name(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = trained(tmp_path / "sae", corpus)
    link, copy = tmp_path / "link.jsonl", tmp_path / "copy.jsonl"
    link.symlink_to(corpus)
    copy.write_text(corpus.read_text())
    os.utime(copy, (0, 0))
    monkeypatch.chdir(tmp_path)
    for name in (corpus, "corpus.jsonl", "./corpus.jsonl", link, copy):
        assert seen_by(sae, documents(name)) == "held out"
        # the eleventh document was trained on
        assert seen_by(sae, documents(name, number=11)) == "seen"
        assert seen_by(sae, documents(name, first=10)) == "seen"
    other = tmp_path / "a" / "corpus.jsonl"
    other.parent.mkdir()
    other.write_text(corpus.read_text().replace("document 3", "another"))
    assert seen_by(sae, documents(other)) == "other text"


def test_another_order_of_the_same_text_is_not_held_out(
    corpus: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path / "sae", corpus)
    shuffled = Documents(text_identity(str(corpus)), 0, 10, SEED + 1)
    assert seen_by(sae, shuffled) == "seen"


def test_a_text_that_is_recorded_by_its_name_is_found_by_what_it_holds(
    corpus: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path / "sae", corpus, text_sha256=None)
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text(corpus.read_text())
    assert seen_by(sae, documents(renamed, first=20)) == "seen"
    # the file is gone: only its name is left, which proves nothing where it is another one
    corpus.unlink()
    assert seen_by(sae, documents(renamed, first=20)) == "not recorded"
    renamed.rename(tmp_path / "elsewhere.jsonl")
    (tmp_path / "b").mkdir()
    same_name = tmp_path / "b" / "corpus.jsonl"
    (tmp_path / "elsewhere.jsonl").rename(same_name)
    assert seen_by(sae, documents(same_name, first=20)) == "seen"


def test_an_sae_that_records_no_text_proves_nothing(
    corpus: Path, tmp_path: Path
) -> None:
    assert seen_by(trained(tmp_path / "s", None), documents(corpus)) == "not recorded"


def test_thresholds_have_text_of_their_own_by_default(
    corpus: Path, tmp_path: Path
) -> None:
    text = text_identity(str(corpus))
    fresh = trained(tmp_path / "fresh", corpus)
    taken = default_documents([fresh], text, to_calibrate=True)
    assert (taken.first, taken.number) == (5, 5)
    assert default_documents([fresh], text, to_calibrate=False).number == 10
    calibrated = trained(
        tmp_path / "cal", corpus, calibration=calibration(corpus, 5, 5)
    )
    measured = default_documents([calibrated, fresh], text, to_calibrate=False)
    assert (measured.first, measured.number) == (0, 5)
    assert overlaps(calibrated.calibration, measured) is False
    assert overlaps(calibrated.calibration, documents(corpus, 4, 2)) is True
    front = trained(tmp_path / "front", corpus, calibration=calibration(corpus, 0, 3))
    measured = default_documents([front], text, to_calibrate=False)
    assert (measured.first, measured.number) == (3, 7)
    every = trained(tmp_path / "all", corpus, calibration=calibration(corpus, 0, 10))
    with pytest.raises(ValueError, match="taken on all 10 documents .* --dataset"):
        default_documents([every], text, to_calibrate=False)


def test_thresholds_that_do_not_record_their_text_may_have_seen_it(
    corpus: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path / "s", corpus, calibration={"rule": "rate", "n_tokens": 1})
    assert overlaps(sae.calibration, documents(corpus)) is None
    assert overlaps(None, documents(corpus)) is False
