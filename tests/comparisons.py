"""Comparisons made by hand, for what reads them."""

from hashlib import sha256
from typing import Any

import numpy as np

from sae_lens_meta.activations.measured_on import MeasuredOn
from sae_lens_meta.comparison.differences import differences
from sae_lens_meta.comparison.figures import L2
from sae_lens_meta.comparison.result import (
    FORMAT,
    CandidateWithContexts,
    ComparedSAE,
    Comparison,
    Contexts,
    SplitCounts,
)
from sae_lens_meta.measures.evaluate import DecoderSummary, Evaluation
from sae_lens_meta.measures.histograms import Histogram
from sae_lens_meta.measures.model_cost import ModelCost
from sae_lens_meta.measures.phi import PhiSummary
from sae_lens_meta.measures.reconstruction import Reconstruction
from sae_lens_meta.measures.splitting import Part, SplitCandidate
from sae_lens_meta.measures.top_contexts import Peak
from sae_lens_meta.statistics.intervals import HalfSampled, Interval

N_TOKENS = 300_000
SOURCE = MeasuredOn(
    model="a model",
    model_class="AutoModelForCausalLM",
    hook="model.layers.11",
    head=None,
    context_size=128,
    prepend_bos=True,
    exclude_special_tokens=False,
    concatenate=True,
    separator="bos",
    seqpos_slice=[None],
    dataset="some text",
    text_sha256="0" * 64,
    first_document=0,
    held_out_documents=12,
    text_seed=42,
    tokens=N_TOKENS,
    token_set="every token",
    seen="held out",
)
FLAT = Histogram([-1.0, 0.0, 0.5, 1.0], [5, 10, 1])


def compared(
    name: str,
    group: str,
    phi: float,
    l2: float = 0.1,
    l0: float = 32.0,
    variant: str | None = None,
    d_sae: int = 20_000,
    phi_at_equal_rates: float | None = None,
) -> ComparedSAE:
    """An SAE whose corrected mean |phi|, L2 and L0 are given."""
    summary = PhiSummary(N_TOKENS, d_sae, phi + 1e-3, 1e-3, phi, phi, 10**9)
    evaluation = Evaluation(
        name=name,
        d_sae=d_sae,
        sae_lens_version="6",
        reconstruction=Reconstruction(l2, 1 - l2, l0, 3, N_TOKENS),
        model_cost=ModelCost(3.4, 3.5, 2.9, 0.97, 0.1, 4096, []),
        phi=summary,
        decoder=DecoderSummary(0.04, 0.2, 500.0, {"0.09": [0.3], "0.25": [0.4]}),
    )
    return ComparedSAE(
        name=name,
        group=group,
        variant=variant or group,
        path=f"runs/{name}",
        weights_sha256=sha256(name.encode()).hexdigest(),
        training={},
        calibrated="not calibrated",
        evaluation=evaluation,
        phi_compared=summary,
        phi_at_equal_rates=phi if phi_at_equal_rates is None else phi_at_equal_rates,
        intervals={L2.id: Interval(0.9 * l2, 1.1 * l2)},
        matching=None,
        phi=FLAT,
        cosine=FLAT,
        nearest_cosine=FLAT,
        log_firing_rate=FLAT,
    )


def peak(word: int, strength: float) -> Peak:
    return Peak(strength, 1, [word, word + 1, word + 2], [0.1, strength, 0.0])


def candidate(latent: int) -> CandidateWithContexts:
    parts = [
        Part(latent=latent + j, phi=0.9 / j, fired=50 * j, covers=0.6 / j)
        for j in (1, 2)
    ]
    contexts = [Contexts(p.latent, [peak(latent % 90 + 3, 2.0)] * 5) for p in parts]
    return CandidateWithContexts(
        SplitCandidate(latent, 100 + latent, parts, 0.1, 0.3 - 0.1 * (latent % 3)),
        Contexts(latent, [peak(latent % 90, 4.0)] * 5),
        contexts,
    )


def comparison(
    saes: list[ComparedSAE],
    n_candidates: int = 3,
    baseline: str = "solo",
    control: str | None = "solo_equal_l2",
) -> Comparison:
    """A comparison of `saes`, with its differences."""
    vocabulary: dict[int, str] = {i: f" word{i}" for i in range(100)}
    vocabulary[0] = "</script><b id='injected'>"
    made: Any = Comparison(
        format=FORMAT,
        created="2026-01-01T00:00:00+00:00",
        versions={"sae-lens": "6"},
        source=SOURCE,
        settings={"joint": ["runs/joint"], "ce_tokens": 4096},
        baseline=baseline,
        control=control,
        n_tokens=N_TOKENS,
        saes=saes,
        differences=[],
        splitting=[candidate(i) for i in range(n_candidates)],
        split_counts=SplitCounts(0.2, 18_000, "solo", "joint", 40, 30),
        vocabulary=vocabulary,
    )
    # half samples in which every SAE's L2 moves by itself
    resampled = {
        sae.name: {
            L2.id: HalfSampled(
                sae.evaluation.reconstruction.normalized_l2 * _spread(i), 40
            )
        }
        for i, sae in enumerate(saes)
    }
    made.differences = differences(made, resampled)
    return made


def _spread(seed: int) -> np.ndarray:
    return 1 + 0.01 * np.random.default_rng(seed).normal(size=100)
