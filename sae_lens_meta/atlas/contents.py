"""Everything that goes into an atlas, before it is put into words and blocks."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array

from sae_lens_meta.atlas.attached import Explained, Matched
from sae_lens_meta.atlas.collect import Observed
from sae_lens_meta.atlas.effects import Effects, logit_effects
from sae_lens_meta.atlas.map import layout
from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.measures.cooccurrence import CooccurrenceCounter
from sae_lens_meta.measures.geometry import nearest_rows
from sae_lens_meta.measures.phi import Partners, top_partners

N_NEAR = 6
N_PARTNERS = 8
N_EFFECTS = 10


@dataclass
class Contents:
    """
    Everything that goes into an atlas.

    Attributes:
        decomposition: what rows are made of.
        near: cosines and places `[d_sae, n]` of the nearest decoder rows.
        near_metas: the same of the meta latents' directions.
        meta_partners: meta latents by phi over decoder rows.
        meta_together: `[n_meta, n]`, rows that are made of both.
        places: `[n_meta, 2]`, on the map; NaN for those that no row uses.
        observed: from a pass over text; None without one.
        effects: on logits, of the latents; None where the model was not loaded or has none.
        meta_effects: of the meta latents.
        explained: by a judge, where there is one.
        matched: to a comparison's reference, where there is one.
    """

    decomposition: Decomposition
    near: tuple[torch.Tensor, torch.Tensor]
    near_metas: tuple[torch.Tensor, torch.Tensor]
    meta_partners: Partners
    meta_together: np.ndarray
    places: np.ndarray
    observed: Observed | None = None
    effects: Effects | None = None
    meta_effects: Effects | None = None
    explained: Explained | None = None
    matched: Matched | None = None

    @property
    def shares(self) -> csr_array:
        """`[d_sae, n_meta]`, of each decoder row."""
        csr = self.decomposition.shares
        parts = (csr.values(), csr.col_indices(), csr.crow_indices())
        return csr_array(tuple(part.numpy() for part in parts), shape=tuple(csr.shape))


def contents_of(
    found: Decomposition,
    observed: Observed | None = None,
    unembedding: torch.Tensor | None = None,
) -> Contents:
    """
    The contents of an atlas, without what is attached to it.

    Args:
        found: what the latents are made of.
        observed: where they fire, where text was read.
        unembedding: of the language model, `[vocabulary, d_in]`, where it applies.
    """
    rows, directions = found.rows, found.directions
    counter = CooccurrenceCounter(found.n_meta)
    counter.update(found.coefficients.to_sparse_coo())
    partners = top_partners(counter, N_PARTNERS)[0]
    own = np.broadcast_to(np.arange(found.n_meta)[:, None], partners.latents.shape)
    return Contents(
        decomposition=found,
        near=nearest_rows(rows, rows, N_NEAR, "Nearest rows"),
        near_metas=nearest_rows(directions, directions, N_NEAR, "Nearest meta latents"),
        meta_partners=partners,
        meta_together=counter.pairs(own, partners.latents),
        places=_places(found),
        observed=observed,
        effects=_effects(rows, unembedding, "Logits of latents"),
        meta_effects=_effects(directions, unembedding, "Logits of meta latents"),
    )


def _places(found: Decomposition) -> np.ndarray:
    used = (found.use > 0).numpy()
    places = np.full((found.n_meta, 2), np.nan)
    places[used] = layout(found.directions[torch.from_numpy(used)])
    return places


def _effects(
    directions: torch.Tensor, unembedding: torch.Tensor | None, said: str
) -> Effects | None:
    if unembedding is None:
        return None
    return logit_effects(directions, unembedding, N_EFFECTS, said)
