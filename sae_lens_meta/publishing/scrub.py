"""What must not leave a machine with a config: its paths and its secrets."""

import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import get_token

REMOVED = "[removed]"
_SECRET_VARIABLE = re.compile(r"(token|secret|password|passwd|key)$", re.I)
# not just any token: configs also name those of a vocabulary
_SECRET_ENTRY = re.compile(
    r"(^|_)((hf|hub|api|auth|access|bearer)_token|secret|password|passwd|api_?key)$|^token$",
    re.I,
)
_SECRET = re.compile(r"\b(?:hf|sk|ghp|gho|glpat|github_pat)[_-][\w-]{16,}")
_USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")
# a path that starts at the root, at home, or here: none of these is inside a URL or an id
_START = r"(?:file://)?(?:~|\.{1,2}|[A-Za-z]:)?[/\\]"
_PATH = re.compile(
    rf"(?<![\w:/.~\\-]){_START}[^\s/\\'\"](?:[^\s'\",;]*[^\s'\",;.:)\]])?"
)


def scrubbed(value: Any) -> Any:
    """
    A copy of a JSON value without paths of this machine and without secrets.

    Of a path only its last part stays, for instance the name of a dataset's file. Left out
    are entries whose name says that they are a secret; removed are tokens of the usual
    forms, the token that `huggingface_hub` uses, the values of environment variables whose
    names say so, and the user in a URL.
    """
    secrets = [v for k, v in os.environ.items() if _SECRET_VARIABLE.search(k)]
    secrets = [s for s in (*secrets, get_token()) if s and len(s) >= 8]
    return _scrubbed(value, secrets)


def _scrubbed(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            _text(str(key), secrets): _scrubbed(inner, secrets)
            for key, inner in value.items()
            if not _SECRET_ENTRY.search(str(key))
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(inner, secrets) for inner in value]
    return _text(value, secrets) if isinstance(value, str) else value


def _text(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REMOVED)
    text = _USER_OF_URL.sub("", _SECRET.sub(REMOVED, text))
    if re.match(_START, text) and "\n" not in text:
        return _last_part(text)  # all of it is a path, whatever spaces it has
    text = text.replace(str(Path.home()), "~")
    return _PATH.sub(lambda match: _last_part(match.group()), text)


def _last_part(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name
