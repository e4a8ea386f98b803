"""
Parts of speech of the Brown corpus as a hierarchy of labels.

A tag's endings for titles, headlines and cited words, and its mark of negation, are left out, and so
are words of other languages and contracted ones, which are two parts of speech: `it's/pps+bez`.
A genitive is a kind of its own, since its last token is mostly the apostrophe's.
"""

from sae_lens_meta.activations.brown import brown_text
from sae_lens_meta.probing.spans import Span

_KINDS = {
    "noun/singular": "nn",
    "noun/plural": "nns",
    "noun/proper": "np nps",
    "noun/adverbial": "nr nrs",
    "noun/genitive": "nn$ nns$ np$ nps$ nr$",
    "verb/base form": "vb",
    "verb/past tense": "vbd",
    "verb/present participle": "vbg",
    "verb/past participle": "vbn",
    "verb/third person": "vbz",
    "auxiliary/be": "be bed bedz beg bem ben ber bez",
    "auxiliary/do": "do dod doz",
    "auxiliary/have": "hv hvd hvg hvn hvz",
    "auxiliary/modal": "md",
    "adjective": "jj",
    "adjective/comparative": "jjr",
    "adjective/superlative": "jjs jjt",
    "adverb": "rb rn",
    "adverb/comparative": "rbr rbt",
    "adverb/qualifier": "ql qlp",
    "adverb/question": "wrb wql",
    "particle": "rp",
    "pronoun/personal": "ppo pps ppss",
    "pronoun/possessive": "pp$ pp$$ wp$",
    "pronoun/reflexive": "ppl ppls",
    "pronoun/indefinite": "pn",
    "pronoun/relative": "wpo wps",
    "determiner": "dt dti dts dtx abl abn abx ap",
    "determiner/article": "at",
    "determiner/question": "wdt",
    "preposition": "in",
    "conjunction/coordinating": "cc",
    "conjunction/subordinating": "cs",
    "number/cardinal": "cd",
    "number/ordinal": "od",
    "to of an infinitive": "to",
}
_LABEL = {tag: label for label, tags in _KINDS.items() for tag in tags.split()}


def part_of_speech(tag: str) -> str | None:
    """The label of a tag of the Brown corpus; None for punctuation and what is left out."""
    return _LABEL.get(tag.split("-")[0].rstrip("*"))


def spans_of_parts_of_speech(tagged: str) -> list[Span]:
    """The labelled words of a document of the Brown corpus, as `brown.brown_text` has its text."""
    _, words = brown_text(tagged)
    return [
        Span(word.start, word.end, label)
        for word in words
        if (label := part_of_speech(word.tag))
    ]
