"""What speaks against publishing an SAE at all."""

from collections.abc import Iterator

from sae_lens_meta.measures.evaluate import Evaluation

MIN_EXPLAINED_VARIANCE = 0.5
MIN_LOSS_RECOVERED = 0.8
MAX_SILENT_SHARE = 0.25


def doubts(evaluation: Evaluation) -> Iterator[str]:
    """A sentence on each figure that is far from that of an SAE which people use."""
    found = evaluation.reconstruction
    silent = found.n_silent / evaluation.d_sae
    recovered = evaluation.model_cost.ce_loss_recovered
    if found.explained_variance < MIN_EXPLAINED_VARIANCE:
        yield (
            f"It explains {found.explained_variance:.1%} of the variance of the activations: what its "
            "latents show is little of what the model does."
        )
    if recovered < MIN_LOSS_RECOVERED:
        yield (
            f"With its reconstructions the language model recovers {recovered:.1%} of its loss: "
            "much of what the model uses is lost."
        )
    if silent > MAX_SILENT_SHARE:
        yield f"{silent:.0%} of its latents never fire on this text."
