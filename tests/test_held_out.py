"""Whether documents were held out is told by what a text holds, not by what it is called."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta import MetaTrainingSAE
from sae_lens_meta.activations.held_out import (
    Documents,
    default_documents,
    overlaps,
    seen_by,
)
from sae_lens_meta.activations.measured_on import SourceConfig, repeated_documents
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.activations.text import load_text, text_identity
from sae_lens_meta.reproduce.trained_on import text_metadata
from sae_lens_meta.saved import SavedSAE
from tests.helpers import meta_config
from tests.tiny_llama import WIDTH, record_reading

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


def test_a_folder_and_the_file_in_it_are_two_orders_of_one_text(
    tmp_path: Path, model: Path
) -> None:
    """A file's documents are shuffled, a folder's are not: others come first."""
    folder = tmp_path / "folder"
    folder.mkdir()
    rows = [json.dumps({"text": f"document {i} is some text"}) for i in range(60)]
    file = folder / "docs.jsonl"
    file.write_text("\n".join(rows))
    first = {n: {*load_text(str(n), 10, SEED)[1]["text"]} for n in (folder, file)}
    assert first[folder] != first[file]
    for trained_on, other in ((folder, file), (file, folder)):
        details = text_metadata(str(trained_on), 10, SEED, 0)
        cfg = meta_config(d_in=WIDTH)
        record_reading(cfg.metadata, model)
        cfg.metadata.dataset_path = str(trained_on)
        for key, value in details.items():
            setattr(cfg.metadata, key, value)
        MetaTrainingSAE(cfg).save_inference_model(tmp_path / "sae")
        sae = SavedSAE.read(tmp_path / "sae")
        asked: Any = {"held_out_documents": 10, "tokens": 64}
        _, measured_on = load_source(
            SourceConfig(dataset=str(trained_on), **asked), [sae]
        )
        assert (measured_on.seen, measured_on.warnings) == ("held out", [])
        _, measured_on = load_source(SourceConfig(dataset=str(other), **asked), [sae])
        assert measured_on.seen == "seen"
        (warning,) = measured_on.warnings
        assert warning.startswith(
            f"An SAE was trained on the text of {str(other)!r} too"
        )


def test_figures_on_the_thresholds_own_documents_are_warned_of(
    corpus: Path, tmp_path: Path, model: Path
) -> None:
    cfg = meta_config(d_in=WIDTH)
    record_reading(cfg.metadata, model)
    MetaTrainingSAE(cfg).save_inference_model(tmp_path / "sae")
    path = tmp_path / "sae" / "cfg.json"
    for seed, first, expected in (
        (SEED, 5, "Thresholds were taken on some of these documents"),
        (SEED + 1, 5, "does not tell whether they were taken on some"),
        (SEED, 20, ""),
    ):
        recorded = calibration(corpus, first, 10)
        recorded["text"]["text_seed"] = seed
        saved = json.loads(path.read_text())
        saved["metadata"]["calibration"] = recorded
        path.write_text(json.dumps(saved))
        asked = SourceConfig(dataset=str(corpus), held_out_documents=12, tokens=64)
        _, measured_on = load_source(asked, [SavedSAE.read(tmp_path / "sae")])
        assert len(measured_on.warnings) == bool(expected)
        assert expected in " ".join(measured_on.warnings)


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


def test_of_a_text_that_no_training_read_others_than_the_thresholds_are_taken(
    corpus: Path, tmp_path: Path
) -> None:
    text = text_identity(str(corpus))
    sae = trained(tmp_path / "s", None, calibration=calibration(corpus, 0, 15))
    measured = default_documents([sae], text, to_calibrate=False)
    assert (measured.first, measured.number) == (15, 12)


def test_thresholds_that_do_not_record_their_text_may_have_seen_it(
    corpus: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path / "s", corpus, calibration={"rule": "rate", "n_tokens": 1})
    assert overlaps(sae.calibration, documents(corpus)) is None
    assert overlaps(None, documents(corpus)) is False


def test_a_stream_of_the_hub_and_a_file_of_its_documents_are_one_text(
    corpus: Path, tmp_path: Path
) -> None:
    whole = text_identity(str(corpus))
    # as a stream is hashed, by its first 100 documents
    streamed = replace(
        whole, sha256=whole.first_sha256, n_documents=None, is_whole=False
    )
    many = tmp_path / "many.jsonl"
    rows = [json.dumps({"text": f"document {i}"}) for i in range(150)]
    many.write_text("\n".join(rows))
    of_many = text_identity(str(many))
    assert of_many.first_sha256 != of_many.sha256 and whole.first_sha256 == whole.sha256
    in_order = {"documents": 10, "text_seed": None}
    first = of_many.first_sha256
    from_hub = trained(tmp_path / "hub", many, text_sha256=first, held_out=in_order)
    # which has other first documents once it is shuffled
    assert seen_by(from_hub, documents(many)) == "seen"
    # the rest of a stream is not known
    from_file = trained(tmp_path / "file", many)
    part = Documents(replace(streamed, sha256=first), 0, 10, None)
    assert seen_by(from_file, part) == "not recorded"
    assert seen_by(from_hub, part) == "held out"
    # and so of the thresholds
    taken = trained(tmp_path / "taken", None, calibration=calibration(many, 0, 10))
    assert overlaps(taken.calibration, part) is None
    of_stream = calibration(many, 0, 10)
    of_stream["text"] |= {"sha256": first, "text_seed": None}
    taken = trained(tmp_path / "taken_2", None, calibration=of_stream)
    assert overlaps(taken.calibration, documents(many)) is None
    assert overlaps(taken.calibration, part) is True
    assert overlaps(taken.calibration, replace(part, first=10)) is False


def test_a_training_file_that_was_appended_to_since_is_no_other_text(
    corpus: Path, tmp_path: Path
) -> None:
    sae = trained(tmp_path / "sae", corpus, text_sha256=None)
    as_it_was = tmp_path / "as_it_was.jsonl"
    as_it_was.write_text(corpus.read_text())
    with corpus.open("a") as file:
        file.write("\n" + json.dumps({"text": "one more"}))
    assert seen_by(sae, documents(as_it_was)) == "not recorded"


def test_documents_that_a_training_reads_once_more_are_counted(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"document {i % 30}"}) for i in range(40)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(rows))
    sae = trained(tmp_path / "sae", path)
    _, held_out = load_text(str(path), 10, SEED)
    rest, _ = load_text(str(path), 10, SEED)
    by_hand = sum(text in set(rest["text"]) for text in held_out["text"])  # type: ignore[index]
    assert 0 < by_hand < 10
    (warning,) = repeated_documents(str(path), documents(path), [sae])
    assert warning.startswith(
        f"{by_hand} of the 10 documents stand in the training's part"
    )
    # what another SAE has not kept from its training is known to be seen anyway
    assert repeated_documents(str(path), documents(path, first=20), [sae]) == []
    once = tmp_path / "once.jsonl"
    once.write_text("\n".join(sorted(set(rows))))
    other = trained(tmp_path / "other", once)
    assert repeated_documents(str(once), documents(once), [other]) == []
