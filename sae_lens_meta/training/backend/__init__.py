"""
What a pass over active latents does differently on a processor and on a GPU.

A processor takes a matrix in blocks that fit its cache and drops what it does not need as it
goes; a GPU takes few large products of known shapes and never waits for a number to be read
back. Everything else in a training step is the same wherever it runs.
"""

import torch

from sae_lens_meta.training.backend.beside import Beside
from sae_lens_meta.training.backend.cpu import CPU
from sae_lens_meta.training.backend.cuda import CUDA
from sae_lens_meta.training.backend.graphs import Graphs
from sae_lens_meta.training.backend.interface import (
    Backend,
    Encoder,
    Rows,
    Selected,
    Sums,
    kernels_for,
    norms_and_products,
    products_at,
    sampled_products,
    starts_of,
    sums_of_two,
)

__all__ = [
    "Backend",
    "Beside",
    "Encoder",
    "Graphs",
    "Rows",
    "Selected",
    "Sums",
    "backend_of",
    "kernels_for",
    "norms_and_products",
    "products_at",
    "sampled_products",
    "starts_of",
    "sums_of_two",
]


def backend_of(tensor: torch.Tensor) -> Backend:
    """The backend of the device that holds `tensor` now."""
    return CUDA if tensor.device.type == "cuda" else CPU
