"""Labels of tokens: what they hold on, and what is refused before a model is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from sae_lens_meta.activations.brown import brown_text, is_brown, read_brown
from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.text import load_text
from sae_lens_meta.probing.hierarchy import ancestors, load_hierarchy
from sae_lens_meta.probing.labels import chosen, labels_of
from sae_lens_meta.probing.parts_of_speech import spans_of_parts_of_speech
from sae_lens_meta.probing.tokens import (
    NO_PLACE,
    TextTokens,
    first_part,
    text_tokens,
)
from tests.tiny_llama import tiny_source

BROWN = Path(__file__).parent / "brown"


def cut(*texts: list[str], trimmed: bool = False) -> TextTokens:
    """Documents of given tokens; `trimmed` as of a tokenizer that leaves a space to no token."""
    starts, ends, document = [], [], []
    for i, pieces in enumerate(texts):
        at = 0
        for piece in pieces:
            end = at + len(piece)
            starts.append(end - len(piece.lstrip()) if trimmed else at)
            ends.append(end)
            document.append(i)
            at = end
    n = len(starts)
    return TextTokens(
        ids=np.arange(n),
        starts=np.array(starts),
        ends=np.array(ends),
        document=np.array(document),
        texts=["".join(pieces) for pieces in texts],
        contexts=np.arange(n)[None],
        positions=slice(None),
    )


def rows(tokens: TextTokens, **columns: Any) -> Dataset:
    return Dataset.from_dict({"text": tokens.texts, **columns})


def held(kind: Any, tokens: TextTokens, **columns: Any) -> dict[str, list[int]]:
    found, _ = labels_of([kind], tokens, rows(tokens, **columns), {})
    return {name: np.flatnonzero(mask).tolist() for name, mask in found.items()}


@pytest.mark.parametrize("trimmed", [False, True])
def test_first_letters_are_of_tokens_that_begin_a_word(trimmed: bool) -> None:
    tokens = cut(
        ["The", " cat", "alog", "'s", ' "', "Bed", "-", "time", " 1a", " été"],
        trimmed=trimmed,
    )
    assert held("first_letter", tokens) == {
        "first letter t": [0, 7],
        "first letter c": [1],
        "first letter b": [5],
    }


@pytest.mark.parametrize("trimmed", [False, True])
def test_token_classes_are_what_a_token_looks_like(trimmed: bool) -> None:
    tokens = cut(["The", " UN", " 19", "84", ".", " A", "x", "\n"], trimmed=trimmed)
    assert held("token_class", tokens) == {
        "capitalised": [0, 1, 5],
        "capitalised/all caps": [1],
        "digit": [2, 3],
        "inside a word": [3, 6],
        "punctuation": [4],
    }


def test_a_span_holds_on_the_last_token_that_has_a_character_of_it() -> None:
    tokens = cut(["The", " cat", "alog", " of"], ["cat", "s."])
    spans = [
        [{"start": 4, "end": 11, "label": "a/b"}, {"start": 0, "end": 5, "label": "c"}],
        [{"start": 0, "end": 4, "label": "c"}],
    ]
    assert held("spans", tokens, spans=spans) == {"a/b": [2], "a": [2], "c": [1, 5]}


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (
            {"start": -1, "end": 2, "label": "x"},
            "lies outside its text of 6 characters",
        ),
        ({"start": 0, "end": 7, "label": "x"}, "lies outside its text of 6 characters"),
        ({"start": 2, "end": 2, "label": "x"}, "or is empty"),
        ({"start": 0, "end": 2, "label": " "}, "no name for a label"),
        ({"start": 3, "end": 4, "label": "x"}, "no token has a character of"),
        ({"start": 0, "end": 3, "label": "x/"}, "has an empty part"),
        ({"start": 1, "end": 3, "label": "x"}, "1 of 1 spans begin or end inside a"),
        ({"start": 0, "end": 5, "label": "x"}, "1 of 1 spans begin or end inside a"),
        ({"start": 0, "end": 9, "label": "x"}, "document that begins 'one ab' lies"),
    ],
)
def test_a_span_that_does_not_align_is_refused(span: dict[str, Any], said: str) -> None:
    tokens = cut(["one", " ab"], trimmed=True)
    tokens.texts = ["one ab"]
    with pytest.raises(ValueError, match=said):
        held("spans", tokens, spans=[[span]])


def test_a_dataset_without_labels_of_the_kind_is_refused() -> None:
    tokens = cut(["a", " b"])
    with pytest.raises(ValueError, match="no column 'spans', only: text"):
        held("spans", tokens)
    with pytest.raises(ValueError, match="None of the 1 documents .* has a span"):
        held("spans", tokens, spans=[[]])
    with pytest.raises(ValueError, match="those of the Brown corpus"):
        held("part_of_speech", tokens)


def test_labels_of_two_kinds_with_one_name_are_refused() -> None:
    tokens = cut(["7", " b"])
    spans = [[{"start": 0, "end": 1, "label": "digit"}]]
    with pytest.raises(ValueError, match="digit: labels of two kinds"):
        labels_of(["token_class", "spans"], tokens, rows(tokens, spans=spans), {})


def test_ancestors_are_by_name_and_by_file(tmp_path: Path) -> None:
    path = tmp_path / "hierarchy.json"
    path.write_text(
        json.dumps({"noun": "word", "noun/proper": ["name"], "name": "word"})
    )
    found = ancestors(["noun/proper", "verb"], load_hierarchy(path))
    assert found["noun/proper"] == {"noun", "word", "name"}
    assert found["verb"] == set()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('{"a": "b", "b": "c", "c": "a"}', "cycle, .*a.*b"),
        ('{"a": "a"}', "has a cycle, a > a"),
        ('["a"]', "must be an object"),
        ('{"a": 3}', "parents of 'a' must be"),
        ("{", "is not JSON"),
    ],
)
def test_a_hierarchy_that_is_none_is_refused(
    written: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "hierarchy.json"
    path.write_text(written)
    with pytest.raises(ValueError, match=said):
        load_hierarchy(path)


def test_a_cycle_between_a_name_and_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        ancestors(["noun/proper"], {"noun": {"noun/proper"}})


def test_a_label_that_never_or_always_holds_is_refused() -> None:
    tokens = cut(["a", " b"])
    spans = [[{"start": 0, "end": 1, "label": "x"}]]
    with pytest.raises(
        ValueError, match="y: the hierarchy names labels that never hold"
    ):
        labels_of(["spans"], tokens, rows(tokens, spans=spans), {"y": {"x"}})
    first = np.arange(8) < 4
    with pytest.raises(ValueError, match="'x' always holds: it is on all 8 tokens"):
        chosen({"x": np.ones(8, bool)}, {"x": set()}, first, 1)


def test_labels_on_too_few_tokens_are_left_out_and_listed() -> None:
    first = np.arange(8) < 4
    often = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    rare = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
    nearly_all = np.array([1, 1, 0, 0, 1, 1, 1, 0], bool)
    holds = {"often": often, "rare": rare, "nearly all": nearly_all}
    found = chosen(holds, {name: {"rare"} for name in holds}, first, 2)
    assert found.names == ["often"] and found.ancestors == {"often": set()}
    assert found.left_out == {"nearly all": (2, 3), "rare": (2, 1)}
    with pytest.raises(ValueError, match="No label holds on 3 tokens.*rare: 2 and 1"):
        chosen({"rare": rare}, {"rare": set()}, first, 3)


def test_parts_are_of_whole_documents_and_of_half_of_the_tokens() -> None:
    document = np.repeat([0, 1, 2, 3], [50, 10, 45, 20])
    first = first_part(document)
    assert set(document[first]) == {0, 1} and set(document[~first]) == {2, 3}
    with pytest.raises(ValueError, match="of one document"):
        first_part(np.zeros(9, int))


def test_brown_is_prose_with_its_words_in_their_places() -> None:
    text, words = brown_text((BROWN / "ca01").read_text())
    assert text == (
        "The Red Mill stood near Ada's old houses, \"empty\". It's not hers, can't you see?\n"
        "Millers (both) left quickly;"
    )
    shown = [(text[w.start : w.end], w.tag) for w in words]
    assert shown[:2] == [("The", "at"), ("Red", "jj-tl")]
    assert ("houses", "nns") in shown and shown[-2:] == [("quickly", "rb"), (";", ".")]
    with pytest.raises(ValueError, match="'cat' is no word with a tag"):
        brown_text("a/at cat ./.")


def test_parts_of_speech_are_a_hierarchy() -> None:
    tagged = (BROWN / "ca01").read_text()
    text, _ = brown_text(tagged)
    found = {text[s.start : s.end]: s.label for s in spans_of_parts_of_speech(tagged)}
    assert found == {
        "The": "determiner/article",
        "Red": "adjective",
        "Mill": "noun/singular",
        "stood": "verb/past tense",
        "near": "preposition",
        "Ada's": "noun/genitive",
        "old": "adjective",
        "houses": "noun/plural",
        "empty": "adjective",
        "hers": "pronoun/possessive",
        "can't": "auxiliary/modal",
        "you": "pronoun/personal",
        "see": "verb/base form",
        "Millers": "noun/plural",
        "both": "determiner",
        "left": "verb/past tense",
        "quickly": "adverb",
    }


def test_the_corpus_is_a_dataset_of_its_folder() -> None:
    assert is_brown(BROWN) and not is_brown(BROWN.parent)
    assert len(read_brown(BROWN)) == 2
    _, held_out = load_text(str(BROWN), 2, seed=1)
    assert sorted(held_out["text"])[0] == "A cat sat."
    tokens = cut(["A", " cat", " sat", "."])
    columns = {"tagged": [(BROWN / "cb02").read_text()]}
    found = held("part_of_speech", tokens, **columns)
    assert found["noun"] == found["noun/singular"] == [1] and found["verb"] == [2]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"context_size": 20},
        {"prepend_bos": False},
        {"separator": "none"},
        {"concatenate": False, "context_size": 16},
        {"seqpos_slice": (1, -2)},
        {"exclude_special_tokens": True},
        {"prepend_bos": False, "separator": "none", "context_size": 8},
    ],
    ids=str,
)
def test_tokens_are_those_that_the_pass_reads(
    model: Path, changes: dict[str, Any]
) -> None:
    source = tiny_source(model, n_held_out=40, seed=3)
    source.reading = replace(source.reading, **changes)
    assert_reads(source, 1500)
    assert_reads(source, 10_000_000)  # to the end of the text


def assert_reads(source: ActivationSource, n_tokens: int) -> None:
    text: Any = source.text
    tokenizer: Any = source.model.tokenizer
    tokens = text_tokens(text["text"], tokenizer, source.reading, n_tokens)
    n_contexts, places = 0, []
    for batch in source.stream(n_tokens):
        found = tokens.places(batch, n_contexts)
        n_contexts += len(found)
        is_read = found != NO_PLACE
        places += found[is_read].tolist()
        assert torch.equal(
            batch.tokens[is_read], torch.from_numpy(tokens.ids[found[is_read].numpy()])
        )
    assert n_contexts == len(tokens.contexts)
    assert places == tokens.read.tolist() and len(places) > 100
    for place in places[:200]:
        document = tokens.texts[tokens.document[place]]
        shown = document[tokens.starts[place] : tokens.ends[place]]
        known = tokenizer.decode([tokens.ids[place]])
        # in the letters of a byte-level tokenizer
        known = known.replace("Ċ", "\n").replace("Ġ", " ")
        assert known in (shown, "<unk>")


def test_a_text_with_the_separator_in_it_is_refused(model: Path) -> None:
    source = tiny_source(model, n_held_out=1)
    source.text = Dataset.from_dict(
        {"text": ["<s>" + "word " * 400, "<s> more " * 400]}
    )
    texts: Any = source.text["text"]
    tokenizer: Any = source.model.tokenizer
    tokens = text_tokens(texts, tokenizer, source.reading, 600)
    with pytest.raises(ValueError, match="reads other tokens than the labels stand on"):
        tokens.places(next(source.stream(600)), 0)


def test_chat_templates_and_too_short_texts_are_refused(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    reading = tiny_source(model, n_held_out=1).reading
    with pytest.raises(ValueError, match="chat template"):
        text_tokens(["a"], tokenizer, replace(reading, chat=True), 600)
    with pytest.raises(ValueError, match="No activations for 600 tokens"):
        text_tokens(["a few words"], tokenizer, reading, 600)
