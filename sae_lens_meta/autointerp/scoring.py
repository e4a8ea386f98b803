"""
Three scores of an explanation, which are not to be mistaken for each other.

`strength_spearman`: the judge predicts from 0 to 10 how strongly the latent fires in windows it has not
seen; Spearman's rank correlation with the true strengths, -1 to 1, chance 0. The score of the MetaSAEs
author's code. `fuzzing`: tokens are marked in windows, in half of them those where the latent fires; the
judge says where the marks are right. `detection`: the judge says which windows the latent fires in.
Both are class-balanced accuracies, 0 to 1, chance 0.5, as in delphi (arXiv:2410.13928).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from sae_lens_meta.autointerp import prompts
from sae_lens_meta.autointerp.asking import TEMPERATURES, Asker
from sae_lens_meta.autointerp.contexts import LatentContexts, Window
from sae_lens_meta.autointerp.prompts import Decode, Messages

Score = Literal["strength_spearman", "fuzzing", "detection"]
SCORES: tuple[Score, ...] = ("strength_spearman", "fuzzing", "detection")
CHANCE: dict[Score, float] = {
    "strength_spearman": 0.0,
    "fuzzing": 0.5,
    "detection": 0.5,
}
STRONGEST = 10  # what the judge may answer at most to a question of strength
_MAX_EXPLANATION = 120  # tokens


@dataclass
class ScoredLatent:
    """
    Attributes:
        latent: index.
        firing_rate: share of tokens on which it fires.
        explanation: the judge's; None where it could not be read or was refused.
        scores: by name; None where missing.
        missing: why, by name.
        replies: keys of the replies that a score was made of, by name; `explanation` too.
    """

    latent: int
    firing_rate: float
    explanation: str | None = None
    scores: dict[Score, float | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    replies: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Examiner:
    """
    Explains latents and scores explanations.

    Attributes:
        asker: of the judge.
        decode: text of tokens.
        n_shown: windows in one question.
        seed: of the order of windows and of wrong marks.
    """

    asker: Asker
    decode: Decode
    n_shown: int = 10
    seed: int = 0

    async def explain(self, contexts: LatentContexts) -> ScoredLatent:
        """A latent with the judge's explanation of it, and no scores yet."""
        found = ScoredLatent(contexts.latent, contexts.firing_rate)
        asked = prompts.explain(contexts.explaining, self.decode)
        keys, value, reason = await self._read(
            asked, prompts.EXPLANATION_SCHEMA, _MAX_EXPLANATION, read_explanation
        )
        found.replies["explanation"] = keys
        found.explanation = value
        if value is None:
            found.missing["explanation"] = reason
        return found

    async def score(
        self, name: Score, explanation: str, contexts: LatentContexts
    ) -> tuple[list[str], float | None, str]:
        """
        One score: the keys of its replies, its value, and why it is missing where it is None.

        It is missing where a question was refused, where a reply could not be read, twice, or
        where all predictions of strength are the same, which leaves no ranks to correlate.
        """
        windows, marks, truth = self._examples(name, contexts)
        answers: list[int] = []
        keys: list[str] = []
        reasons: list[str] = []
        highest = STRONGEST if name == "strength_spearman" else 1
        for start in range(0, len(windows), self.n_shown):
            shown = slice(start, start + self.n_shown)
            if name == "fuzzing":
                asked = prompts.fuzz(
                    explanation, windows[shown], marks[shown], self.decode
                )
            elif name == "detection":
                asked = prompts.detect(explanation, windows[shown], self.decode)
            else:
                asked = prompts.strength(explanation, windows[shown], self.decode)
            n = len(windows[shown])
            schema = prompts.answers_schema(n, highest)
            found, part, reason = await self._read(
                asked,
                schema,
                20 + 6 * n,
                lambda text, n=n: read_answers(text, n, highest),
            )
            keys += found
            answers += part or []
            reasons += [reason] if part is None else []
        if reasons:
            return keys, None, reasons[0]
        if name != "strength_spearman":
            return keys, balanced_accuracy(answers, truth), ""
        value = spearman(answers, truth)
        return keys, value, "" if value is not None else "constant"

    def _examples(
        self, name: Score, contexts: LatentContexts
    ) -> tuple[list[Window], list[list[bool]], list[float]]:
        """Windows in random order, marks for fuzzing, and what is true of each."""
        random = np.random.default_rng([self.seed, contexts.latent, SCORES.index(name)])
        windows = contexts.active + contexts.silent
        right = [[a > 0 for a in window.activations] for window in contexts.active]
        # marks as they are elsewhere, but none that stands in the question too
        wrong = [[a > 0 for a in window.activations] for window in contexts.marking]
        truth = [window.strength for window in windows]
        if name != "strength_spearman":
            truth = [float(strength > 0) for strength in truth]
        order = random.permutation(len(windows))
        return (
            [windows[i] for i in order],
            [(right + wrong)[i] for i in order],
            [truth[i] for i in order],
        )

    async def _read(
        self, asked: Messages, schema: dict[str, Any], length: int, read: Any
    ) -> tuple[list[str], Any, str]:
        """The keys of the replies, what the first readable one says, and why there is none."""
        keys = []
        for attempt in range(len(TEMPERATURES)):
            key, text = await self.asker.ask(asked, schema, length, attempt)
            keys.append(key)
            if text is None:
                return keys, None, "refused"
            value = read(text)
            if value is not None:
                return keys, value, ""
        return keys, None, "unreadable"


def read_explanation(text: str) -> str | None:
    """The explanation in a reply; None where it is not the JSON that was asked for."""
    value = _json(text, "explanation")
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()  # JSON can hold half a character, which no question can
    except UnicodeEncodeError:
        return None
    return value.strip()


def read_answers(text: str, n: int, highest: int) -> list[int] | None:
    """`n` whole numbers from 0 to `highest`; None where the reply is anything else."""
    value = _json(text, "answers")
    if not isinstance(value, list) or len(value) != n:
        return None
    if not all(type(answer) is int and 0 <= answer <= highest for answer in value):
        return None
    return value


def balanced_accuracy(answers: Sequence[int], truth: Sequence[float]) -> float:
    """Mean of the shares of right answers among the true and among the false."""
    said, is_true = np.asarray(answers) > 0, np.asarray(truth) > 0
    return float((said[is_true].mean() + (~said[~is_true]).mean()) / 2)


def spearman(answers: Sequence[int], truth: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where all answers are the same."""
    if len(set(answers)) < 2:
        return None
    rho: Any = stats.spearmanr(answers, truth)
    return None if math.isnan(rho.statistic) else float(rho.statistic)


def _json(text: str, name: str) -> Any:
    """What stands under the only name of a JSON object; None where the text is no such thing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value.get(name) if isinstance(value, dict) and set(value) == {name} else None
