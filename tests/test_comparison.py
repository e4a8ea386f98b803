"""comparison.json: what is read again is what was written, and nothing of another format."""

import json
from pathlib import Path

import pytest

from sae_lens_meta.comparison.result import Comparison
from tests.comparisons import compared, comparison


def test_it_is_read_as_it_was_written_and_another_format_is_refused(
    tmp_path: Path,
) -> None:
    made = comparison([compared("joint", "joint", 5e-3), compared("a", "solo", 6e-3)])
    path = made.save(tmp_path)
    assert Comparison.load(path) == made
    older = json.loads(path.read_text()) | {"format": 1}
    path.write_text(json.dumps(older))
    with pytest.raises(
        ValueError, match="of format 1, and this version.*compare` again"
    ):
        Comparison.load(path)
