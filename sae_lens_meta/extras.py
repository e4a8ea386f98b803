"""Packages that not everybody needs, and what to install where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError):
    """A package of an optional extra is not installed; the message says which to install."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """
    Imports inside are of packages that the extra `name` of pyproject.toml brings.

    Raises:
        MissingExtra: if one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise MissingExtra(
            f"{package} is not installed. pip install 'sae-lens-meta[{name}]' brings it."
        ) from error
