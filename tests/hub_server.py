"""
The Hugging Face Hub's HTTP protocol on 127.0.0.1, as far as publishing and loading need it.

What the answers look like is what `huggingface_hub` 2.4 reads of them; what is refused is what
the Hub is documented to refuse. In brackets, the source of each rule: a function of the
client, `LFS` for the batch API of git-lfs (docs/api/batch.md in its repository), or `docs`
for huggingface.co/docs/hub. Repositories, commits and large files are kept in memory.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

WRITER, STRANGER = "hf_writerwriterwriterwriter", "hf_strangerstrangerstranger"
OWNER = "tests"  # the organisation that WRITER may write to
LARGE = 10 * 1024 * 1024  # bytes that make any file a large one [docs: git limits]


def git_sha1(content: bytes) -> str:
    """What git names a blob by, and the Hub a small file [_commit_api._local_oid]."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    """What the Hub names a large file by."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repo:
    """
    Attributes:
        private: whether only its writers see it.
        commits: files by path, by commit.
        head: commit of `main`.
        tags: commit by tag.
        large: paths of large files, by commit.
    """

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, set[str]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], large: set[str]) -> str:
        """Makes `files` the new head; its name depends on them and on what came before."""
        content = [self.head, *(f"{n} {sha256(c)}" for n, c in sorted(files.items()))]
        self.head = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits[self.head], self.large[self.head] = files, large
        return self.head

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit name stands for."""
        named = {"main": self.head, **self.tags, **{c: c for c in self.commits}}
        return named.get(revision)

    @property
    def files(self) -> dict[str, bytes]:
        """Those of the head."""
        return self.commits[self.head]


@dataclass
class Fault:
    """
    What befalls the next requests.

    Attributes:
        request: regular expression that the request's `METHOD path` must match.
        kind: a status that it is answered with; `die`, the connection closed without an
            answer; `lost`, the same after the request was carried out; `truncate`, half of
            the answer; `trickle`, the answer in small pieces; `stall`, half of it and then
            nothing for a while.
        times: how many requests.
        headers: of the answer.
    """

    request: str
    kind: str | int
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HubServer:
    """
    Attributes:
        repos: by `organisation/name`.
        objects: large files that were uploaded, by repository and sha256.
        faults: what befalls the next requests.
        requests: method and path of each request that was made.
        url: where it listens.
        storage_url: where large files are, another host as in the field.
        stall_s: how long a stalled answer hangs.
        page: how many entries a listing has in one answer.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""
    stall_s: float = 3.0
    page: int = 1000

    def new_repo(self, name: str, private: bool = False) -> Repo:
        """A repository with the first commit that the Hub makes itself [docs]."""
        repo = self.repos[name] = Repo(private)
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        repo.commit({".gitattributes": attributes}, set())
        return repo


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serves until the block is left."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, hub.storage_url = (
        f"http://127.0.0.1:{server.server_port}" for server in servers
    )
    for server in servers:
        server.daemon_threads = True
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Refusal(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any):
        self.status, self.message, self.code = status, message, code
        self.body = {"error": message, **body}


_ROUTES = {  # what answers, by method and path
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate_yaml",
    r"GET /api/models/(?P<repo>[^/]+/[^/]+)/refs": "refs",
    r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>.+)": "tree",
    r"GET /api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>.+))?": "info",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)": "preupload",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)": "commit",
    r"POST /api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<revision>.+)": "tag",
    r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": "lfs_batch",
    r"PUT /storage/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})": "lfs_put",
    r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify": "lfs_verify",
    r"(GET|HEAD) /(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": "resolve",
    r"(GET|HEAD) /storage/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})": "lfs_get",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test says what it wants to know."""

    def _handle(self) -> None:
        path = urlsplit(self.path).path
        request = f"{self.command} {unquote(path)}"
        self.hub.requests.append((self.command, unquote(path)))
        self.fault = self._next_fault(request)
        length = int(self.headers.get("Content-Length") or 0)
        if self.fault and self.fault.kind == "die":
            self.rfile.read(length // 2)
            return self._hang_up()
        self.body = self.rfile.read(length)
        try:
            if path.startswith("/storage/") and "Authorization" in self.headers:
                raise _Refusal(400, "Only one auth mechanism allowed")  # as S3 does
            if self.fault and isinstance(self.fault.kind, int):
                raise _Refusal(self.fault.kind, "as the test wants it")
            for pattern, name in _ROUTES.items():
                if match := re.fullmatch(pattern, request):
                    return getattr(self, name)(**match.groupdict())
            raise _Refusal(404, "no such route", "EntryNotFound")
        except _Refusal as refusal:
            return self._refuse(refusal)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    # --- who may do what -------------------------------------------------------------

    def _may_write(self, namespace: str) -> None:
        """401 for a token that is none, 403 for somebody else's [docs; create_repo]."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (WRITER, STRANGER):
            raise _Refusal(401, "Invalid credentials in Authorization header")
        if token != WRITER or namespace != OWNER:
            raise _Refusal(
                403, f"You don't have the rights to write to {namespace}", "Forbidden"
            )

    def _repo(self, name: str, write: bool = False) -> Repo:
        """One that there is and that may be seen [hf_raise_for_status: RepoNotFound]."""
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in (WRITER, STRANGER):
            raise _Refusal(401, "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token != WRITER):
            raise _Refusal(
                404 if token else 401, "Repository not found", "RepoNotFound"
            )
        if write:
            self._may_write(name.split("/")[0])
        return repo

    # --- repositories ----------------------------------------------------------------

    def create(self) -> None:
        asked = self._json()
        namespace = asked.get("organization") or OWNER
        self._may_write(namespace)
        name = f"{namespace}/{asked['name']}"
        if not re.fullmatch(r"[\w.-]{1,96}", asked["name"]):
            raise _Refusal(400, f"Invalid repository name {asked['name']!r}")
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repos:  # with its address, which create_repo reads
            raise _Refusal(409, "You already created this model repo", **url)
        # older clients send a flag in the place of a word
        is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.new_repo(name, is_private)
        self._send_json(url)

    def info(self, repo: str, revision: str | None) -> None:
        found = self._repo(repo)
        commit = self._commit_of(found, revision or "main")
        names = sorted(found.commits[commit])[: self.hub.page]
        siblings = [{"rfilename": name} for name in names]
        self._send_json(
            {"id": repo, "sha": commit, "private": found.private, "siblings": siblings}
        )

    def tree(self, repo: str, revision: str) -> None:
        """Some of the files, and where the next ones are [_paginate_pages; list_repo_tree]."""
        found = self._repo(repo)
        files = found.commits[self._commit_of(found, revision)]
        query = parse_qs(urlsplit(self.path).query)
        if query["recursive"][0].lower() != "true":
            raise _Refusal(400, "Folders are not listed here: ask for all files")
        folders = {str(f) for n in files for f in PurePosixPath(n).parents} - {"."}
        listed = [
            {"type": "directory", "path": f, "oid": git_sha1(b"")} for f in folders
        ]
        for name, content in files.items():
            small = {"path": name, "size": len(content), "oid": git_sha1(content)}
            listed.append({"type": "file", **small})
        start = int(query.get("cursor", ["0"])[0])
        after, path = start + self.hub.page, urlsplit(self.path).path
        link = f'<{self.hub.url}{path}?recursive=true&cursor={after}>; rel="next"'
        headers = {"Link": link} if after < len(listed) else {}
        listed.sort(key=lambda entry: entry["path"])
        self._send_json(listed[start:after], headers)

    def refs(self, repo: str) -> None:
        found = self._repo(repo)

        def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
            return [
                {"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c}
                for n, c in refs.items()
            ]

        self._send_json(
            {
                "branches": listed("heads", {"main": found.head}),
                "converts": [],
                "tags": listed("tags", found.tags),
            }
        )

    def tag(self, repo: str, revision: str) -> None:
        found, name = self._repo(repo, write=True), self._json()["tag"]
        commit = self._commit_of(found, revision)
        if name in found.tags:  # [create_tag: 409 where it exists]
            raise _Refusal(409, f"Tag {name} already exists")
        found.tags[name] = commit
        self._send_json({"name": name})

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.resolve(revision)
        if commit is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # --- commits ---------------------------------------------------------------------

    def validate_yaml(self) -> None:
        """A card's metadata must be a mapping with a licence the Hub knows [_validate_yaml]."""
        match = re.match(r"---\n(.*?)\n---\n", self._json()["content"], re.DOTALL)
        if match is None:
            self._send_json(
                {"errors": [], "warnings": [{"message": "empty or missing yaml"}]}
            )
            return
        try:
            metadata = yaml.safe_load(match[1])
            known = {"mit", "apache-2.0", "gemma", "other", "unknown"}
            problem = not isinstance(metadata, dict) or (
                metadata.get("license", "mit") not in known
                and f'"license" must be one of {sorted(known)}'
            )
        except yaml.YAMLError as error:
            problem = str(error)
        if problem:
            raise _Refusal(
                400, "Invalid metadata", errors=[{"message": str(problem)}], warnings=[]
            )
        self._send_json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        """How each file is to be sent, and what is there under its name [_fetch_upload_modes]."""
        found = self._repo(repo, write=True)
        commit = self._commit_of(found, revision)
        answers = []
        for file in self._json()["files"]:
            path, there = file["path"], found.commits[commit].get(file["path"])
            is_large = _is_large(found, path, file["size"])
            answer = {"path": path, "uploadMode": "lfs" if is_large else "regular"}
            answer["shouldIgnore"] = False  # type: ignore[assignment]
            if there is not None:
                answer["oid"] = sha256(there) if is_large else git_sha1(there)
            answers.append(answer)
        self._send_json({"files": answers})

    def commit(self, repo: str, revision: str) -> None:
        """All of it or nothing [_prepare_commit_payload; docs: commit endpoint]."""
        found = self._repo(repo, write=True)
        if revision != "main":
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        if not lines or lines[0]["key"] != "header" or not lines[0]["value"]["summary"]:
            raise _Refusal(400, "The first line must be a header with a summary")
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, found.head):  # [create_commit: parent_commit]
            raise _Refusal(412, "A commit has happened since. Please refresh and retry")
        files, large = dict(found.files), set(found.large[found.head])
        for line in lines[1:]:
            self._apply(line["key"], line["value"], repo, files, large)
        oid = found.commit(files, large)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self._send_json({"success": True, "commitOid": oid, "commitUrl": url})

    def _apply(
        self,
        key: str,
        value: dict[str, Any],
        repo: str,
        files: dict[str, bytes],
        large: set[str],
    ) -> None:
        path = value["path"]
        if path.startswith("/") or ".." in path.split("/"):
            raise _Refusal(400, f"Invalid path {path!r}")
        if key == "deletedFile":
            if files.pop(path, None) is None:
                raise _Refusal(400, f"No file {path} to delete")
        elif key == "file":
            files[path] = base64.b64decode(value["content"], validate=True)
            if _is_large(self.hub.repos[repo], path, len(files[path])):
                raise _Refusal(400, f"{path} must be uploaded as a large file")
            large.discard(path)
        elif key == "lfsFile":
            content = self.hub.objects.get((repo, value["oid"]))
            if content is None:
                raise _Refusal(
                    400, f"LFS pointer to a file that does not exist: {path}"
                )
            if len(content) != value.get("size", len(content)):
                raise _Refusal(400, f"Wrong size of {path}")
            files[path] = content
            large.add(path)
        else:
            raise _Refusal(400, f"Unknown operation {key}")

    # --- large files -----------------------------------------------------------------

    def lfs_batch(self, repo: str) -> None:
        """Where each object goes; no actions for what is there [LFS]."""
        self._repo(repo, write=True)
        asked = self._json()
        if asked["operation"] != "upload" or asked.get("hash_algo") != "sha256":
            raise _Refusal(422, "Only uploads named by sha256")
        objects = []
        for wanted in asked["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if not re.fullmatch("[0-9a-f]{64}", oid) or size < 0:
                answer["error"] = {"code": 422, "message": "Invalid oid or size"}
            elif (repo, oid) not in self.hub.objects:
                storage = f"{self.hub.storage_url}/storage/{repo}/{oid}?size={size}"
                verify = f"{self.hub.url}/{repo}.git/info/lfs/verify"
                answer["actions"] = {
                    "upload": {"href": storage},
                    "verify": {"href": verify},
                }
            objects.append(answer)
        self._send_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, repo: str, oid: str) -> None:
        """The address is signed for one object: other bytes are refused, as S3 does."""
        size = int(parse_qs(urlsplit(self.path).query)["size"][0])
        if len(self.body) != size or sha256(self.body) != oid:
            raise _Refusal(400, "BadDigest: these are not the bytes announced")
        self.hub.objects[repo, oid] = self.body
        self._send(200, b"")

    def lfs_verify(self, repo: str) -> None:
        self._repo(repo, write=True)
        asked = self._json()
        content = self.hub.objects.get((repo, asked["oid"]))
        if content is None or len(content) != asked["size"]:
            raise _Refusal(404, "The object was not uploaded")
        self._send(200, b"")

    # --- downloads -------------------------------------------------------------------

    def resolve(self, repo: str, revision: str, path: str) -> None:
        """A small file itself, or the way to a large one [get_hf_file_metadata]."""
        found = self._repo(repo)
        commit = self._commit_of(found, revision)
        content = found.commits[commit].get(path)
        if content is None:
            raise _Refusal(404, f"Entry not found: {path}", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(content)}"'}
        if path not in found.large[commit]:
            return self._send(200, content, headers)
        oid = sha256(content)
        # kept by what was released, so that a test can serve other bytes under its address
        self.hub.objects.setdefault((repo, oid), content)
        headers |= {
            "X-Linked-ETag": f'"{oid}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.storage_url}/storage/{repo}/{oid}",
        }
        return self._send(302, b"", headers)

    def lfs_get(self, repo: str, oid: str) -> None:
        content = self.hub.objects.get((repo, oid))
        if content is None:
            raise _Refusal(404, "No such object", "EntryNotFound")
        self._send(200, content, {"ETag": f'"{oid}"'})

    # --- answers ---------------------------------------------------------------------

    def _next_fault(self, request: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.request, request):
                fault.times -= 1
                return fault
        return None

    def _json(self) -> dict[str, Any]:
        return json.loads(self.body)

    def _send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(200, json.dumps(value).encode(), kind | (headers or {}))

    def _send(
        self, status: int, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        if self.fault and self.fault.kind == "lost":
            return self._hang_up()
        requested = self.headers.get("Range") if status == 200 else None
        start = int(requested.split("=")[1].split("-")[0]) if requested else 0
        self.send_response(206 if requested else status)
        if requested:  # [http_get goes on with what is missing]
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(rest)
        return None

    def _write(self, content: bytes) -> None:
        kind = self.fault.kind if self.fault else ""
        if kind == "trickle":
            for i in range(0, len(content), 512):
                self.wfile.write(content[i : i + 512])
                time.sleep(0.02)
        elif kind in ("truncate", "stall"):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            time.sleep(self.hub.stall_s if kind == "stall" else 0)
            self._hang_up()
        else:
            self.wfile.write(content)

    def _refuse(self, refusal: _Refusal) -> None:
        content = json.dumps(refusal.body).encode()
        self.send_response(refusal.status)
        if refusal.code:
            self.send_header("X-Error-Code", refusal.code)
        self.send_header("X-Error-Message", refusal.message)
        for name, value in (self.fault.headers if self.fault else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True


def _is_large(repo: Repo, path: str, size: int) -> bool:
    """By size, or by the patterns of .gitattributes [docs: git-lfs]."""
    lines = repo.files.get(".gitattributes", b"").decode().splitlines()
    patterns = [line.split()[0] for line in lines if "filter=lfs" in line]
    return size > LARGE or any(path.endswith(p.lstrip("*")) for p in patterns)
