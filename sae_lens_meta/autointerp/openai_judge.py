"""A judge behind an OpenAI-compatible chat endpoint."""

import asyncio
import os
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote_plus, urlsplit

from sae_lens_meta.autointerp.judge import JudgeError, JudgeRefused, Reply
from sae_lens_meta.autointerp.prompts import Messages
from sae_lens_meta.credentials import REMOVED, public_url
from sae_lens_meta.extras import extra

with extra("judge"):
    from openai import APIError, APIStatusError, AsyncOpenAI

API_KEY = "OPENAI_API_KEY"
UNKNOWN_FORMAT = (400, 422, 500)  # 500 is llama-cpp-python's
ONE_QUESTION = (400, 403, 413, 422)  # may be for this question; 403 is a filter's too


class OpenAIJudge:
    """
    An OpenAI-compatible chat endpoint: vLLM, llama.cpp's server, or a hosted one.

    The key is read from the environment variable OPENAI_API_KEY, and nowhere else. Replies
    are constrained to the schema where the server offers that: as `json_schema`, or as
    `json_object` with a schema, as llama.cpp has it; else the prompt alone asks for JSON.

    Attributes:
        url: as it is shown and kept: no user, password or query of it.

    Args:
        url: of the endpoint, for instance http://127.0.0.1:8000/v1. A user and password in it
            are sent as such, its query with every request.
        model: its name there.
        timeout_s: seconds to wait for one reply.
        max_retries: after 429, 5xx, timeouts and broken connections, with backoff.

    Raises:
        ValueError: if `url` is no URL that can be asked.
    """

    def __init__(
        self, url: str, model: str, timeout_s: float = 120, max_retries: int = 6
    ):
        self.model = model
        self.url = public_url(url)
        self._url = _split(url)
        self._formats = [_json_schema, _json_object, _free]  # until one has worked
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._client: AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def generate(self, prompt: Messages, **options: Any) -> Reply:
        """
        See `Judge`.

        Raises:
            JudgeRefused: if the server does not take this question.
            JudgeError: if it refuses all, or does not answer after all retries.
        """
        schema = options.pop("schema", None)
        try:
            return await self._ask(prompt, schema, options)
        except JudgeError:
            raise
        except APIStatusError as error:
            hint = f" Set {API_KEY}." if error.status_code in (401, 403) else ""
            kind = JudgeRefused if error.status_code in ONE_QUESTION else JudgeError
            # from None, here and below: the client's own error may show the whole URL
            raise kind(
                f"The judge at {self.url} answered {error.status_code} for the model "
                f"{self.model!r}: {self._reason(error)}.{hint}"
            ) from None
        except APIError as error:
            raise JudgeError(
                f"The judge at {self.url} does not answer ({self._reason(error)}). Start it "
                "and run again: what was asked is kept."
            ) from None
        except Exception as error:  # of the HTTP library, which the client lets through
            raise JudgeError(
                f"The judge at {self.url} cannot be asked: {self._reason(error)}."
            ) from None

    def _reason(self, error: Exception) -> str:
        """The first line of an error, which a server may have made of the URL it was sent."""
        lines = str(error).strip().splitlines() or [type(error).__name__]
        line = lines[0].rstrip(".")
        for secret in sorted(_secrets(self._url), key=len, reverse=True):
            line = line.replace(secret, REMOVED)
        return line

    def _client_of_this_loop(self) -> AsyncOpenAI:
        """Connections belong to an event loop, and every run has its own."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._loop = loop
            self._client = AsyncOpenAI(
                base_url=self._url._replace(query="", fragment="").geturl(),
                default_query=dict(parse_qsl(self._url.query, keep_blank_values=True)),
                api_key=os.environ.get(API_KEY, "").strip() or "none",
                timeout=self._timeout_s,
                max_retries=self._max_retries,
            )
        return self._client

    async def _ask(self, prompt: Messages, schema: Any, options: Any) -> Reply:
        client = self._client_of_this_loop()
        formats = self._formats if schema else [_free]
        for place, constrain in enumerate(formats):
            try:
                answer: Any = await client.chat.completions.create(
                    model=self.model,
                    messages=prompt,  # type: ignore[arg-type]
                    **constrain(schema),
                    **options,
                )
            except APIStatusError as error:
                is_last = place + 1 == len(formats)
                if error.status_code not in UNKNOWN_FORMAT or is_last:
                    raise
                continue
            if not getattr(answer, "choices", None):
                raise JudgeError(
                    f"What {self.url} answers is no chat completion. Give the address that "
                    "ends in /v1, or try again if it is overloaded."
                )
            if schema:
                self._formats = [constrain]
            usage, message = answer.usage, answer.choices[0].message
            return Reply(
                (message and message.content) or "",
                (usage and usage.prompt_tokens) or 0,
                (usage and usage.completion_tokens) or 0,
            )
        raise AssertionError("the last format raises")


def _json_schema(schema: Any) -> dict[str, Any]:
    named = {"name": "reply", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _json_object(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_object", "schema": schema}}


def _free(_schema: Any) -> dict[str, Any]:
    return {}


def _split(url: str) -> SplitResult:
    """The parts of a judge's URL; what is wrong with it is told without showing it."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        parts = SplitResult("", "", "", "", "")
    is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
    # an @ further on is the rest of a password with a / in it
    if not is_url or "@" in parts.path + parts.query + parts.fragment:
        raise ValueError(
            "The judge's URL is none that can be asked, and may hold a password, so it is not "
            "shown. Give one such as http://127.0.0.1:8000/v1; in a user, a password or a "
            "query, write / as %2F, @ as %40 and so on."
        )
    return parts


def _secrets(url: SplitResult) -> set[str]:
    """What of a URL must not be shown, in every way that it may come back."""
    values = [pair.partition("=")[2] or pair for pair in url.query.split("&")]
    given = [value for value in (url.password or url.username, *values) if value]
    plain = [unquote_plus(value) for value in given]
    return {*given, *plain, *(quote(value, safe="") for value in plain)}
