"""
The part of the Hugging Face Hub that downloads a file, on 127.0.0.1.

What `huggingface_hub` reads of an answer: `X-Repo-Commit`, `X-Linked-Etag` or `ETag`, and the
length (`file_download.get_hf_file_metadata`); of a refusal, `X-Error-Code`
(`utils/_http.hf_raise_for_status`). It asks with HEAD, downloads with GET, and goes on after
an interruption with `Range` (`file_download.http_get`).
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class HubServer:
    """
    Attributes:
        files: content by (repository, commit, path).
        faults: what befalls the next downloads, one after the other: `truncate` ends the
            connection halfway, `500` and `429` refuse.
        requests: method and path of each request that was made.
        url: where it listens.
    """

    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serves until the block is left."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._resolve(with_body=False)

        def do_GET(self) -> None:
            self._resolve(with_body=True)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test says what it wants to know."""

        def _resolve(self, with_body: bool) -> None:
            hub.requests.append((self.command, self.path))
            parts = unquote(self.path).strip("/").split("/")
            if len(parts) < 5 or parts[2] != "resolve":
                return self._refuse(404, "RepoNotFound")
            repo, commit, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            content = hub.files.get((repo, commit, name))
            if content is None:
                known = {key[:2] for key in hub.files}
                code = (
                    "EntryNotFound" if (repo, commit) in known else "RevisionNotFound"
                )
                return self._refuse(404, code)
            fault = hub.faults.pop(0) if with_body and hub.faults else ""
            if fault in ("429", "500"):
                return self._refuse(int(fault), "")
            return self._send(content, commit, with_body, fault)

        def _send(self, content: bytes, commit: str, body: bool, fault: str) -> None:
            requested = self.headers.get("Range")
            start = int(requested.split("=")[1].split("-")[0]) if requested else 0
            rest = content[start:]
            self.send_response(206 if requested else 200)
            if requested:
                end = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            if body and fault == "truncate":
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                self.close_connection = True
            elif body:
                self.wfile.write(rest)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    return Handler
