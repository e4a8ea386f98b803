"""The orthogonality penalty: how near each decoder row comes to its nearest neighbour."""

from collections.abc import Iterator

import torch

from sae_lens_meta.training.host_counts import HostCounts
from sae_lens_meta.training.penalty import unit_rows

CHUNK = 8192  # rows that are compared with each other


class Orthogonality(HostCounts):
    """
    Penalises each decoder row for its cosine with the nearest other row of its chunk.

    After OrtSAE (arXiv:2509.22033), which parts the rows into chunks at random in every step, so
    that the cost grows with `d_sae` and not with its square.

    Attributes:
        steps: counted; they seed the parting, so that a resumed run parts as it would have.
    """

    steps: torch.Tensor
    host_counts = ("steps",)

    def __init__(self, chunk: int = CHUNK):
        super().__init__()
        self.chunk = chunk
        self.register_buffer("steps", torch.tensor(0))

    def penalties(self, W_dec: torch.Tensor) -> torch.Tensor:
        """
        `max(0, max_j u_i . u_j)^2` of each latent i over the other rows j of its chunk, `[d_sae]`.

        u_i is the decoder row W_i at norm 1. That negative cosines cost nothing is our reading. The
        gradient reaches both rows of a pair. It takes `d_sae * min(d_sae, chunk) * d_in`
        multiply-adds and no gradient of them: the nearest rows are looked for without one.
        """
        rows = unit_rows(W_dec)
        nearest = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        for chunk in self._chunks(len(rows)):
            chosen = chunk.to(rows.device)
            mine = rows.detach()[chosen]
            cosines = (mine @ mine.t()).fill_diagonal_(-torch.inf)
            nearest[chosen] = chosen[cosines.argmax(dim=1)]
        return (rows * rows[nearest]).sum(dim=1).relu().square()

    def count(self, codes: torch.Tensor) -> None:  # noqa: ARG002
        """Takes in that a step was taken, whatever fired in it."""
        self.steps += 1

    def _chunks(self, n: int) -> Iterator[torch.Tensor]:
        """Parts of `range(n)`, as equal as can be; in its order where there is one."""
        order, n_chunks = torch.arange(n), -(-n // self.chunk)
        if n_chunks > 1:
            generator = torch.Generator().manual_seed(int(self.steps))
            order = torch.randperm(n, generator=generator)
        yield from order.tensor_split(n_chunks)
