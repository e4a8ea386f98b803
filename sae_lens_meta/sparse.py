"""Compressed sparse tensors, without the advice that torch gives once in a process to who makes one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_advice() -> Iterator[None]:
    """Silences it for what is made inside: the form is ours, and no user can change it."""
    with warnings.catch_warnings():
        for advice in ("Sparse CS[RC] tensor support", "Sparse invariant checks"):
            warnings.filterwarnings("ignore", advice)
        yield
