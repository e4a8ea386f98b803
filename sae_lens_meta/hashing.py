"""The one hash that weights are known by."""

from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal; `hashlib.file_digest` is of Python 3.11 and later."""
    with path.open("rb") as file:
        return sha_fileobj(file).hex()
