"""What one pass over text shows of every latent."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sae_lens import SAE

from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.atlas.words import WordCounter, Words
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.histograms import LOG_EDGES, log_counts
from sae_lens_meta.measures.kept_windows import one_of_each_range
from sae_lens_meta.measures.phi import Partners, top_partners
from sae_lens_meta.measures.top_contexts import Peak, TopContexts

N_STRONGEST = 10  # contexts shown
N_SAMPLED = 5  # and of those that are not among them, one of each fifth by strength
N_BEFORE, N_AFTER = 12, 8  # tokens around a peak
N_PARTNERS = 8
# more are kept than shown, since texts repeat themselves and the strongest are drawn as well
KEPT_FOR_ONE = 2


@dataclass
class Observed:
    """
    Attributes:
        n_tokens: read.
        n_contexts: of the language model, of which each gives a latent at most one.
        fired: `[d_sae]`, tokens that each latent fires on.
        strongest: by latent, its strongest contexts, no text twice.
        sampled: by latent, one context of each fifth of those it fires in, weakest last.
        histogram: `[d_sae, bins]`, tokens by activation in bins of `LOG_EDGES`.
        partners: the latents that each fires with, by phi.
        words: that latents fire on.
    """

    n_tokens: int
    n_contexts: int
    fired: np.ndarray
    strongest: dict[int, list[Peak]]
    sampled: dict[int, list[Peak]]
    histogram: np.ndarray
    partners: Partners
    words: Words


def observe(sae: SAE[Any], source: ActivationSource, n_tokens: int) -> Observed:
    """
    Reads at most `n_tokens` tokens of `source`; fewer where the text ends.

    Raises:
        ValueError: if the text gives no tokens.
    """
    collector = Collector(sae, source.model.tokenizer)
    for batch in source.stream(n_tokens):
        collector.update(batch)
    return collector.result()


class Collector:
    """
    Collects what is shown of each latent over a pass.

    Contexts take `15 * 168` bytes a latent and more, pairs of latents 4 bytes each
    (`CooccurrenceCounter`), whatever the number of tokens.

    Args:
        sae: whose latents.
        tokenizer: of the language model.
        seed: of what is drawn.
    """

    def __init__(self, sae: SAE[Any], tokenizer: Any, seed: int = 0):
        self.sae = sae
        d_sae = sae.cfg.d_sae
        self._contexts = TopContexts(
            sae,
            range(d_sae),
            KEPT_FOR_ONE * N_STRONGEST,
            N_BEFORE,
            N_AFTER,
            KEPT_FOR_ONE * N_STRONGEST,
            seed,
        )
        self._counter = CooccurrenceCounter(d_sae)
        self._words = WordCounter(tokenizer, d_sae)
        self._histogram = np.zeros((d_sae, len(LOG_EDGES) - 1), dtype=np.int64)
        self._random = np.random.default_rng(seed)
        self._n_contexts = 0

    def update(self, batch: ActivationBatch) -> None:
        """Adds a batch of tokens and activations."""
        codes = batch.codes(self.sae).cpu()
        self._contexts.add(batch.tokens, codes)
        flat = codes.flatten(0, 1)
        rows, latents = (places.numpy() for places in flat.nonzero(as_tuple=True))
        self._histogram += log_counts(flat[rows, latents].numpy(), latents, len(flat.T))
        self._words.update(batch.tokens, rows, latents)
        read = flat if batch.kept is None else flat[batch.kept.flatten().cpu()]
        self._counter.update(read)
        self._n_contexts += len(codes)

    def result(self) -> Observed:
        """
        Raises:
            ValueError: if nothing was read.
        """
        strongest, sampled = {}, {}
        for latent in range(self.sae.cfg.d_sae):
            found = _distinct(self._contexts.strongest(latent))[:N_STRONGEST]
            strongest[latent] = found
            sampled[latent] = self._sample(self._contexts.sampled(latent), found)
        return Observed(
            n_tokens=self._counter.n_tokens,
            n_contexts=self._n_contexts,
            fired=self._counter.fired_a,
            strongest=strongest,
            sampled=sampled,
            histogram=self._histogram,
            partners=top_partners(self._counter, N_PARTNERS)[0],
            words=self._words.result(),
        )

    def _sample(self, drawn: list[Peak], shown: list[Peak]) -> list[Peak]:
        texts = {tuple(peak.tokens) for peak in shown}
        others = [p for p in _distinct(drawn) if tuple(p.tokens) not in texts]
        n = min(N_SAMPLED, len(others))
        return one_of_each_range(others, n, self._random)


def _distinct(peaks: list[Peak]) -> list[Peak]:
    """Each text once, by its strongest."""
    found: dict[tuple[int, ...], Peak] = {}
    for peak in peaks:
        found.setdefault(tuple(peak.tokens), peak)
    return list(found.values())
