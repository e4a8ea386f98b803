"""The model card: what the Hub shows of a release, with the figures of its comparison."""

import re
import shlex
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sae_lens_meta.evaluation.comparison import HEADLINE, ComparedSAE, Comparison
from sae_lens_meta.evaluation.intervals import Interval
from sae_lens_meta.publishing.package import Package
from sae_lens_meta.releases import Release

MEASURED_WITH = (
    "model",
    "model_class",
    "dataset",
    "held_out_documents",
    "first_document",
    "text_seed",
    "context_size",
)
PAPER = "https://arxiv.org/abs/2604.03436"


def model_card(package: Package, release: Release, dataset: str) -> ModelCard:
    """
    The card of a release; the same package gives the same card.

    Args:
        package: what is uploaded.
        release: as it will be listed.
        dataset: that the SAE was trained on.
    """
    comparison, measured = package.comparison, package.measured
    template = files("sae_lens_meta.publishing") / "card.md.jinja"
    data = ModelCardData(
        model_name=release.name,
        library_name="saelens",
        license=release.licence,
        base_model=release.model,
        datasets=_on_the_hub(dataset),
        tags=["sparse-autoencoder", "interpretability", "arxiv:2604.03436"],
        eval_results=_eval_results(comparison, measured),
    )
    return ModelCard.from_template(
        data,
        template_str=template.read_text(encoding="utf-8"),
        release=release,
        sae=release.saes[0],
        comparison=comparison,
        measured=measured,
        rows=_rows(comparison, measured),
        settings=measured.training,
        calibration=package.metadata["calibration"],
        dataset=dataset,
        command=_command(release, comparison),
        n_solo=sum(sae.role == "solo" for sae in comparison.saes),
        n_joint=len(comparison.variants()[measured.variant]),
    )


def released_name(card: str) -> str | None:
    """The release that a card of ours is of; None for a README that is not from our template."""
    line = r'^meta_sae = sae_lens_meta\.load_meta_sae\("([^"]+)"\)$'
    found = re.search(line, card, re.MULTILINE)
    return found[1] if found else None


def _on_the_hub(dataset: str) -> list[str] | None:
    """A dataset's name there, without its configuration; None for what is a file."""
    name = dataset.partition(":")[0]
    return [name] if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _command(release: Release, comparison: Comparison) -> str:
    """What measures the released SAE as it was measured for its comparison."""
    source, settings = comparison.source, comparison.settings
    options = {name: source[name] for name in MEASURED_WITH}
    options |= {"tokens": comparison.n_tokens, "ce_tokens": settings["ce_tokens"]}
    shown = (f"--{name} {shlex.quote(str(value))}" for name, value in options.items())
    return " ".join([f"sae-lens-meta evaluate {release.name}", *shown])


def _eval_results(comparison: Comparison, measured: ComparedSAE) -> list[EvalResult]:
    text = str(comparison.source["dataset"])
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=text,
            dataset_name=f"{comparison.n_tokens:,} held-out tokens of {text}",
            metric_type=_identifier(label),
            metric_name=label,
            metric_value=float(figure.show(measured)),
        )
        for label, figure in HEADLINE.items()
        if not label.startswith(" ")  # a part of the figure above it
    ]


def _identifier(label: str) -> str:
    words = re.sub(r"\|(\w+)\|", r"abs \1", label)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _rows(comparison: Comparison, measured: ComparedSAE) -> list[dict[str, Any]]:
    """One line of the card's table for each figure."""
    rows = []
    for label, figure in HEADLINE.items():
        difference = comparison.difference(measured.variant, "solo", label)
        percent = difference.percent if difference else None
        rows.append(
            {
                "label": label.replace("|", r"\|").replace("  ", "– "),
                "value": figure.show(measured),
                "interval": _shown(measured.intervals.get(label), figure.format),
                "difference": "" if percent is None else f"{percent:+.1f} %",
                "over_tokens": _shown(difference and difference.over_tokens, "+.1f"),
                "over_seeds": _shown(difference and difference.over_seeds, "+.1f"),
            }
        )
    return rows


def _shown(interval: Interval | None, spec: str) -> str:
    return interval.show(spec) if interval else ""
