"""An Adam whose state is buffers, so that it moves, saves and loads with the weights."""

from collections.abc import Iterable
from typing import Any

import torch

from sae_lens_meta.training.host_counts import HostCounts

EPS = 1e-8  # torch's
MOMENTS = ("exp_avg", "exp_avg_sq")


class BufferedAdam(HostCounts):
    """A module that takes the steps of its optimizer itself, over its own parameters."""

    cfg: Any  # with `lr`, `adam_beta1` and `adam_beta2`
    adam_step: torch.Tensor
    host_counts = ("adam_step",)

    def add_adam_state(self) -> None:
        """Registers the moments of every parameter and the step, all of them 0."""
        for name, parameter in list(self.named_parameters()):
            for moment in MOMENTS:
                self.register_buffer(f"{moment}_{name}", torch.zeros_like(parameter))
        self.register_buffer("adam_step", torch.tensor(0))

    def trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        """Names of the parameters that require a gradient, and these."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    @torch.no_grad()
    def take_adam_step(self, gradients: Iterable[torch.Tensor]) -> None:
        """
        A step of Adam (arXiv:1412.6980, algorithm 1), on the gradients of the parameters `trained`.

        The operations and their order are those of `torch.optim.Adam`.
        """
        self.adam_step += 1
        step, cfg = int(self.adam_step), self.cfg
        beta1, beta2 = cfg.adam_beta1, cfg.adam_beta2
        rate = cfg.lr / (1 - beta1**step)
        scale = (1 - beta2**step) ** 0.5
        for (name, parameter), gradient in zip(self.trained(), gradients, strict=True):
            mean = self.get_buffer(f"exp_avg_{name}")
            square = self.get_buffer(f"exp_avg_sq_{name}")
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            deviation = (square.sqrt() / scale).add_(EPS)
            parameter.addcdiv_(mean, deviation, value=-rate)
