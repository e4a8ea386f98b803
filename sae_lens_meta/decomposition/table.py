"""A decomposition in a few lines, evidence beside each figure."""

from rich.table import Table

from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.stability import NULL_QUANTILE

ORIGIN = {"joint": "trained with the SAE", "fitted": "fitted to the SAE"}


def decomposition_table(found: Decomposition, name: str) -> Table:
    """What is explained, beside the nulls; what comes back, beside its own."""
    table = Table()
    table.add_column(name)
    table.add_column("", justify="right")
    table.add_row("latents", f"{found.d_sae:,}")
    table.add_row(f"meta latents, {ORIGIN[found.origin]}", f"{found.n_meta:,}")
    table.add_row("meta latents that a row is made of", f"{found.parts_per_row:.2f}")
    unused = int((found.use == 0).sum())
    table.add_row("meta latents that no row is made of", f"{unused:,}")
    table.add_row("decoder variance explained", f"{found.explained_variance:.3f}")
    if found.stability and found.nulls:
        _add_evidence(table, found)
    else:
        table.add_row("nulls and stability", "not looked at")
    return table


def _add_evidence(table: Table, found: Decomposition) -> None:
    nulls, stability = found.nulls, found.stability
    assert nulls and stability
    seed = f"by a fit with seed {stability.seed}"
    table.add_row(f"– {seed}", f"{stability.explained_variance:.3f}")
    table.add_row("– null: rows of the same covariance", f"{nulls.same_covariance:.3f}")
    table.add_row("– null: rows turned one by one", f"{nulls.turned:.3f}")
    table.add_row(
        f"mean cosine to the meta latents of seed {stability.seed}",
        f"{stability.cosine.mean():.3f}",
    )
    table.add_row(
        "– null: to those of rows of the same covariance",
        f"{stability.null.mean():.3f}",
    )
    share = stability.comes_back.float().mean()
    table.add_row(
        f"meta latents that come back, past {NULL_QUANTILE:.0%} of the null",
        f"{share:.0%}",
    )
