"""Times the exact BatchTopK selection against SAELens's, pair by pair, in one process."""

import statistics
import time
from collections.abc import Callable

import torch
from sae_lens.saes.batchtopk_sae import BatchTopK

from sae_lens_meta.training.batch_topk import ExactBatchTopK

N_PAIRS = 5
SHAPES = {
    "demo": (2048, 4096, 32),
    "GPT-2 large": (4096, 20480, 64),
    "GPT-2 large, meta SAE": (20480, 1800, 8),
}


def seconds(
    activation: Callable[[torch.Tensor], torch.Tensor], pre_acts: torch.Tensor
) -> float:
    start = time.perf_counter()
    acts = activation(pre_acts)
    torch.autograd.grad(acts, pre_acts, acts)
    return time.perf_counter() - start


def main() -> None:
    print(f"{torch.get_num_threads()} threads, medians of {N_PAIRS} pairs")
    for name, (batch, d_sae, k) in SHAPES.items():
        # pre-activations of low rank, as an encoder's are
        pre_acts = (torch.randn(batch, 64) @ torch.randn(64, d_sae)).requires_grad_()
        stock, ours = BatchTopK(k), ExactBatchTopK(k)
        pairs = [
            (seconds(stock, pre_acts), seconds(ours, pre_acts))
            for _ in range(N_PAIRS + 1)
        ][1:]  # the first warms up
        ratio = statistics.median(new / old for old, new in pairs)
        old, new = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(f"{name}: SAELens {old:.3f} s, ours {new:.3f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
