"""What must not leave a machine with a config: its paths and its secrets."""

import re
from pathlib import Path
from typing import Any

from sae_lens_meta.credentials import (
    is_secret,
    known_secrets,
    without_secrets,
)

# what a path starts with: none of these is inside an address, an id or a regular expression
_STARTS = (
    r"[A-Za-z][\w+.-]{1,15}:///+",  # file:///home, sqlite:////home
    r"(?:file|smb|cifs|nfs|afp)://",
    r"~[\w-]*(?:/+|\\+(?=\w\w))",
    r"\.{1,2}(?:/+|\\+(?=\w\w))",
    r"[A-Za-z]:[/\\]+",
    r"/",
    r"(?<!:)//(?=[\w.-]+[/\\])",  # //host/share
    r"\\\\(?=[\w.$-]{2,}\\[^\s\\])",  # \\host\share
    r"\\{4}(?=[\w.$-]{2,}\\\\[^\s\\])",  # the same, written as in a program
    r"\\\\[?.]\\",  # \\?\C:\
)
_START = rf"(?:{'|'.join(_STARTS)})(?=[\w~@$%-]|\.[\w.])"
_PATH = re.compile(rf"(?<![\w/.~\\-]){_START}[^\s'\",;]*[^\s'\",;.:)\]]")


def scrubbed(value: Any) -> Any:
    """
    A copy of a JSON value without paths of this machine and without secrets.

    Of a path only its last part stays, for instance the name of a dataset's file. Left out
    are entries whose name says that they are a secret; removed are tokens of the usual
    forms, what is assigned to such a name in a text, the token that `huggingface_hub` uses,
    the values of environment variables whose names say so, and the user in a URL.
    """
    return _scrubbed(value, known_secrets())


def _scrubbed(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, dict):
        return {
            _text(str(key), known): _scrubbed(inner, known)
            for key, inner in value.items()
            if not is_secret(str(key), inner)
        }
    if isinstance(value, list | tuple):
        return [_scrubbed(inner, known) for inner in value]
    return _text(value, known) if isinstance(value, str) else value


def _text(text: str, known: re.Pattern[str] | None) -> str:
    text = without_secrets(text, known)
    if re.match(_START, text) and "\n" not in text and " --" not in text:
        return _last_part(text)  # all of it is a path, whatever spaces it has
    text = _PATH.sub(lambda match: _last_part(match.group()), text)
    home = Path.home()
    # what is left stands behind something, as in -I/home/me
    if home != Path(home.anchor):
        text = re.sub(rf"{re.escape(str(home))}(?=[/\\]|$)", "~", text)
    return text


def _last_part(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1]
