"""Who judges: whatever answers a chat."""

from dataclasses import dataclass
from typing import Any, Protocol

from sae_lens_meta.autointerp.prompts import Messages


class Judge(Protocol):
    """
    What answers a chat. The clients of delphi do.

    Attributes:
        model: its name, which stands wherever a score of its is shown.
    """

    model: str

    async def generate(self, prompt: Messages, **options: Any) -> Any:
        """
        One reply, an object with `text`, and `prompt_tokens` and `completion_tokens` if known.

        Args:
            prompt: messages with `role` and `content`.
            options: `temperature`, `max_tokens`, and `schema`, a JSON schema that the reply
                should follow; a judge may pass over what it does not know.
        """
        ...


@dataclass
class Reply:
    """
    Attributes:
        text: of the reply; empty where the judge said nothing.
        prompt_tokens: read by the judge.
        completion_tokens: written by it.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class JudgeError(OSError):
    """The judge cannot be asked; the message says what to do."""


class JudgeRefused(JudgeError):
    """The judge does not take this one question, for instance since it is too long."""
