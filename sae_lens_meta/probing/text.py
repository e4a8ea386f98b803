"""A labelled text as it was read: activations and labels of two parts, of different documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from scipy.sparse import csr_matrix, vstack

from sae_lens_meta.activations.source import ActivationSource
from sae_lens_meta.activations.stream import encode
from sae_lens_meta.probing.tokens import NO_PLACE, TextTokens, first_part

ROWS = 1024  # encoded at a time
EPS = 1e-6


@dataclass
class Part:
    """
    Tokens of whole documents.

    Attributes:
        activations: `[n, d_in]`, as the hook gives them.
        places: of the tokens among those of the text, `[n]`.
        documents: of each token, counted from 0, `[n]`.
        holds: whether each label holds, `[n, n_labels]`.
    """

    activations: torch.Tensor
    places: np.ndarray
    documents: np.ndarray
    holds: np.ndarray

    @property
    def n_documents(self) -> int:
        """Blocks of the intervals."""
        return int(self.documents[-1]) + 1

    def normalised(self) -> np.ndarray:
        """The activations, each with mean 0 and std 1, `[n, d_in]`; positions of huge norm are tamed."""
        x = self.activations - self.activations.mean(dim=-1, keepdim=True)
        return (x / (x.std(dim=-1, keepdim=True, correction=0) + EPS)).numpy()

    def shuffled(self, seed: int) -> np.ndarray:
        """
        The labels turned against the tokens by a random quarter to three quarters of the part.

        Drawn anew for each token, labels would lose their bursts, and a probe of what a document
        is about would do no better than chance on them: too low a null. A rotation keeps each
        label's rate, its runs and its place beside the other labels.
        """
        n = len(self.holds)
        by = int(np.random.default_rng(seed).integers(n // 4, n - n // 4))
        return np.roll(self.holds, by, axis=0)


@dataclass
class Codes:
    """
    What an SAE makes of a part.

    Attributes:
        acts: codes, `[n, d_sae]`.
        scale: what a code of 1 adds to the normalised activation, in lengths of its decoder row, `[n]`.
    """

    acts: csr_matrix
    scale: np.ndarray


def read_parts(
    source: ActivationSource,
    tokens: TextTokens,
    holds: np.ndarray,
    n_tokens: int,
) -> tuple[Part, Part]:
    """
    One pass over the text: the part to choose on and the part to score on.

    Args:
        source: of activations.
        tokens: that it is about to read.
        holds: whether each label holds on each of them, `[n, n_labels]`.
        n_tokens: to read.

    Raises:
        ValueError: if the language model reads other tokens.
    """
    n_contexts = 0
    activations, read = [], []
    for batch in source.stream(n_tokens):
        places = tokens.places(batch, n_contexts)
        is_read = places != NO_PLACE
        activations.append(batch.activations[is_read].float().cpu())
        read.append(places[is_read].numpy())
        n_contexts += len(places)
    places, x = np.concatenate(read), torch.cat(activations)
    document = tokens.document[places]
    first = first_part(document)

    def part(mask: np.ndarray) -> Part:
        of_part = places[mask]
        numbers = np.unique(document[mask], return_inverse=True)[1]
        return Part(x[torch.from_numpy(mask)], of_part, numbers, holds[of_part])

    return part(first), part(~first)


def encoded(sae: SAE[Any], part: Part) -> Codes:
    """The codes of a part."""
    acts, scales = zip(*_encode_rows(sae, part.activations), strict=True)
    return Codes(csr_matrix(vstack(acts)), np.concatenate(scales))


@torch.no_grad()
def _encode_rows(
    sae: SAE[Any], activations: torch.Tensor
) -> Iterator[tuple[csr_matrix, np.ndarray]]:
    for rows in activations.split(ROWS):
        acts = encode(sae, rows).float().cpu()
        # what the SAE does to its output is linear, as it was for these rows, and done once
        units = torch.stack([torch.zeros_like(rows), torch.ones_like(rows)])
        out = sae.run_time_activation_norm_fn_out(units.to(sae.device))
        zero, one = out.float().cpu()
        std = rows.std(dim=-1, correction=0) + EPS
        yield csr_matrix(acts.numpy()), ((one - zero)[:, 0] / std).numpy()
