"""What must not leave a machine with a config: its paths and its secrets."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import get_token

REMOVED = "[removed]"
_KINDS = r"secret|passwd|password|credentials?|api_?key|(access|private|wandb|hf)_key"
# not just any token: configs also name those of a vocabulary
_SECRET_NAME = re.compile(
    rf"(^|_)({_KINDS}|(hf|hub|api|auth|access|bearer|wandb|github)_token)(_|$)|^token$"
)
_SECRET = re.compile(
    r"\b(?:hf|sk|gh[opsur]|glpat|github_pat|xox[abp])[_-][\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|(?<=[?&]token=)[^&\s]+"
)
_USER_OF_URL = re.compile(r"(?<=://)(?:[^\s/@:]+:\S*|[^\s/@]+)@")
# a path that starts at the root, at a home, or here: none of these is inside a URL or an id
_START = r"(?:file://)?(?:~[\w-]*|\.{1,2}|[A-Za-z]:)?[/\\](?!/)"
_PATH = re.compile(
    rf"(?<![\w/.~\\-]){_START}[^\s/\\'\"](?:[^\s'\",;]*[^\s'\",;.:)\]])?"
)


def scrubbed(value: Any) -> Any:
    """
    A copy of a JSON value without paths of this machine and without secrets.

    Of a path only its last part stays, for instance the name of a dataset's file. Left out
    are entries whose name says that they are a secret; removed are tokens of the usual
    forms, the token that `huggingface_hub` uses, the values of environment variables whose
    names say so, and the user in a URL.
    """
    named = [v for k, v in os.environ.items() if _is_secret(k)]
    secrets = {s for s in (*named, get_token()) if s and len(s) >= 8}
    # a secret may begin with another one
    return _scrubbed(value, sorted(secrets, key=len, reverse=True))


def public_url(url: str) -> str:
    """`url` without its user, its query and its fragment, each of which may hold a secret."""
    return re.split("[?#]", _USER_OF_URL.sub("", url), maxsplit=1)[0]


def _is_secret(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower()
    return _SECRET_NAME.search(words) is not None


def _scrubbed(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            _text(str(key), secrets): _scrubbed(inner, secrets)
            for key, inner in value.items()
            if not _is_secret(str(key))
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(inner, secrets) for inner in value]
    return _text(value, secrets) if isinstance(value, str) else value


def _text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REMOVED)
    text = _USER_OF_URL.sub("", _SECRET.sub(REMOVED, text))
    if re.match(_START, text) and "\n" not in text and " --" not in text:
        return _last_part(text)  # all of it is a path, whatever spaces it has
    text = _PATH.sub(lambda match: _last_part(match.group()), text)
    home = Path.home()
    if home != Path(
        home.anchor
    ):  # what is left stands behind something, as in -I/home/me
        text = re.sub(rf"{re.escape(str(home))}(?=[/\\]|$)", "~", text)
    return text


def _last_part(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name
