"""Judges of the tests' own: one that knows, one that guesses, and a server that can misbehave."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from sae_lens_meta.autointerp.judge import Reply
from sae_lens_meta.autointerp.prompts import LEFT, RIGHT, Messages


def texts_of(prompt: Messages) -> list[str]:
    """The numbered texts of a question."""
    return re.findall(r"^Text \d+: (.*)$", prompt[1]["content"], re.MULTILINE)


class Oracle:
    """
    Knows the rule of latents that fire on certain words, each with its own strength.

    Its explanation is that list of words; it answers by looking for them.
    """

    model = "oracle"

    def __init__(self) -> None:
        self.n_asked = 0

    async def generate(self, prompt: Messages, **options: Any) -> Reply:  # noqa: ARG002
        self.n_asked += 1
        return Reply(self.answer(prompt), 100, 10)

    def answer(self, prompt: Messages) -> str:
        instruction, shown = prompt[0]["content"], prompt[1]["content"]
        texts = texts_of(prompt)
        if "Find what these" in instruction:
            found = re.findall(r"'(w\d+) ' (\d+)", shown)
            return json.dumps(
                {"explanation": " ".join(f"{w}={s}" for w, s in sorted(set(found)))}
            )
        strengths = {w: int(s) for w, s in re.findall(r"(w\d+)=(\d+)", shown)}
        if "how strongly" in instruction:
            answers = [max(strengths.get(w, 0) for w in text.split()) for text in texts]
        elif LEFT in instruction:
            marked = [re.findall(f"{LEFT}(.*?){RIGHT}", text) for text in texts]
            answers = [
                int(all(w in strengths for part in parts for w in part.split()))
                for parts in marked
            ]
        else:
            answers = [int(any(w in strengths for w in text.split())) for text in texts]
        return json.dumps({"answers": answers})


class Guesser(Oracle):
    """Answers at random, whatever is asked."""

    model = "guesser"

    def __init__(self) -> None:
        super().__init__()
        self._random = np.random.default_rng(0)

    def answer(self, prompt: Messages) -> str:
        if "Find what these" in prompt[0]["content"]:
            return json.dumps({"explanation": "anything"})
        highest = 11 if "how strongly" in prompt[0]["content"] else 2
        answers = self._random.integers(highest, size=len(texts_of(prompt)))
        return json.dumps({"answers": answers.tolist()})


@dataclass
class JudgeServer:
    """
    An OpenAI-compatible chat endpoint.

    Attributes:
        answer: the text of a reply.
        formats: kinds of `response_format` that it takes.
        refuses: whether it refuses messages.
        refusal: status that these, and other formats, are refused with.
        faults: what happens to the next requests: a status, seconds to wait, `die`, the text of
            a reply, or all of the bytes that are answered.
        requests: bodies that it was sent.
        keys: authorization headers that it was sent.
        paths: that it was asked at, with their queries; its errors show them.
        url: its address.
    """

    answer: Callable[[Messages], str] = field(default_factory=lambda: Oracle().answer)
    formats: tuple[str, ...] = ("json_schema", "json_object")
    refuses: Callable[[Messages], bool] = lambda _: False
    refusal: int = 400
    faults: list[Any] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    url: str = ""


@contextmanager
def judge_server(
    judge: JudgeServer | None = None, port: int = 0
) -> Iterator[JudgeServer]:
    """Serves until the block is left."""
    judge = judge or JudgeServer()
    handler = type("Handler", (_Handler,), {"judge": judge})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    judge: JudgeServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_POST(self) -> None:
        judge = self.judge
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        judge.requests.append(body)
        judge.keys.add(self.headers.get("Authorization", ""))
        judge.paths.add(self.path)
        fault = judge.faults.pop(0) if judge.faults else None
        asked = body.get("response_format", {}).get("type")
        if fault == "die":
            self.close_connection = True
        elif isinstance(fault, bytes):
            self._send(200, fault)
        elif isinstance(fault, int):
            self._send(fault, _error("as the test wants it", self.path))
        elif judge.refuses(body["messages"]):
            self._send(judge.refusal, _error("this question is too long", self.path))
        elif asked is not None and asked not in judge.formats:
            self._send(
                judge.refusal, _error(f"unknown response_format {asked}", self.path)
            )
        else:
            if isinstance(fault, float):
                time.sleep(fault)
            text = fault if isinstance(fault, str) else judge.answer(body["messages"])
            self._send(200, _completion(body["model"], text))

    def _send(self, status: int, value: dict[str, Any] | bytes) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _error(message: str, path: str) -> dict[str, Any]:
    return {"error": {"message": f"{message}, {path}"}}


def _completion(model: str, text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
    }
