"""`sae-lens-meta run`: another package's module, with the plugin registered."""

import subprocess
import sys
from pathlib import Path

import pytest

from sae_lens_meta.cli import main

PEER = """
import sys
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
assert __name__ == "__main__"
print(sys.argv[1:], "meta" in SAE_TRAINING_CLASS_REGISTRY,
      "metasae-smollm2-135m-instruct-l11" in get_pretrained_saes_directory())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("through_us", "expected"), [(True, "True True"), (False, "False False")]
)
def test_a_peer_s_module_finds_architectures_and_releases(
    tmp_path: Path, through_us: bool, expected: str
) -> None:
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "main.py").write_text(PEER)
    command = ["sae_lens_meta", "run"] if through_us else []
    done = subprocess.run(
        [sys.executable, "-m", *command, "peer.main", "--sae-regex", "a_b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"['--sae-regex', 'a_b'] {expected}"


def test_a_module_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="no module 'sae_bank.evals.core'"):
        main(["run", "sae_bank.evals.core"])
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--help"])
    assert "usage: sae-lens-meta run MODULE" in capsys.readouterr().out
