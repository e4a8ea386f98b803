"""Which labels are kinds of which others: by their names, or by a file that says so."""

import json
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Parents = dict[str, set[str]]
"""The labels that hold wherever a label does."""


def load_hierarchy(path: Path | None) -> Parents:
    """
    Parents from a JSON object: {"child": "parent"} or {"child": ["parent", "another"]}.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is something else, or has a cycle.
    """
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(
            f'{path} must be an object of children and their parents: {{"noun": "word"}}.'
        )
    parents: Parents = {}
    for child, given in found.items():
        named = [given] if isinstance(given, str) else given
        if not isinstance(named, list) or not all(isinstance(p, str) for p in named):
            raise ValueError(
                f"{path}: the parents of {child!r} must be a name or a list of names, got {given!r}."
            )
        parents[child] = set(named)
    _in_order(parents)
    return parents


def ancestors(names: Iterable[str], parents: Parents) -> Parents:
    """
    All labels that hold wherever each of `names` does, itself left out.

    Args:
        names: of labels; `noun/proper noun` is a kind of `noun`.
        parents: of some, besides what their names say.

    Raises:
        ValueError: if a name has an empty part, or a label would be its own ancestor.
    """
    direct: Parents = {name: set(given) for name, given in parents.items()}
    named = [*names, *parents, *(p for given in parents.values() for p in given)]
    for name in named:
        parts = name.split("/")
        if not all(part.strip() for part in parts):
            raise ValueError(
                f"The label {name!r} has an empty part: a label of a kind is written parent/child."
            )
        for i in range(len(parts), 0, -1):
            above = {"/".join(parts[: i - 1])} if i > 1 else set()
            direct.setdefault("/".join(parts[:i]), set()).update(above)
    found: Parents = {}
    for name in _in_order(direct):
        above = direct.get(name, set())
        found[name] = above.union(*(found[parent] for parent in above))
    return found


def _in_order(parents: Parents) -> list[str]:
    """Parents before their children."""
    try:
        return list(TopologicalSorter(parents).static_order())
    except CycleError as error:
        raise ValueError(
            f"The hierarchy of labels has a cycle, {' > '.join(error.args[1])}: each would be a "
            "kind of the next. Remove one of these lines."
        ) from error
