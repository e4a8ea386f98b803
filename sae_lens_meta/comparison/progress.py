"""The folder that keeps what is done of a comparison, and whose progress it is."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

STAMP = "fingerprint"


def fingerprint(settings: Any, folders: list[Path], text_sha256: str) -> str:
    """
    Of everything that counts depend on.

    Args:
        settings: of the comparison and its source, as JSON.
        folders: of SAEs, whose configs and weights count.
        text_sha256: of what the text holds (`text_identity`), wherever it lies.
    """
    digest = hashlib.sha256(json.dumps(settings).encode())
    for folder in folders:
        for name in ("*.safetensors", "cfg.json"):
            for file in sorted(folder.glob(name)):
                digest.update(file.read_bytes())
    digest.update(text_sha256.encode())
    return digest.hexdigest()


def claim(progress: Path, mine: str) -> None:
    """
    Makes `progress` the folder of the comparison `mine`, or finds that it is.

    Where nothing is done yet of another comparison, for instance since its text was too short,
    nothing is lost.

    Raises:
        ValueError: if it keeps the progress of another.
    """
    stamp = progress / STAMP
    there = {path.name for path in progress.iterdir()} if progress.exists() else set()
    was_mine = stamp.exists() and stamp.read_text() == mine
    if not was_mine and there - {STAMP}:
        raise ValueError(
            f"{progress} keeps the progress of a comparison of other SAEs, text or settings. "
            "Delete it or give another --output."
        )
    if not was_mine:
        progress.mkdir(parents=True, exist_ok=True)
        part = progress.with_name("progress.part")
        part.write_text(mine)
        part.replace(stamp)


def discard(progress: Path) -> None:
    """Deletes `progress`; killed in between, it leaves nothing that could be taken for it."""
    doomed = progress.with_name("progress.done")
    if doomed.exists():
        shutil.rmtree(doomed)
    progress.rename(doomed)
    shutil.rmtree(doomed)
