"""
One part of a few latents, taken out while SmolLM2 runs: what changes, and what does not.

    python -m benchmarks.decompose_example

The paper's bundled release has a meta latent whose rows are latents of prepositions. It is taken out of them,
and the probability that a determiner comes next is looked at: after prepositions, and after verbs,
where one is about as probable. As controls, the same amounts are taken out along other meta latents
and along random directions, and the latents are ablated as a whole.

The meta latent was chosen among the 368 by the tokens that its direction promotes, determiners. The
prompts here and the list of determiners were written down for an earlier release, before their effect
was seen, and none was dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sae_lens import SAE
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from tqdm.auto import tqdm

import sae_lens_meta  # noqa: F401  (registers the bundled release)
from sae_lens_meta.activations.language_model import SMOLLM2, model_path
from sae_lens_meta.decomposition.decompose import decomposition
from sae_lens_meta.decomposition.decomposition import Decomposition
from sae_lens_meta.decomposition.steering import without_part
from sae_lens_meta.training.penalty import unit_rows

RELEASE = "metasae-smollm2-135m-instruct-l11"
META_LATENT = 317
TO = 475  # of its latents, that of " to" with the largest coefficient
N_CONTROLS = 10
MIN_ROWS = 10  # of a meta latent that serves as a control

DETERMINERS = [
    "the",
    "a",
    "an",
    "his",
    "her",
    "its",
    "their",
    "our",
    "my",
    "your",
    "this",
    "that",
    "these",
    "those",
    "each",
    "every",
    "some",
    "any",
    "another",
    "no",
    "all",
    "both",
]
AFTER_PREPOSITIONS = {
    "of": (
        "The roof of",
        "She is afraid of",
        "They drank most of",
        "He is a member of",
    ),
    "to": (
        "We drove to",
        "She gave the letter to",
        "He listened to",
        "They walked back to",
    ),
    "in": (
        "The children played in",
        "He fell asleep in",
        "They met in",
        "She keeps it in",
    ),
    "on": (
        "She put the cup on",
        "The cat slept on",
        "He wrote his name on",
        "It rained on",
    ),
    "from": (
        "The noise came from",
        "He stole it from",
        "They returned from",
        "She heard it from",
    ),
    "with": (
        "He argued with",
        "She opened it with",
        "They were pleased with",
        "I agree with",
    ),
    "for": (
        "He waited for",
        "She cooked dinner for",
        "They paid for",
        "We searched for",
    ),
    "at": ("She laughed at", "He looked at", "They arrived at", "The dog barked at"),
}
AFTER_VERBS = (
    "Yesterday I saw",
    "She opened",
    "He lost",
    "They built",
    "We bought",
    "The dog chased",
    "She painted",
    "I found",
    "He will need",
    "They sold",
    "The committee rejected",
    "He broke",
    "We visited",
    "She wore",
    "He repaired",
    "They cleaned",
)


class Example:
    """A model with the SAE in it, and what it predicts after each prompt."""

    def __init__(self) -> None:
        path = model_path(SMOLLM2)
        self.model: Any = SAETransformerBridge.boot_transformers(path, device="cpu")
        self.sae: SAE[Any] = SAE.from_pretrained(RELEASE)  # type: ignore[call-arg]
        self.model.add_sae(self.sae, use_error_term=True)
        self.determiners = torch.tensor(
            [self._encoded(f" {word}")[0] for word in DETERMINERS]
        )

    @torch.no_grad()
    def log_probabilities(self, prompts: tuple[str, ...]) -> torch.Tensor:
        """Of the next token, `[n_prompts, d_vocab]`."""
        bos = self.model.tokenizer.bos_token_id
        rows = [[bos, *self._encoded(prompt)] for prompt in prompts]
        longest = max(map(len, rows))
        # what stands behind the end of a prompt does not reach it
        tokens = torch.tensor([row + [bos] * (longest - len(row)) for row in rows])
        ends = torch.tensor([len(row) - 1 for row in rows])
        logits = self.model(tokens)[torch.arange(len(rows)), ends]
        return logits.log_softmax(dim=-1)

    def determiner(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """log of the probability that a determiner comes next, `[n_prompts]`."""
        return log_probabilities[:, self.determiners].logsumexp(dim=1)

    def _encoded(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text, add_special_tokens=False)

    @contextmanager
    def ablated(self, latents: Sequence[int]) -> Iterator[None]:
        """Inside, `latents` are 0."""

        def zero(_module: Any, _inputs: Any, acts: torch.Tensor) -> torch.Tensor:
            kept = torch.ones(acts.shape[-1], dtype=torch.bool)
            kept[list(latents)] = False
            return acts * kept

        handle = self.sae.hook_sae_acts_post.register_forward_hook(zero)
        try:
            yield
        finally:
            handle.remove()


PREPOSITIONS = tuple(p for prompts in AFTER_PREPOSITIONS.values() for p in prompts)
PROMPTS = PREPOSITIONS + AFTER_VERBS
_FIRST_TO = PREPOSITIONS.index(AFTER_PREPOSITIONS["to"][0])
PARTS = {
    "prepositions": slice(0, len(PREPOSITIONS)),
    "to": slice(_FIRST_TO, _FIRST_TO + 4),
    "verbs": slice(len(PREPOSITIONS), None),
}


def along(found: Decomposition, direction: torch.Tensor) -> Decomposition:
    """The same, with another direction in the place of the meta latent's."""
    directions = found.directions.clone()
    directions[META_LATENT] = direction
    return replace(found, directions=directions)


def controls(found: Decomposition) -> dict[str, torch.Tensor]:
    """By name: directions `[n, d_in]` along which the same amounts are taken out."""
    generator = torch.Generator().manual_seed(0)
    used = (found.use >= MIN_ROWS).nonzero()[:, 0]
    used = used[used != META_LATENT]
    chosen = used[torch.randperm(len(used), generator=generator)[:N_CONTROLS]]
    random = torch.randn(N_CONTROLS, found.rows.shape[1], generator=generator)
    return {
        "other meta latents": found.directions[chosen],
        "random directions": unit_rows(random),
    }


def interventions(
    example: Example, found: Decomposition
) -> dict[str, list[Callable[[], Any]]]:
    """By name: what is done, several times where the directions are drawn."""
    made = found.latents_of(META_LATENT).latents.tolist()

    def part(d: Decomposition, latents: Sequence[int] | None = None) -> Any:
        return without_part(example.sae, d, META_LATENT, latents)

    of_controls = {
        f"{len(directions)} {name}": [
            lambda v=v: part(along(found, v))  # type: ignore[misc]
            for v in directions
        ]
        for name, directions in controls(found).items()
    }
    return {
        f"meta latent {META_LATENT}": [lambda: part(found)],
        **of_controls,
        f"its {len(made)} latents as a whole": [lambda: example.ablated(made)],
        f"meta latent {META_LATENT}, from latent {TO} alone": [
            lambda: part(found, [TO])
        ],
    }


def effects(
    example: Example, before: torch.Tensor, intervention: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change of log P(determiner), and KL divergence, of each prompt."""
    with intervention:
        after = example.log_probabilities(PROMPTS)
    change = example.determiner(after) - example.determiner(before)
    return change, (before.exp() * (before - after)).sum(dim=1)


def cell(values: torch.Tensor, form: str) -> str:
    """Mean over runs of their means over prompts, `[n_runs, n_prompts]`, and their range."""
    means = values.double().mean(dim=1)
    text = format(means.mean(), form)
    if len(means) > 1:
        text += f"\n{means.min():{form}} to {means.max():{form}}"
    return text


def main() -> None:
    example, found = Example(), decomposition(RELEASE)
    before = example.log_probabilities(PROMPTS)
    table = Table(title="Change of log P(determiner); where it falls; KL in nats")
    table.add_column("taken out")
    headers = [f"{name} ({len(PROMPTS[where])})" for name, where in PARTS.items()]
    for header in (headers[0], "falls", "KL", *headers[1:]):
        table.add_column(header, justify="right")
    for name, several in interventions(example, found).items():
        runs = [effects(example, before, one()) for one in tqdm(several, leave=False)]
        change, kl = (torch.stack(values) for values in zip(*runs, strict=True))
        after, to, verbs = (change[:, where] for where in PARTS.values())
        figures = [
            cell(after, "+.3f"),
            cell(after < 0, ".0%"),
            cell(kl[:, PARTS["prepositions"]], ".3f"),
            cell(to, "+.3f"),
            cell(verbs, "+.3f"),
        ]
        table.add_row(name, *figures)
    print_parts(found, TO)
    certain = example.determiner(before).exp()
    for name, where in PARTS.items():
        print(f"P(determiner) after {name}: {certain[where].mean():.2f}")
    Console(width=120).print(table)


def print_parts(found: Decomposition, latent: int) -> None:
    """What a latent is made of, by share."""
    parts = found.parts_of(latent)
    shares = [
        f"{share:+.3f} meta latent {meta}"
        for meta, share in zip(*(x.tolist() for x in parts), strict=True)
    ]
    rest = f"{found.constant_shares[latent]:+.3f} common to all rows"
    rest += f", {found.unexplained[latent]:+.3f} unexplained"
    print(f"latent {latent}: {', '.join(shares)}, {rest}")


if __name__ == "__main__":
    main()
