"""Asking a judge: every reply kept on disk, no more at a time and in all than allowed."""

import asyncio
import hashlib
import json
import sqlite3
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from sae_lens_meta.autointerp.judge import Judge, JudgeRefused
from sae_lens_meta.autointerp.prompts import ANYTHING, Messages
from sae_lens_meta.credentials import public_url
from sae_lens_meta.interruption import Interrupted

# the first attempt is the judge's best; a second one at 0 would only repeat it
TEMPERATURES = (0.0, 0.7)


@dataclass
class Limits:
    """
    Attributes:
        concurrency: requests in flight.
        max_requests: made by this run, those answered from disk not counted; None for any.
            One that the client repeats, after an error or in another format, counts once; one
            that follows a refusal is made beyond this number too.
        max_tokens: read and written by the judge in this run; None for any. Requests in flight
            when it is reached are let finish.
        price_read, price_written: dollars for a million tokens.
    """

    concurrency: int = 8
    max_requests: int | None = None
    max_tokens: int | None = None
    price_read: float = 0.0
    price_written: float = 0.0


@dataclass
class Usage:
    """
    Attributes:
        requests: made to the judge.
        kept: answered from disk.
        prompt_tokens: read by the judge.
        completion_tokens: written by it.
        cost: dollars, where prices were given.
    """

    requests: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class LimitReached(Interrupted):
    """A cap on requests or tokens stopped the run; what was asked is kept."""


class Asker:
    """
    Asks `judge`, or finds its earlier reply in the file `path`.

    A reply is kept under the hash of everything that asked for it: model, messages, schema,
    temperature and length. So a killed run goes on where it was, and another one with the same
    prompts costs nothing. A refusal of one question is kept as a reply is.
    """

    def __init__(self, judge: Judge, path: Path, limits: Limits):
        self.judge = judge
        self.limits = limits
        self.usage = Usage()
        self.bar = tqdm(desc=f"Asking {judge.model}", unit="reply")
        self._kept = _open(path)
        self._url = public_url(getattr(judge, "url", ""))
        self._warn_of_another()
        self._free = asyncio.Semaphore(limits.concurrency)
        self._in_flight: dict[str, asyncio.Future[str | None]] = {}
        self._is_stopped = False

    async def ask(
        self, messages: Messages, schema: dict[str, Any], length: int, attempt: int = 0
    ) -> tuple[str, str | None]:
        """
        The key and the text of a reply; None where the judge refuses this question.

        Args:
            messages: the prompt.
            schema: that the reply should follow.
            length: tokens that the reply may have.
            attempt: 0, or 1 where the first could not be read.

        Raises:
            LimitReached: if the reply is not kept and no more may be asked.
            JudgeError: as the judge raises it, also where it refuses whatever it is asked.
        """
        request = {
            "model": self.judge.model,
            "messages": messages,
            "schema": schema,
            "max_tokens": length,
            "temperature": TEMPERATURES[attempt],
        }
        stored = json.dumps(request, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(stored.encode()).hexdigest()
        if key not in self._in_flight:
            task = asyncio.ensure_future(self._reply(key, stored, request))
            self._in_flight[key] = task
        # who waits may be stopped, what was asked is let finish
        text = await asyncio.shield(self._in_flight[key])
        self.bar.update()
        return key, text

    async def finish(self) -> None:
        """Waits for what is in flight, so that it is kept; asks nothing more."""
        self._is_stopped = True
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)

    def close(self) -> None:
        """Ends the progress bar and closes the file."""
        self.bar.close()
        self._kept.close()

    async def _reply(
        self, key: str, stored: str, request: dict[str, Any]
    ) -> str | None:
        row = self._kept.execute(
            "SELECT reply FROM replies WHERE key = ?", (key,)
        ).fetchone()
        if row is not None:
            self.usage.kept += 1
            return json.loads(row[0])["text"]
        async with self._free:
            self._check_limits()
            try:
                kept = await self._generate(request)
            except JudgeRefused as refusal:
                await self._check_it_takes_another(request, refusal)
                kept = {"text": None, "refused": str(refusal)}
        with self._kept:
            self._kept.execute(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?)",
                (key, stored, json.dumps(kept)),
            )
            self._kept.execute(
                "INSERT OR IGNORE INTO judges VALUES (?, ?)",
                (self.judge.model, self._url),
            )
        return kept["text"]

    async def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        """The judge's reply as it is kept."""
        usage, limits = self.usage, self.limits
        usage.requests += 1
        reply = await self.judge.generate(
            request["messages"],
            schema=request["schema"],
            max_tokens=request["max_tokens"],
            temperature=request["temperature"],
        )
        text = reply.text or ""
        # some servers do not count: about four characters make a token
        n_characters = len(json.dumps(request, ensure_ascii=False))
        n_read = getattr(reply, "prompt_tokens", 0) or n_characters // 4
        n_written = getattr(reply, "completion_tokens", 0) or len(text) // 4
        usage.prompt_tokens += n_read
        usage.completion_tokens += n_written
        usage.cost += 1e-6 * (
            limits.price_read * n_read + limits.price_written * n_written
        )
        return {"text": text, "prompt_tokens": n_read, "completion_tokens": n_written}

    async def _check_it_takes_another(
        self, request: dict[str, Any], refusal: JudgeRefused
    ) -> None:
        """A refusal that is to be kept must be this question's: of any other, it would stay."""
        try:
            await self._generate(request | {"messages": ANYTHING})
        except JudgeRefused:
            raise refusal from None

    def _warn_of_another(self) -> None:
        """A model's name does not say whose it is: another address may be another judge."""
        row = self._kept.execute(
            "SELECT url FROM judges WHERE model = ?", (self.judge.model,)
        ).fetchone()
        if row and row[0] != self._url:
            warnings.warn(
                f"Replies of {self.judge.model!r} that are kept here came from {row[0]!r}, not "
                f"from {self._url!r}, and are taken for this judge's. Give another --output if it "
                "is another model.",
                stacklevel=3,
            )

    def _check_limits(self) -> None:
        if self._is_stopped:
            raise LimitReached("The run was stopped.")
        used, limits = self.usage, self.limits
        n_tokens = used.prompt_tokens + used.completion_tokens
        if limits.max_requests is not None and used.requests >= limits.max_requests:
            reached = f"--max-requests {limits.max_requests}"
        elif limits.max_tokens is not None and n_tokens >= limits.max_tokens:
            reached = f"--max-tokens {limits.max_tokens}"
        else:
            return
        raise LimitReached(
            f"{reached} is reached: {used.requests} requests, {n_tokens:,} tokens. Raise it "
            "and run again: what was asked is kept."
        )


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = sqlite3.connect(path, check_same_thread=False)
    try:
        # with WAL, what a crash of the machine may lose is the last replies, never the file
        kept.execute("PRAGMA journal_mode=WAL")
        kept.execute("PRAGMA synchronous=NORMAL")
        columns = "key TEXT PRIMARY KEY, request TEXT, reply TEXT"
        kept.execute(f"CREATE TABLE IF NOT EXISTS replies ({columns})")
        kept.execute(
            "CREATE TABLE IF NOT EXISTS judges (model TEXT PRIMARY KEY, url TEXT)"
        )
        _clean_urls(kept)
    except sqlite3.Error as error:
        kept.close()
        raise ValueError(
            f"{path} does not hold replies ({error}): it is damaged, or another file. Move it "
            "away or give another --output."
        ) from error
    return kept


def _clean_urls(kept: sqlite3.Connection) -> None:
    """Earlier versions kept the URL of a judge as it was given."""
    urls = kept.execute("SELECT DISTINCT url FROM judges").fetchall()
    changed = [(public_url(url), url) for (url,) in urls if public_url(url) != url]
    if changed:
        kept.execute("PRAGMA secure_delete=ON")  # or the old text stays in the file
        with kept:
            kept.executemany("UPDATE judges SET url = ? WHERE url = ?", changed)
