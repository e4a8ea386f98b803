"""
What docs/results.md shows of the paper's bundled release, from its comparison.json.

    python -m benchmarks.results
    python -m benchmarks.results RUN/comparison/comparison.json

Prints the table, the judge's scores and the splitting candidates as Markdown, and of the release draws
docs/img/results.png. The candidates are those of the report's list whose second phi is furthest
above the phi between their parts: parts that fire on the same tokens are not a split. Those that
nobody could judge are passed over: latents of a context's first token, and of pieces of characters.
"""

import argparse
import html
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sae_lens_meta.comparison.figures import HEADLINE, L2, PHI, PHI_AT_EQUAL_RATES
from sae_lens_meta.comparison.result import (
    CandidateWithContexts,
    Comparison,
    Contexts,
)
from sae_lens_meta.measures.figures import Figure as Headline
from sae_lens_meta.measures.top_contexts import Peak
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.zoo.files import bundled_folder

NAME = "metasae-smollm2-135m-instruct-l11"
PLOT = Path("docs/img/results.png")
BASELINES = {"solo": "solo", "solo_equal_l2": "solo at equal L2"}
N_CANDIDATES, N_CONTEXTS, N_TOKENS = 5, 4, 12


def table(comparison: Comparison) -> Iterator[str]:
    """Means over seeds; differences with their intervals over seeds."""
    variants = comparison.variants()
    baselines = [name for name in BASELINES if name in variants]
    (joint,) = variants.keys() - set(baselines)
    compared = [joint, *baselines]
    headers = [joint.partition(",")[0], *(BASELINES[name] for name in baselines)]
    headers += [f"to {BASELINES[name]}, %" for name in baselines]
    yield f"| | {' | '.join(headers)} |"
    yield f"|{'---|' * (1 + len(headers))}"
    for figure in HEADLINE.values():
        cells = [
            format(np.mean([figure.of(sae) for sae in variants[name]]), figure.format)
            for name in compared
        ]
        for baseline in baselines:
            found = comparison.difference(joint, baseline, figure.id)
            cell = ""
            if found and found.percent is not None:
                cell = f"{found.percent:+.1f}"
                if found.over_seeds:
                    cell += f" ({found.over_seeds.show('+.1f')})"
            cells.append(cell)
        shown = figure.label.replace("|", r"\|")
        yield f"| {'– ' * figure.is_part}{shown} | {' | '.join(cells)} |"


def autointerp(comparison: Comparison) -> Iterator[str]:
    """The judge's scores, as on the card, where one was asked."""
    found = scores_of(comparison)
    if found is None:
        return
    yield "| SAE | score | mean | with another latent's explanation |"
    yield "|---|---|---|---|"
    for row in found.rows():
        yield f"| {' | '.join(row)} |"
    yield ""
    for sentence in found.sentences():
        yield f"- {sentence}"


def splitness(entry: CandidateWithContexts) -> float:
    between = entry.candidate.parts_phi
    assert between is not None
    return entry.candidate.parts[1].phi - between


def can_be_judged(entry: CandidateWithContexts, vocabulary: dict[int, str]) -> bool:
    peaks = entry.contexts.peaks
    opens_context = all(peak.place <= 1 for peak in peaks)
    return not opens_context and not any(
        "\N{REPLACEMENT CHARACTER}" in vocabulary[peak.tokens[peak.place]]
        for peak in peaks
    )


def candidates(comparison: Comparison) -> Iterator[str]:
    every = comparison.splitting
    if not every:
        return
    found = [entry for entry in every if can_be_judged(entry, comparison.vocabulary)]
    found.sort(key=splitness, reverse=True)
    between = [
        e.candidate.parts_phi for e in every if e.candidate.parts_phi is not None
    ]
    yield (
        f"{len(every)} candidates, {len(every) - len(found)} of them passed over; the lowest "
        f"phi between two parts is {min(between):+.2f}"
    )
    for entry in found[:N_CANDIDATES]:
        latent = entry.candidate
        yield (
            f"\n**Solo latent {latent.latent}**, {latent.fired:,} tokens; phi between the "
            f"parts {latent.parts_phi:+.2f}\n"
        )
        yield from contexts(entry.contexts, comparison.vocabulary)
        for part, where in zip(latent.parts[:2], entry.part_contexts, strict=False):
            yield (
                f"\nJoint latent {part.latent}, {part.fired:,} tokens, phi {part.phi:.2f}, "
                f"on {part.covers:.0%} of the solo latent's tokens\n"
            )
            yield from contexts(where, comparison.vocabulary)


def contexts(found: Contexts, vocabulary: dict[int, str]) -> Iterator[str]:
    """The strongest that differ, a line each, as HTML that Markdown leaves alone."""
    lines = list(dict.fromkeys(shown(peak, vocabulary) for peak in found.peaks))
    for line in lines[:N_CONTEXTS]:
        yield f"- <code>{line}</code>"


def shown(peak: Peak, vocabulary: dict[int, str]) -> str:
    def text(tokens: list[int]) -> str:
        joined = "".join(vocabulary[token] for token in tokens).replace("\n", "↵")
        return html.escape(joined).replace("|", "&#124;").replace("*", "&#42;")

    before = text(peak.tokens[max(0, peak.place - N_TOKENS) : peak.place])
    at, after = peak.tokens[peak.place], peak.tokens[peak.place + 1 :]
    return f"{before}<b>{text([at])}</b>{text(after[: N_TOKENS // 2])}"


def plot(comparison: Comparison) -> None:
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    against_l2, at_equal_rates, rates = figure.subplots(1, 3)
    scatter(against_l2, comparison, PHI)
    scatter(at_equal_rates, comparison, PHI_AT_EQUAL_RATES)
    for variant, saes in comparison.variants().items():
        edges = np.array(saes[0].log_firing_rate.edges)
        counts = np.mean([sae.log_firing_rate.counts for sae in saes], axis=0)
        rates.stairs(counts, edges, label=variant)
    rates.set_xlabel("log10 of the share of tokens a latent fires on")
    rates.set_ylabel("latents")
    handles = against_l2.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.savefig(PLOT, dpi=110)


def scatter(ax: Axes, comparison: Comparison, shown: Headline) -> None:
    for variant, saes in comparison.variants().items():
        error = [L2.of(sae) for sae in saes]
        ax.plot(error, [shown.of(sae) for sae in saes], "o", label=variant)
    ax.set_xlabel(L2.label)
    ax.set_ylabel(shown.label.replace(" at ", "\nat "))
    ax.ticklabel_format(axis="y", scilimits=(0, 0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("comparison", type=Path, nargs="?")
    given: Path | None = parser.parse_args().comparison
    released = bundled_folder() / NAME / "comparison.json"
    comparison = Comparison.load(given or released)
    for part in (table, autointerp, candidates):
        print("\n".join(part(comparison)), end="\n\n")
    if given is None:
        plot(comparison)


if __name__ == "__main__":
    main()
