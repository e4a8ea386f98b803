"""
One part of a few latents, taken out while SmolLM2 runs: what changes, and what does not.

    python -m benchmarks.decompose_example

The meta SAE of the bundled release has a meta latent whose rows are latents of prepositions. This takes
it out of them and looks at how probable the model then finds a determiner as the next token: after
prepositions, and after verbs, where one is as likely. The same amounts are taken out along other
meta latents and along random directions. Prompts and determiners were written down beforehand, and not
chosen by their effect; the meta latent was, on other prompts.
"""

from typing import Any

import torch
from sae_lens import SAE
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

import sae_lens_meta  # noqa: F401  (registers the bundled release)
from sae_lens_meta.activations.language_model import SMOLLM2, model_path

RELEASE = "metasae-smollm2-135m-instruct-l11"
META_LATENT = 335
N_CONTROLS = 20
STRENGTH = 6.0

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
