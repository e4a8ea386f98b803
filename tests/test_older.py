"""A comparison.json of an earlier format is read as what it says."""

import json
from pathlib import Path

import pytest

from sae_lens_meta.comparison.figures import HEADLINE, L2, PHI
from sae_lens_meta.comparison.result import FORMAT, Comparison
from sae_lens_meta.comparison.verdict import verdict
from sae_lens_meta.report.attached import scores_of

GOLDEN = Path(__file__).parent / "golden" / "comparison_4.json"


def test_a_comparison_of_format_4_says_what_it_said(tmp_path: Path) -> None:
    plain = json.loads(GOLDEN.read_text())
    found = Comparison.load(GOLDEN)
    assert (found.format, found.baseline, found.control) == (
        FORMAT,
        "solo",
        "solo_equal_l2",
    )
    assert [s.group for s in found.saes] == [s["role"] for s in plain["saes"]]
    assert verdict(found) == found.verdict == plain["verdict"]
    labels = {figure.indented: figure.id for figure in HEADLINE.values()}
    for difference in plain["differences"]:
        id_ = labels[difference["figure"]]
        now = found.difference(difference["variant"], difference["baseline"], id_)
        assert now is not None and now.percent == difference["percent"]
    assert (
        found.saes[0].intervals[L2.id].low
        == plain["saes"][0]["intervals"][L2.label]["low"]
    )
    scores = scores_of(found)
    assert scores is not None and scores.judge == "a judge"
    assert list(scores.means) == list(plain["autointerp"]["means"])
    assert found.split_counts is not None
    assert found.split_counts.n_split == plain["split_counts"]["joint"]
    # and it is written as a file of today is
    assert Comparison.load(found.save(tmp_path)) == found


def test_a_format_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(json.loads(GOLDEN.read_text()) | {"format": 3}))
    with pytest.raises(ValueError, match="format 3|baseline"):
        Comparison.load(path)
    assert PHI.id in HEADLINE
