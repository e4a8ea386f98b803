"""What the page says of each latent and of each meta latent, as plain data."""

from collections import Counter
from typing import Any

import numpy as np
from scipy.sparse import csc_array

from sae_lens_meta.atlas.attached import Matched, shown_scores
from sae_lens_meta.atlas.collect import Observed
from sae_lens_meta.atlas.common import common_words
from sae_lens_meta.atlas.contents import Contents
from sae_lens_meta.atlas.effects import Effects
from sae_lens_meta.atlas.pack import rounded
from sae_lens_meta.atlas.words import Words, first_of_each

N_WORDS = 10  # of one latent
N_COMMON = 12  # words of one meta latent
N_ROWS = 300  # latents listed of one meta latent
N_LATENTS_OF_A_WORD = 16
MAX_WORDS = 50_000  # that can be searched for, the most frequent
MIN_TOGETHER = 2  # fewer may be chance, and are no label
N_IN_A_LABEL = 3
PROMOTES = "\u2192"  # before a label of tokens that are promoted


class Vocabulary:
    """Tokens by new numbers, the most frequent first: what is frequent then takes fewer bytes."""

    def __init__(self, contents: Contents):
        counts: Counter[int] = Counter()
        for effects in (contents.effects, contents.meta_effects):
            if effects is not None:
                counts.update(effects.promoted.flatten().tolist())
                counts.update(effects.suppressed.flatten().tolist())
        for peaks in _peaks(contents):
            for peak in peaks:
                counts.update(peak.tokens)
        self.tokens = [token for token, _ in counts.most_common()]
        self.number = {token: place for place, token in enumerate(self.tokens)}


def _peaks(contents: Contents) -> Any:
    if contents.observed is not None:
        yield from contents.observed.strongest.values()
        yield from contents.observed.sampled.values()
    if contents.matched is not None:
        for splits in contents.matched.splits.values():
            yield from (split.peaks for split in splits)


class LatentEntries:
    """
    What is shown of a latent, by its number.

    Args:
        contents: of the atlas.
        vocabulary: whose numbers stand for tokens.
    """

    def __init__(self, contents: Contents, vocabulary: Vocabulary):
        self.contents, self.vocabulary = contents, vocabulary
        observed = contents.observed
        self.words = _words_of_latents(observed.words) if observed else {}

    def of(self, latent: int) -> dict[str, Any]:
        """Of one latent."""
        contents, found = self.contents, self.contents.decomposition
        parts = found.parts_of(latent)
        entry: dict[str, Any] = {
            "parts": _pairs(parts.latents, parts.weights),
            "constant": rounded(float(found.constant_shares[latent])),
            "rest": rounded(float(found.unexplained[latent])),
            "near": _pairs(contents.near[1][latent], contents.near[0][latent]),
        }
        if contents.effects is not None:
            entry |= _effects(contents.effects, latent, self.vocabulary)
        if contents.observed is not None:
            entry |= self._observed(contents.observed, latent)
        if contents.explained and latent in contents.explained.latents:
            scored = contents.explained.latents[latent]
            entry["explained"] = {
                "text": scored.explanation,
                "scores": shown_scores(scored),
            }
        if contents.matched is not None:
            entry |= self._matched(contents.matched, latent)
        return entry

    def _observed(self, observed: Observed, latent: int) -> dict[str, Any]:
        bins = observed.histogram[latent].nonzero()[0]
        entry: dict[str, Any] = {
            "top": self._contexts(observed.strongest[latent]),
            "sample": self._contexts(observed.sampled[latent]),
            "words": self.words.get(latent, []),
        }
        if len(bins):
            counts = observed.histogram[latent, bins[0] : bins[-1] + 1]
            entry["hist"] = [int(bins[0]), counts.tolist()]
            partners = observed.partners
            pairs = zip(partners.latents[latent], partners.phi[latent], strict=True)
            entry["with"] = [[int(i), rounded(float(v))] for i, v in pairs if v > 0]
        return entry

    def _matched(self, matched: Matched, latent: int) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        if matched.partner is not None and latent in matched.partner:
            partner, cosine = matched.partner[latent]
            entry["match"] = [partner, rounded(cosine)]
        if latent in matched.splits:
            entry["splits"] = [
                {"text": split.said, "contexts": self._contexts(split.peaks)}
                for split in matched.splits[latent]
            ]
        return entry

    def _contexts(self, peaks: list[Any]) -> list[list[Any]]:
        """Of each its tokens, the place of its peak, and place and activation where it fires."""
        number = self.vocabulary.number
        return [
            [
                [number[token] for token in peak.tokens],
                peak.place,
                [
                    part
                    for place, value in enumerate(peak.activations)
                    if value != 0
                    for part in (place, rounded(value))
                ],
            ]
            for peak in peaks
        ]


class MetaEntries:
    """
    What is shown of a meta latent, by its number.

    Args:
        contents: of the atlas.
        vocabulary: whose numbers stand for tokens.
    """

    def __init__(self, contents: Contents, vocabulary: Vocabulary):
        self.contents, self.vocabulary = contents, vocabulary
        shares = contents.shares
        self.by_meta: Any = csc_array(shares)
        self.use = contents.decomposition.use.numpy()
        total = np.asarray(shares.sum(axis=0)).ravel()
        self.share = total / np.maximum(self.use, 1)
        observed = contents.observed
        self.common = (
            common_words(shares, observed.words, N_COMMON) if observed else None
        )

    def of(self, meta: int) -> dict[str, Any]:
        """Of one meta latent."""
        contents = self.contents
        start, end = self.by_meta.indptr[meta : meta + 2]
        shares = self.by_meta.data[start:end]
        order = np.argsort(-shares, kind="stable")[:N_ROWS]
        latents = self.by_meta.indices[start:end][order]
        entry: dict[str, Any] = {
            "used": int(self.use[meta]),
            "share": rounded(float(self.share[meta])),
            "rows": _pairs(latents, shares[order]),
            "near": _pairs(contents.near_metas[1][meta], contents.near_metas[0][meta]),
            "with": self._together(meta),
        }
        if said := self._stability(meta):
            entry["stability"] = said
        if contents.meta_effects is not None:
            entry |= _effects(contents.meta_effects, meta, self.vocabulary)
        if self.common is not None and (common := self.common[meta]) is not None:
            assert contents.observed is not None
            texts = contents.observed.words.texts
            entry["common"] = [
                [texts[word], rounded(float(own)), rounded(float(all_))]
                for word, own, all_ in zip(
                    common.words, common.own, common.everyones, strict=True
                )
            ]
        return entry

    def _together(self, meta: int) -> list[list[Any]]:
        partners = self.contents.meta_partners
        rows = zip(
            partners.latents[meta],
            partners.phi[meta],
            self.contents.meta_together[meta],
            strict=True,
        )
        return [[int(i), rounded(float(phi)), int(n)] for i, phi, n in rows if phi > 0]

    def _stability(self, meta: int) -> str | None:
        stability = self.contents.decomposition.stability
        if stability is None:
            return None
        closer = "closer" if stability.comes_back[meta] else "no closer"
        return (
            f"With another seed the one matched to it has cosine {stability.cosine[meta]:.2f}, "
            f"{closer} than 95 % of those by chance (rows of random direction with the same "
            f"covariance give {stability.null.mean():.2f} on average)."
        )


def latent_labels(contents: Contents, texts: dict[int, str]) -> list[str]:
    """
    A few words for each latent: those that are most its own, or after an arrow the tokens it promotes.

    Args:
        contents: of the atlas.
        texts: of tokens, by id.
    """
    labels = _promoted(contents.effects, contents.decomposition.d_sae, texts)
    if contents.observed is not None:
        for latent, words in _words_of_latents(contents.observed.words).items():
            own = [text for text, n, _ in words if n >= MIN_TOGETHER]
            labels[latent] = _label(own) or labels[latent]
    return labels


def meta_labels(
    contents: Contents, metas: MetaEntries, texts: dict[int, str]
) -> list[str]:
    """The same for each meta latent, by the words that its latents' contexts have in common."""
    labels = _promoted(contents.meta_effects, contents.decomposition.n_meta, texts)
    if metas.common is not None and contents.observed is not None:
        words = contents.observed.words.texts
        for meta, common in enumerate(metas.common):
            if common is not None:
                own = [words[word] for word in common.words]
                labels[meta] = _label(own) or labels[meta]
    return labels


def _label(words: list[str]) -> str:
    """The first few that differ by more than their case."""
    distinct: dict[str, str] = {}
    for word in words:
        distinct.setdefault(word.casefold(), word)
    return " ".join(list(distinct.values())[:N_IN_A_LABEL])


def word_index(words: Words) -> list[list[Any]]:
    """Words, the most frequent first: text, count, and latents with how often they fire on it."""
    places, group = first_of_each(words.word, words.phi, N_LATENTS_OF_A_WORD)
    starts = np.searchsorted(group, np.arange(len(words.texts) + 1))
    order = np.argsort(-words.counts, kind="stable")[:MAX_WORDS]
    index = []
    for word in order.tolist():
        pairs = places[starts[word] : starts[word + 1]]
        latents = [[int(words.latent[p]), int(words.together[p])] for p in pairs]
        index.append([words.texts[word], int(words.counts[word]), latents])
    return index


def _words_of_latents(words: Words) -> dict[int, list[list[Any]]]:
    """By latent its words of the highest phi: text, how often it fires on it, and of how many."""
    places, group = first_of_each(words.latent, words.phi, N_WORDS)
    found: dict[int, list[list[Any]]] = {}
    for place, latent in zip(places.tolist(), group.tolist(), strict=True):
        word = words.word[place]
        row = [words.texts[word], int(words.together[place]), int(words.counts[word])]
        found.setdefault(latent, []).append(row)
    return found


def _promoted(effects: Effects | None, n: int, texts: dict[int, str]) -> list[str]:
    if effects is None:
        return [""] * n
    return [
        f"{PROMOTES} {_label([texts[token].strip() for token in tokens])}"
        for tokens in effects.promoted.tolist()
    ]


def _pairs(numbers: Any, values: Any) -> list[list[Any]]:
    pairs = zip(numbers.tolist(), values.tolist(), strict=True)
    return [[number, rounded(value)] for number, value in pairs]


def _effects(effects: Effects, row: int, vocabulary: Vocabulary) -> dict[str, Any]:
    number = vocabulary.number
    return {
        side: [
            [number[token], rounded(by)]
            for token, by in zip(
                tokens[row].tolist(), values[row].tolist(), strict=True
            )
        ]
        for side, tokens, values in (
            ("up", effects.promoted, effects.promoted_by),
            ("down", effects.suppressed, effects.suppressed_by),
        )
    }
