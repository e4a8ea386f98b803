"""Probes SAEs for known labels of the tokens that they read."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from sae_lens import SAE
from transformer_lens.HookedTransformer import HookedRootModule

from sae_lens_meta.activations.comparable import check_comparable
from sae_lens_meta.activations.held_out import loaded
from sae_lens_meta.activations.language_model import load_tokenizer
from sae_lens_meta.activations.measured_on import (
    NEEDED,
    SourceConfig,
    completed,
    documents_of,
)
from sae_lens_meta.activations.source import load_source
from sae_lens_meta.activations.text import TEXT
from sae_lens_meta.measures.controls import random_direction_sae
from sae_lens_meta.measures.evidence import calibrated
from sae_lens_meta.probing.config import ProbeConfig
from sae_lens_meta.probing.differences import differences
from sae_lens_meta.probing.hierarchy import load_hierarchy
from sae_lens_meta.probing.labels import Labels, chosen, labels_of
from sae_lens_meta.probing.measure import Measured, Ratios, Task, measure
from sae_lens_meta.probing.result import FORMAT, ProbedSAE, ProbeResult
from sae_lens_meta.probing.shared_labels import of_shared_labels
from sae_lens_meta.probing.text import read_parts
from sae_lens_meta.probing.tokens import TextTokens, first_part, text_tokens
from sae_lens_meta.saved import SavedSAE, short_names
from sae_lens_meta.statistics.intervals import MIN_BLOCKS
from sae_lens_meta.statistics.ratio import mean_estimate, mean_resampled
from sae_lens_meta.zoo.names import sae_folder

CONTROL = "random directions"
PACKAGES = ("sae-lens-meta", "sae-lens", "torch", "transformers", "numpy", "scipy")


@dataclass
class Member:
    """An SAE to probe: what it is called, its group and what it records."""

    name: str
    group: str
    saved: SavedSAE


@dataclass
class LabelledText:
    """
    The tokens that will be read, and their labels.

    Attributes:
        tokens: of the documents.
        labels: those that are probed for, of the tokens that are read.
        holds: whether each of them holds on every token of the documents, `[n, n_labels]`.
    """

    tokens: TextTokens
    labels: Labels
    holds: np.ndarray


def probe(
    groups: Mapping[str, Sequence[str]],
    cfg: ProbeConfig,
    source_cfg: SourceConfig,
    model: HookedRootModule | None = None,
) -> ProbeResult:
    """
    Measures what single latents, few latents and all activations tell of labels of the tokens.

    Everything is chosen on the first half of the text and scored on the second, of other
    documents. Nulls are shuffled labels and an SAE of random directions that fires as often as
    the first SAE; the ceiling is a dense probe.

    Args:
        groups: folders of SAEs or names of releases, by the name of their group.
        cfg: what to probe for.
        source_cfg: text and language model; text that training did not see.
        model: the language model, where it is loaded already.

    Raises:
        ValueError: if there is no SAE, one stands twice, the SAEs do not read the same
            activations, labels do not align with the tokens, one always holds, none holds often
            enough, or the hierarchy has a cycle: all before the language model is loaded.
        OSError: if a path does not exist.
    """
    members = _members(groups)
    saved = [member.saved for member in members]
    given = {name for name in NEEDED if getattr(source_cfg, name) is not None}
    check_comparable({member.name: member.saved for member in members}, given)
    text = _labelled_text(cfg, source_cfg, saved, model)
    saes = [one.load(source_cfg.device) for one in saved]
    source, measured_on = load_source(source_cfg, saved, model=model)
    first, second = read_parts(source, text.tokens, text.holds, source_cfg.tokens)
    tokenizer: Any = source.model.tokenizer
    ids = text.tokens.ids[first.places]
    task = Task(
        text.labels,
        first,
        second,
        ids,
        lambda token: tokenizer.decode([token]),
        cfg.seed,
    )
    measured = [
        measure(m.name, sae, task) for m, sae in zip(members, saes, strict=True)
    ]
    shared = of_shared_labels([one.ratios for one in measured])
    probed, resampled = [], {}
    for member, one, ratios in zip(members, measured, shared, strict=True):
        probed.append(_probed(member, one, ratios))
        halves = {figure: mean_resampled(found) for figure, found in ratios.items()}
        resampled[member.name] = halves
    by_group = {g: [s for s in probed if s.group == g] for g in groups}
    control = _control(saes, task, cfg.seed)
    n_read = len(first.places) + len(second.places)
    return ProbeResult(
        format=FORMAT,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions={"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        source=measured_on,
        settings=TypeAdapter(ProbeConfig).dump_python(cfg, mode="json"),
        n_tokens=n_read,
        n_first_documents=first.n_documents,
        n_second_documents=second.n_documents,
        labels=task.probed_labels(),
        left_out=text.labels.left_out,
        ceiling=mean_estimate(task.ceilings),
        shuffled_ceiling=mean_estimate(task.shuffled_ceilings).value or 0.0,
        saes=[*probed, *control],
        differences=differences(by_group, resampled),
        warnings=[
            *measured_on.warnings,
            *_warnings(members, text, second.n_documents, source_cfg, bool(control)),
        ],
    )


def _members(groups: Mapping[str, Sequence[str]]) -> list[Member]:
    given = [(group, path) for group, paths in groups.items() for path in paths]
    if not given:
        raise ValueError(
            "There is no SAE to probe. Give a folder or the name of a release."
        )
    if CONTROL in groups:
        raise ValueError(f"{CONTROL!r} is the name of the control. Give another name.")
    names = short_names([Path(path) for _, path in given])
    folders = [sae_folder(path) for _, path in given]
    members = [
        Member(name, group, SavedSAE.read(folder))
        for name, (group, _), folder in zip(names, given, folders, strict=True)
    ]
    by_weights: dict[str, str] = {}
    for member in members:
        member.saved.check_is_sae()
        other = by_weights.setdefault(member.saved.tensors_sha256, member.name)
        if other != member.name:
            raise ValueError(
                f"{other!r} and {member.name!r} have the same weights: one SAE is one piece of "
                "evidence, however often it was saved. Leave out all but one."
            )
    return members


def _labelled_text(
    cfg: ProbeConfig,
    source_cfg: SourceConfig,
    saved: list[SavedSAE],
    model: HookedRootModule | None,
) -> LabelledText:
    """The labels, checked, without the language model."""
    parents = load_hierarchy(cfg.hierarchy)
    reading, _ = completed(source_cfg, saved[0].reading)
    asked = documents_of(source_cfg, saved, to_calibrate=False)
    _, rows = loaded(source_cfg.dataset, asked)
    if TEXT not in rows.column_names:
        raise ValueError(
            f"{source_cfg.dataset} has no column {TEXT!r}: labels stand on the characters of a text."
        )
    tokenizer = load_tokenizer(reading) if model is None else model.tokenizer
    tokens = text_tokens(rows[TEXT], tokenizer, reading, source_cfg.tokens)
    holds, above = labels_of(cfg.labels, tokens, rows, parents)
    read = tokens.read
    first = first_part(tokens.document[read])
    of_read = {name: mask[read] for name, mask in holds.items()}
    labels = chosen(of_read, above, first, cfg.min_tokens)
    return LabelledText(
        tokens, labels, np.column_stack([holds[name] for name in labels.names])
    )


def _probed(member: Member, one: Measured, shared: Ratios) -> ProbedSAE:
    calibration = member.saved.calibration
    return ProbedSAE(
        name=member.name,
        group=member.group,
        weights_sha256=member.saved.weights_sha256,
        config_sha256=member.saved.config_sha256,
        d_sae=member.saved.d_sae,
        l0=one.l0,
        calibrated=calibration.rule if calibration else None,
        labels=one.scores,
        **_means(shared),
    )


def _means(ratios: Ratios) -> dict[str, Any]:
    known = {
        f: [r for r in found if r.value is not None] for f, found in ratios.items()
    }
    return {
        "means": {figure: mean_estimate(found) for figure, found in known.items()},
        "n_labels": {figure: len(found) for figure, found in known.items()},
    }


def _control(saes: list[SAE[Any]], task: Task, seed: int) -> list[ProbedSAE]:
    """An SAE of random directions that fires as often as the first that has thresholds, if one has."""
    model = next((sae for sae in saes if hasattr(sae, "threshold")), None)
    if model is None:
        return []
    control = random_direction_sae(model, task.first.activations, seed)
    found = measure(CONTROL, control, task)
    d_sae, means = control.cfg.d_sae, _means(found.ratios)
    return [
        ProbedSAE(
            CONTROL, CONTROL, "", "", d_sae, found.l0, None, found.scores, **means
        )
    ]


def _warnings(
    members: list[Member],
    text: LabelledText,
    n_second: int,
    source_cfg: SourceConfig,
    has_control: bool,
) -> list[str]:
    found = []
    n_read = text.tokens.contexts.size
    if n_read < source_cfg.tokens - text.tokens.contexts.shape[1]:
        found.append(
            f"The text ended after {n_read:,} of {source_cfg.tokens:,} tokens. Give more "
            "--held_out_documents."
        )
    if n_second < MIN_BLOCKS:
        found.append(
            f"The second part has {n_second} documents, and intervals take {MIN_BLOCKS}. Read more "
            "--held_out_documents and --tokens."
        )
    if left_out := text.labels.left_out:
        shown = ", ".join(f"{name} ({a}, {b})" for name, (a, b) in left_out.items())
        found.append(f"Left out, on too few tokens of the two parts: {shown}.")
    ways = {calibrated(member.saved) for member in members}
    if len(ways) > 1:
        found.append(
            f"The SAEs' thresholds were not taken in one way ({'; '.join(sorted(ways))}), which "
            "moves L0 and what a single latent's firing says. Run `sae-lens-meta calibrate` on "
            "all of them, with the same options."
        )
    if not has_control:
        found.append(
            "There is no control of random directions: no SAE has thresholds, which it is made by."
        )
    return found
