"""Explains latents of one or two SAEs with a judge, scores the explanations, compares the SAEs."""

import asyncio
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from sae_lens import SAE
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.comparable import check_comparable
from sae_lens_meta.activations.measured_on import NEEDED, SourceConfig
from sae_lens_meta.activations.source import ActivationSource, load_source
from sae_lens_meta.autointerp.asking import Asker
from sae_lens_meta.autointerp.config import AutointerpConfig
from sae_lens_meta.autointerp.contexts import (
    ContextCollector,
    LatentContexts,
)
from sae_lens_meta.autointerp.judge import Judge
from sae_lens_meta.autointerp.prompts import VERSION
from sae_lens_meta.autointerp.results import (
    FORMAT,
    AutoInterpretation,
    InterpretedSAE,
)
from sae_lens_meta.autointerp.scoring import (
    SCORES,
    Examiner,
    ScoredLatent,
)
from sae_lens_meta.measures.controls import (
    check_thresholds,
    random_direction_sae,
)
from sae_lens_meta.measures.evidence import check_evidence
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.statistics.paired import (
    PairedDifference,
    paired_difference,
)
from sae_lens_meta.zoo.names import sae_folder

N_QUARTERS = 4
CONTROL = "random directions"
N_RATE_TOKENS = 32_768  # that a control's firing rates are taken on
Contexts = dict[int, LatentContexts | None]


@dataclass
class Subject:
    """
    An SAE that is interpreted.

    Attributes:
        name: to show it under.
        sae: itself.
        sha256: of its weights as saved; empty for a control.
        drawn: its latents that are drawn, paired by place with those of the other SAE.
        contexts: of those.
        n_tokens: that the contexts were taken from.
    """

    name: str
    sae: SAE[Any]
    sha256: str
    drawn: list[int]
    contexts: Contexts = field(default_factory=dict)
    n_tokens: int = 0


def autointerp(
    paths: Mapping[str, Path | str],
    judge: Judge,
    cfg: AutointerpConfig,
    source_cfg: SourceConfig,
    model: HookedRootModule | None = None,
) -> AutoInterpretation:
    """
    Explains and scores latents of one SAE, or of two SAEs over matched latents.

    Every reply of the judge is kept in `cfg.output / "replies.sqlite"`, so that the same call goes
    on where an earlier one was killed, and costs nothing once it is done.

    Args:
        paths: folders of one or two SAEs, or names of releases, by the names to show them under.
        judge: who explains and scores.
        cfg: how many latents and windows.
        source_cfg: text and language model; text that training did not see.
        model: the language model, where it is loaded already.

    Raises:
        ValueError: if there are more than two SAEs or none, one of them is neither a folder nor
            a release, they read different activations, have the same weights or thresholds
            that were not taken in one way, or no latent fires in enough windows.
        JudgeError: if the judge cannot be asked.
        LimitReached: if a cap stopped the run.
    """
    check_number(paths)
    saved = {n: SavedSAE.read(sae_folder(str(path))) for n, path in paths.items()}
    subjects = _subjects(saved, cfg, source_cfg)
    source, measured_on = load_source(source_cfg, list(saved.values()), model=model)
    if cfg.window > measured_on.context_size:
        raise ValueError(
            f"A window of {cfg.window} tokens does not fit into a context of "
            f"{measured_on.context_size}. Give a smaller --window."
        )
    for subject in subjects:
        _collect(subject, source, source_cfg.tokens, cfg)
    places = _usable(subjects, cfg.latents)
    tokenizer: Any = source.model.tokenizer
    asker = Asker(judge, cfg.output / "replies.sqlite", cfg.limits)
    examiner = Examiner(
        asker, lambda tokens: tokenizer.decode(tokens), cfg.shown, cfg.seed
    )
    jobs = [(subject, places) for subject in subjects]
    if cfg.random_directions:
        control = _random_directions(subjects[0], source, cfg)
        _collect(control, source, source_cfg.tokens, cfg)
        jobs.append(
            (control, [p for p in places if control.contexts[control.drawn[p]]])
        )
    try:
        saes = _run(_interpret(jobs, examiner, cfg))
    finally:
        asker.close()
    pairs = list(zip(*(sae.latents for sae in saes[: len(subjects)]), strict=True))
    measured_on.warnings += source.shortfall(source_cfg.tokens)
    found = AutoInterpretation(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        judge=judge.model,
        prompt_version=VERSION,
        settings=_plain(cfg),
        source=measured_on,
        saes=saes,
        differences=_differences(pairs) if len(subjects) == 2 else [],
        by_firing_rate=_by_firing_rate(pairs) if len(subjects) == 2 else [],
        usage=asker.usage,
        n_tokens=subjects[0].n_tokens,
        pair_cosines=_cosines(subjects, places) if len(subjects) == 2 else [],
    )
    found.save(cfg.output)
    return found


def check_number(paths: Mapping[str, Path | str]) -> None:
    """
    Checks that there are as many SAEs as can be interpreted.

    Raises:
        ValueError: if there are more than two or none.
    """
    if not 1 <= len(paths) <= 2:
        raise ValueError(f"Give one or two SAEs, got {len(paths)}.")


def _collect(
    subject: Subject,
    source: ActivationSource,
    n_tokens: int,
    cfg: AutointerpConfig,
) -> None:
    """Gives `subject` the windows of the latents drawn, from one pass over the text."""
    collector = ContextCollector(subject.sae, subject.drawn, cfg.plan, cfg.seed)
    for batch in source.stream(n_tokens):
        subject.n_tokens += len(batch.rows)
        collector.update(batch)
    subject.contexts = collector.result()


def _subjects(
    saved: dict[str, SavedSAE], cfg: AutointerpConfig, source_cfg: SourceConfig
) -> list[Subject]:
    if CONTROL in saved:
        raise ValueError(f"{CONTROL!r} is the name of the control. Give another name.")
    given = {name for name in NEEDED if getattr(source_cfg, name) is not None}
    check_comparable(saved, given)
    check_evidence(saved.items())
    saes = {name: one.load(source_cfg.device) for name, one in saved.items()}
    if cfg.random_directions:
        check_thresholds(next(iter(saes.values())))
    first, *others = saes.values()
    # twice as many as asked for, since some fire too rarely
    n_drawn = min(2 * cfg.latents, first.cfg.d_sae)
    order = np.random.default_rng(cfg.seed).permutation(first.cfg.d_sae)
    drawn = [order[:n_drawn].tolist()]
    for other in others:
        partner = match_latents(first.W_dec, other.W_dec).partner  # type: ignore[arg-type]
        order = order[partner[order] >= 0][:n_drawn]
        drawn = [order.tolist(), partner[order].tolist()]
    return [
        Subject(name, sae, saved[name].weights_sha256, latents)
        for (name, sae), latents in zip(saes.items(), drawn, strict=True)
    ]


def _cosines(subjects: list[Subject], places: list[int]) -> list[float]:
    """Of the decoder rows of each pair."""
    a, b = (s.sae.W_dec[[s.drawn[place] for place in places]] for s in subjects)
    return torch.nn.functional.cosine_similarity(a, b).tolist()


def _usable(subjects: list[Subject], n_latents: int) -> list[int]:
    """The first places whose latents fire in enough windows, in every SAE."""
    places = [
        place
        for place in range(len(subjects[0].drawn))
        if all(subject.contexts[subject.drawn[place]] for subject in subjects)
    ]
    if not places:
        raise ValueError(
            "None of the latents drawn fires in enough windows to explain and score it, and "
            "is silent in enough others. Read more --tokens, or ask for fewer windows with "
            "--explaining, --active and --silent."
        )
    return places[:n_latents]


def _random_directions(
    subject: Subject, source: ActivationSource, cfg: AutointerpConfig
) -> Subject:
    batches = source.stream(N_RATE_TOKENS)
    activations = torch.cat([batch.rows for batch in batches])
    sae = random_direction_sae(subject.sae, activations, cfg.seed)
    return Subject(CONTROL, sae, "", subject.drawn)


def _run(job: Coroutine[Any, Any, Any]) -> Any:
    """Runs `job` to its end, in a notebook too, whose loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, job).result()


async def _interpret(
    jobs: list[tuple[Subject, list[int]]], examiner: Examiner, cfg: AutointerpConfig
) -> list[InterpretedSAE]:
    try:
        return await _all(
            [
                interpret_one(
                    subject,
                    [o for p in places if (o := subject.contexts[subject.drawn[p]])],
                    examiner,
                    cfg,
                )
                for subject, places in jobs
            ]
        )
    finally:
        await examiner.asker.finish()


async def interpret_one(
    subject: Subject,
    contexts: list[LatentContexts],
    examiner: Examiner,
    cfg: AutointerpConfig,
) -> InterpretedSAE:
    """
    Explains latents of one SAE and scores the explanations.

    Args:
        subject: the SAE.
        contexts: of the latents to interpret.
        examiner: who asks.
        cfg: whether to score shuffled explanations too.

    Raises:
        JudgeError, LimitReached: as `Asker.ask`.
    """
    explained = await _all([examiner.explain(one) for one in contexts])
    jobs = [
        _scored(examiner, one, found.explanation, context)
        for one, found, context in zip(explained, explained, contexts, strict=True)
    ]
    shuffled = []
    if cfg.controls and len(explained) > 1:
        # everybody gets the next one's, so nobody their own
        others = [*explained[1:], explained[0]]
        shuffled = [
            _scored(
                examiner,
                ScoredLatent(one.latent, one.firing_rate, other.explanation),
                other.explanation,
                context,
            )
            for one, other, context in zip(explained, others, contexts, strict=True)
        ]
    scored = await _all([*jobs, *shuffled])
    return InterpretedSAE(
        name=subject.name,
        weights_sha256=subject.sha256,
        n_left_out=sum(found is None for found in subject.contexts.values()),
        latents=scored[: len(jobs)],
        shuffled=scored[len(jobs) :],
    )


async def _scored(
    examiner: Examiner,
    found: ScoredLatent,
    explanation: str | None,
    contexts: LatentContexts,
) -> ScoredLatent:
    for score in SCORES:
        keys, value, reason = [], None, "no explanation"
        if explanation is not None:
            keys, value, reason = await examiner.score(score, explanation, contexts)
        found.replies[score], found.scores[score] = keys, value
        if value is None:
            found.missing[score] = reason
    return found


async def _all(jobs: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Their results; where one fails, the others are stopped."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


Pairs = list[tuple[ScoredLatent, ScoredLatent]]


def _differences(pairs: Pairs) -> list[PairedDifference]:
    return [
        paired_difference(score, [(a.scores[score], b.scores[score]) for a, b in pairs])
        for score in SCORES
    ]


def _by_firing_rate(pairs: Pairs) -> list[list[PairedDifference]]:
    ordered = sorted(pairs, key=lambda pair: pair[0].firing_rate + pair[1].firing_rate)
    edges = np.linspace(0, len(ordered), N_QUARTERS + 1).astype(int)
    return [
        _differences(ordered[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]


def _plain(cfg: Any) -> dict[str, Any]:
    return TypeAdapter(type(cfg)).dump_python(cfg, mode="json")
