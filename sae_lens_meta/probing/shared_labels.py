"""Means over labels: those for which every SAE has the figure."""

from collections.abc import Sequence

from sae_lens_meta.probing.measure import Ratios


def of_shared_labels(saes: Sequence[Ratios]) -> list[Ratios]:
    """
    The same, without the labels for which one of `saes` does not have a figure.

    An SAE without a latent for a hard label has, for instance, none that could be silent. Its mean
    over the rest would look the better for it.

    Args:
        saes: of each, its figures by id, a ratio a label, labels in one order.
    """
    kept = {
        figure: [
            all(ratio.value is not None for ratio in ratios)
            for ratios in zip(*(sae[figure] for sae in saes), strict=True)
        ]
        for figure in saes[0]
    }
    return [
        {
            figure: [
                r
                for r, is_kept in zip(sae[figure], kept[figure], strict=True)
                if is_kept
            ]
            for figure in sae
        }
        for sae in saes
    ]
