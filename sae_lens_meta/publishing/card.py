"""The model card: what the Hub shows of a release, with the figures of its comparison."""

import re
import shlex
from dataclasses import asdict
from importlib.resources import files

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.result import ComparedSAE, Comparison
from sae_lens_meta.comparison.table import headline_rows
from sae_lens_meta.measures.figures import Figure, model_tokens
from sae_lens_meta.publishing.doubts import doubts
from sae_lens_meta.publishing.package import Package
from sae_lens_meta.report.attached import scores_of
from sae_lens_meta.zoo.releases import Release

# what the SAE does not record itself
MEASURED_WITH = ("dataset", "held_out_documents", "first_document", "text_seed")
# how a card of ours says that its release is loaded
LOADING = (
    r"^import sae_lens_meta\nfrom sae_lens import SAE\n\n"
    r'sae = SAE\.from_pretrained\("([^"]+)"\)$'
)


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
    objective = package.objective
    tags = ["sparse-autoencoder", "interpretability"]
    if objective.paper is not None:
        tags.append(f"arxiv:{objective.paper.rpartition('/')[2]}")
    data = ModelCardData(
        model_name=release.name,
        library_name="saelens",
        license=release.licence,
        base_model=release.model,
        datasets=_on_the_hub(dataset),
        tags=tags,
        eval_results=_eval_results(comparison, measured),
    )
    return ModelCard.from_template(
        data,
        template_str=template.read_text(encoding="utf-8"),
        release=release,
        sae=release.saes[0],
        objective=objective,
        comparison=comparison,
        measured=measured,
        rows=_rows(comparison, measured),
        doubts=list(doubts(measured.evaluation)),
        scores=scores_of(comparison),
        settings=objective.settings_of(measured.training),
        calibration=package.metadata["calibration"],
        dataset=dataset,
        command=_command(release, comparison),
        of_model=model_tokens(measured.evaluation.model_cost.n_tokens),
        n_baseline=len(comparison.variants()[comparison.baseline]),
        n_variant=len(comparison.variants()[measured.variant]),
    )


def released_name(card: str) -> str | None:
    """The release that a card of ours is of; None for a README that is not from our template."""
    found = re.search(LOADING, card, re.MULTILINE)
    return found[1] if found else None


def _on_the_hub(dataset: str) -> list[str] | None:
    """A dataset's name there, without its configuration; None for what is a file."""
    name = dataset.partition(":")[0]
    return [name] if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _command(release: Release, comparison: Comparison) -> str:
    """What measures the released SAE as it was measured for its comparison."""
    source, settings = comparison.source, comparison.settings
    options = {name: getattr(source, name) for name in MEASURED_WITH}
    options |= source.options
    options |= {"tokens": source.tokens, "ce_tokens": settings["ce_tokens"]}
    shown = (
        f"--{name} {shlex.quote(str(value))}"
        for name, value in options.items()
        if value is not None  # an order that no seed decides
    )
    return " ".join([f"sae-lens-meta evaluate {release.name}", *shown])


def _eval_results(comparison: Comparison, measured: ComparedSAE) -> list[EvalResult]:
    text = comparison.source.dataset
    n_of_model = measured.evaluation.model_cost.n_tokens
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=text,
            dataset_name=f"{comparison.n_tokens:,} {comparison.source.said}: {text}",
            # the Hub tells results apart by this, and not by the name
            dataset_config=f"the first {n_of_model:,} tokens"
            if figure.is_of_model
            else None,
            metric_type=figure.id,
            metric_name=figure.label,
            metric_value=float(figure.show(measured)),
        )
        for figure in HEADLINE.values()
        if not figure.is_part
    ]


def _rows(comparison: Comparison, measured: ComparedSAE) -> list[dict[str, str]]:
    """One line of the card's table for each figure."""
    rows = headline_rows(comparison, {measured.variant: [measured]})
    return [
        {"label": _markdown(row.figure), **asdict(cell)}
        for row in rows
        for cell in row.cells
    ]


def _markdown(figure: Figure[ComparedSAE]) -> str:
    return "– " * figure.is_part + figure.label.replace("|", r"\|")
