"""What is a secret: by the name that it has, or by the form that it has."""

import os
import re
from typing import Any

from huggingface_hub import get_token

REMOVED = "[removed]"
SHORTEST = 8  # characters: what is shorter stands in other words too
_KEYS = "access|account|anthropic|auth|azure|hf|openai|private|service|signing|ssh|storage|wandb"
_KINDS = (
    "secrets?|passwd|password|passphrase|credentials?|authorization|connection_string"
    rf"|api_?key|({_KEYS})_key"
)
_ISSUERS = (
    "access|api|auth|bearer|bot|github|gitlab|hf|hub|hugging_?face|npm|oauth|pypi|refresh"
    "|service|session|slack|wandb"
)
# in a config not just any token: it also names those of a vocabulary
_ENTRY = re.compile(rf"(^|_)({_KINDS}|({_ISSUERS})_token)(_|$)|^token$")
_VARIABLE = re.compile(rf"(^|_)({_KINDS}|token)(_|$)|_(pass|pwd|pat)$")
_OF_A_VOCABULARY = re.compile(r"<.*>|\[.*\]", re.DOTALL)  # <|endoftext|>, [MASK]
_LOOKS_RANDOM = re.compile(r"(?=.*\d)[\w.~+/=-]{16,}")

_FORMS = re.compile(
    "|".join(
        [
            # a word before it would be the beginning of another one
            rf"(?<![A-Za-z0-9])(?:{form})"
            for form in (
                r"(?:hf|api_org|npm|gsk|whsec|gh[opsur])_[A-Za-z0-9]{16,}",
                r"(?:github_pat|wandb_v1)_\w{16,}",
                r"sk-(?:(?:ant|proj|or|svcacct|admin)-[\w-]{16,}|[A-Za-z0-9]{16,})",
                r"[sr]k_(?:live|test)_[A-Za-z0-9]{10,}",
                r"gl(?:pat|oas|dt|rt|cbt|ptt|ft|imt|agent|soat)-[\w-]{16,}(?:\.[\w-]+)*",
                r"xox[a-z](?:\.xox[a-z])?-[\w-]{10,}|xapp-[\w-]{10,}",
                r"pypi-AgE[\w-]{16,}",
                r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])",
                r"AIza[\w-]{30,}|GOCSPX-[\w-]{16,}|ya29\.[\w-]{16,}",
                r"eyJ[\w-]{8,}(?:\.[\w-]*){2,4}",  # a JWT
            )
        ]
    )
    + r"|(?<=[?&]sig=)[^&\s'\"]+|(?<=-Signature=)[^&\s'\"]+"
    r"|(?<=hooks\.slack\.com/)\w+/[^\s'\"]+"
    r"|(?<=[Bb]earer )[\w.~+/=-]{16,}|(?i:(?<=authorization: basic ))[\w+/=-]{8,}"
    r"|-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY(?: BLOCK)?)-----"
    r"(?s:.*?)(?:-----END (?P=kind)-----|\Z)"
)
# name=value, as in a command, an address or an environment, and --name value
_ASSIGNED = re.compile(r"(?<![\w-])((?:--[\w-]+[ =]|[\w-]+=)['\"]?)(?!-)([^\s&'\",;]+)")
_USER_OF_URL = re.compile(r"(?<=://)(?:[^\s/@:]+:(?!\d+/)[^\s'\"]*|[^\s/@]+)@")


def is_secret(name: str, value: Any) -> bool:
    """Whether an entry of a config, or what is assigned in a text, is a secret."""
    words = _words(name)
    if not words.endswith("token"):
        return _ENTRY.search(words) is not None
    text = value if isinstance(value, str) else ""
    if _OF_A_VOCABULARY.fullmatch(text):
        return False
    return bool(_ENTRY.search(words) or _LOOKS_RANDOM.fullmatch(text))


def known_secrets() -> re.Pattern[str] | None:
    """
    Finds this machine's: values of variables that are named so, and the Hub's token.

    What is no longer than a word, and letters or digits only, is found where it stands alone.
    """
    named = [v for k, v in os.environ.items() if _VARIABLE.search(_words(k))]
    secrets = {
        s.strip()
        for s in (*named, get_token())
        if s and len(s.strip()) >= SHORTEST and not _OF_A_VOCABULARY.fullmatch(s)
    }
    # a secret may begin with another one
    forms = [_alone(s) for s in sorted(secrets, key=len, reverse=True)]
    return re.compile("|".join(forms)) if forms else None


def _alone(secret: str) -> str:
    is_word = len(secret) < 16 and (secret.isalpha() or secret.isdigit())
    form = re.escape(secret)
    return rf"(?<!\w){form}(?!\w)" if is_word else form


def _words(name: str) -> str:
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return split.replace("-", "_").strip("_").lower()


def without_secrets(text: str, known: re.Pattern[str] | None) -> str:
    """`text` without those that are `known`, have a usual form, or are assigned by name."""
    if known:
        text = known.sub(REMOVED, text)
    text = _USER_OF_URL.sub("", _FORMS.sub(REMOVED, text))
    return _ASSIGNED.sub(_without_value, text)


def public_url(url: str) -> str:
    """`url` without its user, its query and its fragment, each of which may hold a secret."""
    return re.split("[?#]", _USER_OF_URL.sub("", url), maxsplit=1)[0]


def _without_value(match: re.Match[str]) -> str:
    name = match[1].strip("-= '\"")
    return match[1] + REMOVED if is_secret(name, match[2]) else match[0]
