"""YAML in which 1e-3 is a number, as people mean it; in YAML 1.1, and to PyYAML, it is a text."""

import re
from typing import Any

import yaml

FLOAT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))


def load(text: str) -> Any:
    """
    What the YAML `text` says.

    Raises:
        yaml.YAMLError: if it is none.
    """
    return yaml.load(text, _Loader)  # noqa: S506
