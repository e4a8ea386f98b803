"""The tests' own Hub: it asks of the real client what the Hub asks, and refuses what it refuses."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.hub_server import STRANGER, WRITER, HubServer, git_sha1, sha256

REPO = "tests/a"
LARGE, SMALL = b"large" * 100, b"small"


def ask(
    hub: HubServer, method: str, path: str, body: Any = None, token: str | None = WRITER
) -> tuple[int, dict[str, str], bytes]:
    """One request without the client: status, headers and content of the answer."""
    lines = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = path if path.startswith("http") else hub.url + path
    request = urllib.request.Request(url, lines if body is not None else None)
    request.method = method
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def commit(hub: HubServer, *lines: dict[str, Any], **header: Any) -> int:
    """Status of a commit of these lines."""
    head = {"key": "header", "value": {"summary": "x"} | header}
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (head, *lines))
    return ask(hub, "POST", f"/api/models/{REPO}/commit/main", body)[0]


def small(path: str = "a.txt", content: bytes = SMALL) -> dict[str, Any]:
    encoded = base64.b64encode(content).decode()
    return {
        "key": "file",
        "value": {"path": path, "content": encoded, "encoding": "base64"},
    }


def large(oid: str, size: int = len(LARGE)) -> dict[str, Any]:
    value = {"path": "w.safetensors", "algo": "sha256", "oid": oid, "size": size}
    return {"key": "lfsFile", "value": value}


RECORDED = [  # of huggingface_hub 2.4.0
    ("POST", "/api/repos/create"),
    ("POST", "/api/validate-yaml"),
    ("POST", f"/api/models/{REPO}/preupload/main"),
    ("POST", f"/{REPO}.git/info/lfs/objects/batch"),
    ("PUT", f"/storage/{REPO}/{sha256(LARGE)}"),
    ("POST", f"/{REPO}.git/info/lfs/verify"),
    ("POST", f"/api/models/{REPO}/commit/main"),
    ("POST", f"/api/models/{REPO}/tag/main"),
    ("HEAD", f"/{REPO}/resolve/v1/w.safetensors"),
    ("GET", f"/storage/{REPO}/{sha256(LARGE)}"),
    ("HEAD", f"/{REPO}/resolve/v1/README.md"),
    ("GET", f"/{REPO}/resolve/v1/README.md"),
]


def test_the_real_client_publishes_and_downloads_with_the_requests_recorded(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    api, card = HfApi(), b"---\nlicense: mit\n---\n"
    api.create_repo(REPO)
    operations = [
        CommitOperationAdd("w.safetensors", LARGE),
        CommitOperationAdd("README.md", card),
    ]
    info = api.create_commit(REPO, operations, commit_message="x")
    api.create_tag(REPO, tag="v1")
    for name, content in (("w.safetensors", LARGE), ("README.md", card)):
        assert Path(hf_hub_download(REPO, name, revision="v1")).read_bytes() == content
    # which agents it may be run by, the client asks once in a process
    # and before version 1 whether a revision is there
    unrecorded = ("/api/agent-harnesses", f"/api/models/{REPO}/revision/main")
    asked = [r for r in hub.requests if r[1] not in unrecorded]
    assert asked == RECORDED
    assert info.oid == hub.repos[REPO].head == hub.repos[REPO].tags["v1"]
    assert hub.repos[REPO].files["w.safetensors"] == LARGE
    hub.requests.clear()
    again = [CommitOperationAdd("w.safetensors", LARGE)]
    assert api.create_commit(REPO, again, commit_message="x").oid == info.oid
    paths = {path for _, path in hub.requests}
    assert f"/api/models/{REPO}/commit/main" not in paths, "nothing had changed"


def test_who_may_not_is_refused_as_the_client_expects(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.new_repo(REPO)
    hub.new_repo("tests/hidden", private=True)
    create = ("POST", "/api/repos/create", {"name": "b", "organization": "tests"})
    assert ask(hub, *create, token=None)[0] == 401
    assert ask(hub, *create, token="hf_unknown")[0] == 401
    assert ask(hub, *create, token=STRANGER)[0] == 403
    assert ask(hub, *create)[0] == 200
    status, _, body = ask(hub, *create)
    assert status == 409 and json.loads(body)["url"].endswith("/tests/b")
    assert ask(hub, "POST", "/api/repos/create", {"name": "b/../c"})[0] == 400
    for token, expected in ((None, 401), (STRANGER, 404), (WRITER, 200)):
        found = ask(hub, "GET", "/api/models/tests/hidden", token=token)
        assert found[0] == expected
    assert (
        ask(hub, "POST", f"/api/models/{REPO}/tag/main", {"tag": "x"}, STRANGER)[0]
        == 403
    )
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("tests/hidden")
    with pytest.raises(
        HfHubHTTPError, match="403 Forbidden: You don't have the rights"
    ):
        HfApi().create_repo("tests/c")


def test_a_commit_is_whole_current_and_of_objects_that_are_there(
    hub: HubServer,
) -> None:
    repo = hub.new_repo(REPO)
    first = repo.head
    assert commit(hub, small(), large("0" * 64)) == 400, "never uploaded"
    assert repo.head == first and "a.txt" not in repo.files, "all or nothing"
    hub.objects[REPO, sha256(LARGE)] = LARGE
    assert commit(hub, large(sha256(LARGE), size=3)) == 400
    assert commit(hub, small("b.safetensors")) == 400, "must go as a large file"
    assert commit(hub, small("../x")) == 400
    assert commit(hub, small(), summary="") == 400
    assert commit(hub, {"key": "deletedFile", "value": {"path": "none"}}) == 400
    assert commit(hub, small(), parentCommit="0" * 40) == 412
    assert repo.head == first
    assert commit(hub, small(), large(sha256(LARGE)), parentCommit=first) == 200
    assert commit(hub, small(content=b"late"), parentCommit=first) == 412
    assert (repo.files["a.txt"], repo.files["w.safetensors"]) == (SMALL, LARGE)
    assert ask(hub, "POST", f"/api/models/{REPO}/commit/v9", small())[0] == 404


def test_storage_takes_only_the_bytes_that_were_announced(hub: HubServer) -> None:
    hub.new_repo(REPO)
    batch = {
        "operation": "upload",
        "hash_algo": "sha256",
        "objects": [
            {"oid": sha256(LARGE), "size": len(LARGE)},
            {"oid": "x", "size": 1},
        ],
    }
    answer = ask(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", batch)
    good, bad = json.loads(answer[2])["objects"]
    assert bad["error"]["code"] == 422
    where = good["actions"]["upload"]["href"]
    assert where.startswith(hub.storage_url) and hub.storage_url != hub.url
    assert ask(hub, "PUT", where, LARGE)[0] == 400, "a signed address takes no token"
    for wrong in (LARGE[:-1], LARGE[:-1] + b"x", b""):
        assert ask(hub, "PUT", where, wrong, token=None)[0] == 400
    verify = (
        f"/{REPO}.git/info/lfs/verify",
        {"oid": sha256(LARGE), "size": len(LARGE)},
    )
    assert ask(hub, "POST", *verify)[0] == 404
    assert ask(hub, "PUT", where, LARGE, token=None)[0] == 200
    assert ask(hub, "POST", *verify)[0] == 200
    answer = ask(hub, "POST", f"/{REPO}.git/info/lfs/objects/batch", batch)
    assert "actions" not in json.loads(answer[2])["objects"][0], "it is there"


def test_a_file_is_resolved_by_branch_tag_or_commit_and_goes_on_where_it_broke_off(
    hub: HubServer,
) -> None:
    repo = hub.new_repo(REPO)
    commit(hub, small())
    repo.tags["v1"] = repo.head
    for revision in ("main", "v1", repo.head):
        status, headers, content = ask(hub, "GET", f"/{REPO}/resolve/{revision}/a.txt")
        assert (status, content) == (200, SMALL)
        assert headers["X-Repo-Commit"] == repo.head
        assert headers["ETag"] == f'"{git_sha1(SMALL)}"'
    request = urllib.request.Request(f"{hub.url}/{REPO}/resolve/main/a.txt")
    request.add_header("Range", "bytes=2-")
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, SMALL[2:])
        assert answer.headers["Content-Range"] == "bytes 2-4/5"
    for path, code in (("main/b", "EntryNotFound"), ("v9/a.txt", "RevisionNotFound")):
        status, headers, _ = ask(hub, "GET", f"/{REPO}/resolve/{path}")
        assert (status, headers["X-Error-Code"]) == (404, code)


def test_a_card_with_metadata_the_hub_does_not_know_is_refused(hub: HubServer) -> None:
    for text, status in (
        ("---\nlicense: mit\n---\n", 200),
        ("no metadata", 200),
        ("---\nlicense: my own\n---\n", 400),
        ("---\n- a list\n---\n", 400),
        ("---\na: [\n---\n", 400),
    ):
        body = {"content": text, "repoType": "model"}
        assert ask(hub, "POST", "/api/validate-yaml", body)[0] == status, text
