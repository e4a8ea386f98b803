"""What several SAEs show after the same passes over the same tokens."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter
from sae_lens import SAE

from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.tokens import token_texts
from sae_lens_meta.comparison.counting import Job, Tally, load_counter
from sae_lens_meta.comparison.differences import Resampled, resample
from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.members import Entry
from sae_lens_meta.comparison.result import (
    CandidateWithContexts,
    ComparedSAE,
    Contexts,
    MatchingSummary,
)
from sae_lens_meta.destination import write_whole
from sae_lens_meta.measures.evaluate import (
    DecoderSummary,
    evaluation_of,
    summarize_decoder,
)
from sae_lens_meta.measures.evidence import calibrated
from sae_lens_meta.measures.geometry import decoder_geometry
from sae_lens_meta.measures.histograms import (
    COSINE_BINS,
    PHI_BINS,
    Histogram,
    coarse,
    cosine_histogram,
    firing_rate_histogram,
)
from sae_lens_meta.measures.matching import match_latents, random_dictionary
from sae_lens_meta.measures.model_cost import ModelCost, model_cost
from sae_lens_meta.measures.pair_map import pair_map
from sae_lens_meta.measures.phi import phi_histogram, summarize_phi
from sae_lens_meta.measures.phi_by_rate import phi_by_rate
from sae_lens_meta.measures.splitting import (
    SplitCandidate,
    Splits,
    find_splits,
    partnered,
)
from sae_lens_meta.measures.top_contexts import Peak, TopContexts
from sae_lens_meta.statistics.intervals import block_interval

T = TypeVar("T")


@dataclass
class Matched:
    """The latents of an SAE that were matched to those of the reference."""

    partner: list[int]
    summary: MatchingSummary


@dataclass
class Decoder:
    """Figures of a decoder, and its cosines as they are plotted."""

    figures: DecoderSummary
    cosine: Histogram
    nearest_cosine: Histogram


class Family:
    """
    The measures of several SAEs after the passes, each kept in `progress` once it is made.

    Args:
        saes: by id.
        source: of activations.
        n_tokens: that the passes were to read.
        progress: folder of the passes' counts.
        reference: id of the first SAE of the baseline, which the others are matched to.
    """

    def __init__(
        self,
        saes: dict[str, SAE[Any]],
        source: ActivationSource,
        n_tokens: int,
        progress: Path,
        reference: str,
    ):
        self.saes, self.source, self.n_tokens = saes, source, n_tokens
        self.progress, self.reference = progress, reference

    def compared_latents(self, min_fired: int) -> dict[str, np.ndarray]:
        """
        Mask `[d_sae]` of each SAE's latents that have partners firing in every other SAE.

        The latents of SAEs of different seeds correspond by their decoder rows only: each
        SAE is matched to the first of the baseline, and a latent of that counts where it and all
        its partners fire on `min_fired` tokens, and not on every token.

        Raises:
            ValueError: if fewer than two do.
        """
        partners = {self.reference: np.arange(self.saes[self.reference].cfg.d_sae)}
        for name in self.saes:
            if name != self.reference:
                partners[name] = np.array(self._matched(name).partner)
        counts = np.ones_like(partners[self.reference], dtype=bool)
        for name, partner in partners.items():
            fired, n_tokens = Tally.load_fired(self.progress / name)
            counts &= (partner >= 0) & (fired[partner] >= min_fired)
            counts &= fired[partner] < n_tokens  # which leaves phi undefined
        if counts.sum() < 2:
            raise ValueError(
                f"{counts.sum()} latents have partners that fire on {min_fired} tokens in "
                "every SAE; mean |phi| takes two. Lower min_fired, give more tokens (what was "
                "counted is kept where only min_fired changes), or leave out an SAE whose "
                "latents are dead."
            )
        masks = {}
        for name, partner in partners.items():
            masks[name] = np.zeros(self.saes[name].cfg.d_sae, dtype=bool)
            masks[name][partner[counts]] = True
        return masks

    def result(
        self,
        entry: Entry,
        variant: str,
        compared: np.ndarray,
        ce_tokens: int,
        meta_steps: int,
        with_map: bool,
    ) -> tuple[ComparedSAE, Resampled]:
        """
        All figures of one SAE, and those of half samples; of the reference first.

        Args:
            entry: the SAE.
            variant: that it is of.
            compared: mask `[d_sae]` of its latents that are compared.
            ce_tokens: to run the language model on.
            meta_steps: of meta SAEs that are fitted to its decoder.
            with_map: whether to keep its pairs by firing rate and |phi|.
        """
        name = entry.id
        # before the pair counts are loaded, which may take as much memory as there is
        cost, decoder = self._cost(name, ce_tokens), self._decoder(name, meta_steps)
        tally = self._tally(name)
        evaluation = evaluation_of(
            entry.name, tally.meter, tally.counter, cost, decoder.figures
        )
        by_rate = phi_by_rate(tally.counter, compared)
        if name == self.reference:
            self.rates = by_rate
        result = ComparedSAE(
            name=entry.name,
            group=entry.group,
            variant=variant,
            path=str(entry.path),
            weights_sha256=entry.saved.weights_sha256,
            config_sha256=entry.saved.config_sha256,
            training=entry.saved.settings,
            calibrated=calibrated(entry.saved),
            evaluation=evaluation,
            phi_compared=summarize_phi(tally.counter, compared),
            phi_at_equal_rates=self.rates.mean
            * by_rate.ratio_at_equal_rates(self.rates),
            intervals={},
            matching=None if name == self.reference else self._matched(name).summary,
            phi=coarse(*phi_histogram(tally.counter, compared), PHI_BINS),
            cosine=decoder.cosine,
            nearest_cosine=decoder.nearest_cosine,
            log_firing_rate=firing_rate_histogram(
                tally.meter.fired, evaluation.reconstruction.n_tokens
            ),
            pair_map=pair_map(tally.counter, by_rate, compared) if with_map else None,
        )
        resampled = resample(tally, evaluation, compared)
        result.intervals = {
            id_: block_interval(HEADLINE[id_].of(result), values)
            for id_, values in resampled.items()
        }
        return result, resampled

    def _cost(self, name: str, ce_tokens: int) -> ModelCost:
        # SAELens would begin the text again where it ends
        n_tokens = min(ce_tokens, self.source.n_read(self.n_tokens))
        return self._once(
            f"{name} cost",
            ModelCost,
            lambda: model_cost(self.saes[name], self.source, n_tokens),
        )

    def _decoder(self, name: str, meta_steps: int) -> Decoder:
        W_dec: Any = self.saes[name].W_dec

        def summarize() -> Decoder:
            geometry = decoder_geometry(W_dec)
            edges = np.linspace(-1, 1, len(geometry.histogram) + 1)
            return Decoder(
                summarize_decoder(name, W_dec, geometry, meta_steps),
                coarse(edges, geometry.histogram, COSINE_BINS),
                cosine_histogram(geometry.nearest_cosine),
            )

        return self._once(f"{name} decoder", Decoder, summarize)

    def splits(self, job: Job, n_candidates: int) -> Splits:
        """Latents of the job's first SAE that its second seems to split."""
        other = job.other
        assert other is not None

        def find() -> Splits:
            # one after the other: each may take as much memory as there is
            found = partnered(load_counter(self.progress, job))
            return find_splits(found, self._tally(other).counter, n_candidates)

        return self._once(f"{job.name} splits", Splits, find)

    def with_contexts(
        self, job: Job, candidates: list[SplitCandidate], n_tokens: int
    ) -> list[CandidateWithContexts]:
        """Candidates of the job's two SAEs, and where they and their parts fire."""
        other = job.other
        assert other is not None
        wanted = {
            job.sae: [candidate.latent for candidate in candidates],
            other: sorted({p.latent for c in candidates for p in c.parts}),
        }
        peaks = self._once(
            "contexts",
            dict[str, dict[int, list[Peak]]],
            lambda: self._peaks(wanted, n_tokens),
        )
        of_solo, of_joint = peaks[job.sae], peaks[other]
        return [
            CandidateWithContexts(
                candidate,
                Contexts(candidate.latent, of_solo[candidate.latent]),
                [Contexts(p.latent, of_joint[p.latent]) for p in candidate.parts],
            )
            for candidate in candidates
        ]

    def vocabulary(self, splitting: list[CandidateWithContexts]) -> dict[int, str]:
        """Text of the tokens in contexts."""
        tokens = {
            token
            for entry in splitting
            for contexts in (entry.contexts, *entry.part_contexts)
            for peak in contexts.peaks
            for token in peak.tokens
        }
        return token_texts(self.source.model.tokenizer, tokens)

    def _peaks(
        self, wanted: dict[str, list[int]], n_tokens: int
    ) -> dict[str, dict[int, list[Peak]]]:
        contexts = {
            name: TopContexts(self.saes[name], latents, n_before=12, n_after=8)
            for name, latents in wanted.items()
        }
        for batch in self.source.stream(n_tokens):
            for collector in contexts.values():
                collector.update(batch)
        return {name: collector.peaks for name, collector in contexts.items()}

    def _tally(self, name: str) -> Tally:
        return Tally.load(self.progress / name, self.saes[name])

    def _matched(self, name: str) -> Matched:
        def match() -> Matched:
            mine, W_dec = self.saes[self.reference].W_dec, self.saes[name].W_dec
            matching = match_latents(mine, W_dec)  # type: ignore[arg-type]
            null = match_latents(mine, random_dictionary(W_dec))  # type: ignore[arg-type]
            return Matched(
                matching.partner.tolist(),
                MatchingSummary(
                    mean_cosine=matching.mean_cosine,
                    random_cosine=null.mean_cosine,
                    is_optimal=matching.is_optimal,
                    histogram=cosine_histogram(matching.cosine[matching.partner >= 0]),
                ),
            )

        return self._once(f"{name} matching", Matched, match)

    def _once(self, name: str, kind: Any, make: Callable[[], T]) -> T:
        path = self.progress / f"{name}.json"
        adapter = TypeAdapter(kind)
        if not path.exists():
            # a figure that is not a number must fail here, not at every resume
            plain = adapter.dump_python(make(), mode="json")
            write_whole(path, json.dumps(plain, allow_nan=False))
        return adapter.validate_json(path.read_bytes())
