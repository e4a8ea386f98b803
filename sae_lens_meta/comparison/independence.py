"""Whether SAEs are what they are compared as, and each of them evidence of its own."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from sae_lens_meta.comparison.members import EQUAL_L2, JOINT, SOLO, Entry
from sae_lens_meta.measures.evidence import check_evidence
from sae_lens_meta.saved import SavedSAE


def check_members(entries: list[Entry], saes: dict[str, SavedSAE]) -> None:
    """
    Checks SAEs against the groups that they are given in.

    Args:
        entries: the SAEs to compare.
        saes: what each of them records, by its id.

    Raises:
        ValueError: if two have the same weights, one was trained with another objective than
            its group's name says, or their thresholds were not taken in one way.
    """
    for entry in entries:
        coefficient = saes[entry.id].coefficient
        if coefficient is None or entry.group not in (JOINT, SOLO, EQUAL_L2):
            continue
        if (entry.group == JOINT) != (coefficient > 0):
            other = SOLO if entry.group == JOINT else JOINT
            raise ValueError(
                f"{entry.name!r} is given as {entry.group}, but was trained with "
                f"decomposability_coefficient={coefficient:g}, as a {other} SAE. Give it as "
                f"--{other}."
            )
    check_evidence((entry.name, saes[entry.id]) for entry in entries)


def other_texts(entries: list[Entry], saes: dict[str, SavedSAE]) -> list[str]:
    """
    A sentence where SAEs record that they were trained on different texts.

    What differs between them is then not their objective alone.

    Args:
        entries: the SAEs to compare.
        saes: what each of them records, by its id.
    """
    texts = {}
    for entry in entries:
        text = saes[entry.id].text
        if text is not None:
            kept = (text.held_out, text.seed)
            texts.setdefault((text.sha256 or Path(text.name).name, *kept), entry.name)
    if len(texts) < 2:
        return []
    return [
        f"{' and '.join(map(repr, texts.values()))} were trained on different texts, or on "
        "different documents of one: what differs may be the text's doing."
    ]


def repeated_trainings(entries: list[Entry], saes: dict[str, SavedSAE]) -> list[str]:
    """
    SAEs of one group that began with the same weights and read the same order of activations.

    They differ by what their settings change, or by chance in the arithmetic, and do not say
    how much another seed would.

    Args:
        entries: the SAEs to compare.
        saes: what each of them records, by its id.

    Returns:
        A sentence for each group of them.
    """
    groups: dict[Any, dict[int | None, list[str]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for entry in entries:
        sae = saes[entry.id]
        if sae.init_seed is not None:
            settings = str(sorted((k, str(v)) for k, v in sae.settings.items()))
            key = (entry.group, settings, sae.d_sae)
            groups[key][sae.data_seed].append(entry.name)
    repeated = []
    for by_order in groups.values():
        unknown = by_order.pop(None, [])  # may be any of the others
        repeated += [[*names, *unknown] for names in by_order.values()] or [unknown]
    return [
        f"{' and '.join(map(repr, names))} were trained with the same settings, seed and order "
        "of activations: they are not independent seeds."
        for names in repeated
        if len(names) > 1
    ]
