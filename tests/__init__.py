"""The tests; without a GPU, kernels run in Triton's interpreter, which it must know when it is imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
