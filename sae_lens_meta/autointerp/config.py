"""What to interpret and how."""

from dataclasses import dataclass
from pathlib import Path

from sae_lens_meta.autointerp.asking import Limits
from sae_lens_meta.autointerp.contexts import ContextPlan


@dataclass
class AutointerpConfig:
    """
    What to interpret and how.

    Args:
        latents (int): Latents of each SAE to ask about; of two SAEs, matched pairs.
        output (Path): Folder that receives autointerp.json; every reply is kept there too.
        window (int): Tokens of a window of text.
        explaining (int): Windows to explain a latent from.
        active (int): Windows to score with in which the latent fires.
        boundary (int): Of those, the weakest.
        silent (int): Windows to score with in which it does not.
        shown (int): Windows in one question.
        controls (bool): Score the explanations of other latents too, which must come out at chance.
        random_directions (bool): Interpret an SAE of random directions too, which fire as often as
            the first SAE's latents.
        concurrency (int): Requests in flight.
        max_requests (int | None): Requests after which the run stops.
        max_tokens (int | None): Tokens, read and written by the judge, after which it stops.
        price_read (float): Dollars for a million tokens that the judge reads, to show the cost.
        price_written (float): Dollars for a million tokens that it writes.
        seed (int): Of the latents, the windows and their order.
    """

    latents: int = 100
    output: Path = Path("autointerp_out")
    window: int = 32
    explaining: int = 16
    active: int = 10
    boundary: int = 2
    silent: int = 10
    shown: int = 10
    controls: bool = True
    random_directions: bool = False
    concurrency: int = 8
    max_requests: int | None = None
    max_tokens: int | None = None
    price_read: float = 0.0
    price_written: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "latents",
            "window",
            "explaining",
            "silent",
            "shown",
            "concurrency",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        if not 0 <= self.boundary < self.active:
            raise ValueError(
                f"boundary must be at least 0 and below active={self.active}, got "
                f"{self.boundary}."
            )

    @property
    def plan(self) -> ContextPlan:
        """How many windows of which kind."""
        return ContextPlan(
            self.window, self.explaining, self.active, self.boundary, self.silent
        )

    @property
    def limits(self) -> Limits:
        """What may be asked."""
        return Limits(
            self.concurrency,
            self.max_requests,
            self.max_tokens,
            self.price_read,
            self.price_written,
        )
