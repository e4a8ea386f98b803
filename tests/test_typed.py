"""Another package's type checker sees the types of this one."""

import subprocess
import sys
from pathlib import Path

import pytest

CLIENT = """
import sae_lens_meta
from sae_lens_meta import MetaTrainingSAEConfig

cfg = MetaTrainingSAEConfig(d_in=8, d_sae=32, k=2)
width: int = cfg.meta_width
reveal_type(sae_lens_meta.load_meta_sae("a"))
wrong: str = cfg.meta_width
"""


@pytest.mark.slow
def test_a_client_is_checked_against_our_types(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text(CLIENT)
    pyright = Path(sys.executable).with_name("pyright")
    done = subprocess.run(
        [pyright, "--pythonpath", sys.executable, "client.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert 'Type of "sae_lens_meta.load_meta_sae("a")" is "SAE[Any]"' in done.stdout
    assert "1 error" in done.stdout and ":8:" in done.stdout
