"""The conversation with the Hub: one commit, verified, then tagged."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from sae_lens.constants import SAE_CFG_FILENAME
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
)

from sae_lens_meta.hashing import file_sha256
from sae_lens_meta.publishing.package import CARD, Package
from sae_lens_meta.publishing.repository import Repository, obstacle, stale
from sae_lens_meta.zoo.releases import Release

ATTEMPTS = 4
ANSWER_S = 30  # seconds to wait for the Hub's first answer
TRANSIENT = (429, 500, 502, 503, 504)
T = TypeVar("T")


class PublishError(OSError):
    """The Hub refused, or could not be reached; the message says what to do."""


def upload(
    package: Package, release: Release, private: bool, say: Callable[[str], None]
) -> str:
    """
    Brings a package to its repository on the Hub: all or nothing, and no more than once.

    The commit is made on the head seen at the start, which must hold nothing but this release
    and documents, and is refused where somebody else has committed meanwhile. The tag, `v1`
    or the next number, is set after all files have been downloaded again and compared; a
    tagged revision is a complete one. Run again after an interruption, it does what is missing.

    Args:
        package: with its card.
        release: with the repository, which is created if there is none.
        private: whether it is created private.
        say: shows a line to the user.

    Returns:
        The commit.

    Raises:
        PublishError: if the Hub refuses, cannot be reached, or has other bytes than were sent,
            or the repository holds what is not of this release.
    """
    api, repo = HfApi(), release.repo_id
    with _explained(repo, "No commit was confirmed, and a commit is all or nothing."):
        _patiently(lambda: api.create_repo(repo, private=private, exist_ok=True))
        found = _looked_at(api, package, release, private)
        say(f"Uploading {len(package.names)} files to {repo}")
        commit = _patiently(lambda: _commit(api, package, repo, found))
    say(f"Committed as {commit}; downloading it again")
    with _explained(repo, f"{commit} is there, but not verified and not tagged."):
        _verify(package, repo, commit)
        say(f"Verified; tagged {_patiently(lambda: _tag(api, repo, commit))}")
    return commit


def look_ahead(
    package: Package, release: Release, private: bool, say: Callable[[str], None]
) -> None:
    """
    Says what `upload` would find in the repository, and changes nothing there.

    Raises:
        PublishError: if it would be refused for what the repository holds.
    """
    repo = release.repo_id
    try:
        found = _looked_at(HfApi(), package, release, private)
    except PublishError:
        raise
    except RepositoryNotFoundError:
        say(f"There is no {repo} that the token may see; publishing creates it.")
    except Exception as error:
        say(f"{_meaning(error, repo)} So what {repo} holds could not be looked at.")
    else:
        n_replaced = len(set(found.files) & set(package.names))
        say(f"{repo} may take the release, which replaces {n_replaced} files there.")


def _looked_at(
    api: HfApi, package: Package, release: Release, private: bool
) -> Repository:
    """
    What the repository holds.

    Raises:
        PublishError: if it is not one that this package may be written to.
    """
    repo = release.repo_id
    head = _patiently(lambda: api.model_info(repo, timeout=ANSWER_S))
    if private and not head.private:
        raise PublishError(
            f"{repo} exists and is public, so that --private would not hold. Make it "
            "private on the Hub first, or give another repository. Nothing was uploaded."
        )
    # `head.siblings` is one answer, this as many as it takes
    files = _patiently(lambda: api.list_repo_files(repo, revision=head.sha))

    texts = {
        name: _text(repo, name, head.sha) if name in files else ""
        for name in (CARD, f"{package.hook}/{SAE_CFG_FILENAME}")
    }
    found = Repository(head.sha, files, *texts.values())
    if reason := obstacle(found, package, release):
        raise PublishError(f"{repo} {reason} Nothing was uploaded.")
    return found


def _commit(api: HfApi, package: Package, repo: str, found: Repository) -> str:
    """
    The commit that has the package's files: a new one, or the head if it has them.

    `upload_folder` may commit a large folder in several batches, which is not all or nothing.
    """
    # the client asks once per operation what is there: new ones find a commit whose
    # answer was lost
    operations = [
        *(CommitOperationAdd(name, package.folder / name) for name in package.names),
        *(CommitOperationDelete(name) for name in stale(found, package)),
    ]
    return api.create_commit(
        repo,
        operations,
        commit_message=f"Publish the SAE of {package.hook}",
        parent_commit=found.commit,
    ).oid


def _verify(package: Package, repo: str, commit: str) -> None:
    """
    Downloads every file and compares it with the one that was sent.

    `HfApi.verify_repo_checksums` asks the Hub for the checksums that it has on record, which says
    nothing of what a reader is served; and 0.34, the lowest version allowed, does not have it.

    Raises:
        PublishError: if one differs.
    """
    with TemporaryDirectory() as cache:
        for name, sha256 in package.sha256().items():
            if file_sha256(_downloaded(repo, name, commit, cache)) != sha256:
                raise PublishError(
                    f"{name} in {repo} at {commit} is not the file that was sent: its "
                    "sha256 differs. The revision was not tagged. Run the command again."
                )


def _text(repo: str, name: str, commit: str | None) -> str:
    with TemporaryDirectory() as cache:
        path = _downloaded(repo, name, commit, cache)
        return path.read_text(encoding="utf-8", errors="replace")


def _downloaded(repo: str, name: str, commit: str | None, cache: str) -> Path:
    return Path(
        _patiently(
            lambda: hf_hub_download(repo, name, revision=commit, cache_dir=cache)
        )
    )


def _tag(api: HfApi, repo: str, commit: str) -> str:
    """The tag of `commit`: the one it has, or the next number."""
    for _ in range(ATTEMPTS):
        tags = api.list_repo_refs(repo).tags
        for tag in tags:
            if tag.target_commit == commit:
                return tag.name
        numbers = [int(t.name[1:]) for t in tags if re.fullmatch(r"v\d+", t.name)]
        name = f"v{max(numbers, default=0) + 1}"
        # one that somebody else has just set shows in the next round
        api.create_tag(repo, tag=name, revision=commit, exist_ok=True)
    raise RuntimeError(f"{repo} shows no tag of {commit}, though {ATTEMPTS} were set.")


def _patiently(call: Callable[[], T]) -> T:
    """`call`, again after answers that pass: the client does so for some requests only."""
    retrying = Retrying(
        retry=retry_if_exception(_is_transient),
        wait=_wait,
        stop=stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    return retrying(call)


def _is_transient(error: BaseException) -> bool:
    response = _response(error)
    if response is None:  # no answer, unless the client did not even ask
        return isinstance(error, Exception) and not isinstance(
            error, ValueError | OfflineModeIsEnabled
        )
    return response.status_code in TRANSIENT


def _wait(state: RetryCallState) -> float:
    """Seconds: as many as the Hub asks for, or more every time."""
    error = state.outcome.exception() if state.outcome else None
    response = _response(error)
    asked = "" if response is None else response.headers.get("Retry-After", "")
    return float(asked) if asked.isdigit() else wait_exponential(max=8)(state)


def _response(error: BaseException | None) -> Any:
    """The Hub's answer that an error of the client comes from; None where there was none."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response
        error = error.__cause__
    return None


@contextmanager
def _explained(repo: str, state: str) -> Iterator[None]:
    """Says of whatever the client raises what it means for the release."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:
        raise PublishError(
            f"{_meaning(error, repo)} {state} Run the command again: it does what is missing."
        ) from error


def _meaning(error: Exception, repo: str) -> str:
    """A sentence on what the client raises, by one of several HTTP libraries."""
    response = _response(error)
    status = None if response is None else response.status_code
    if meaning := _MEANING.get(status):
        return meaning.format(repo=repo, org=repo.split("/")[0])
    answer = f"answered {status}" if status else "gave no answer"
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"The Hub {answer}: {first_line}"


_MEANING: dict[int | None, str] = {
    401: "The Hub did not accept the token, or there is none. Run `hf auth login` with a "
    "token that may write to {org}, or set HF_TOKEN.",
    403: "The token may not write to {repo}. Use one that may write to {org}.",
    404: "The Hub knows no {repo} that the token may see.",
    412: "Somebody else has committed to {repo} meanwhile. Look at it first.",
    429: f"The Hub asked {ATTEMPTS} times to slow down.",
}
