"""
Whether joint SAEs split a solo SAE's latents more than another solo SAE does.

    python -m benchmarks.splitting runs/metasae-smollm2-135m-instruct-l11

Takes the first solo SAE of a run of `reproduce` and looks for its splitting candidates, as a comparison
does, in every joint SAE and, which is the null, in every other solo SAE, on the text held out for
selection. A split latent's parts resemble it and fire apart from each other.
"""

import argparse
from pathlib import Path

import numpy as np
from sae_lens import SAE

from benchmarks.finished import finished_run
from sae_lens_meta.evaluation.cooccurrence import CooccurrenceCounter
from sae_lens_meta.evaluation.splitting import (
    SplitCandidate,
    splitting_candidates,
    with_parts_phi,
)
from sae_lens_meta.reproduce.run import Run

N_CANDIDATES = 200
APART = 0.2  # phi between two parts, below which they hardly fire together


def candidates(run: Run, first: str, second: str) -> list[SplitCandidate]:
    """Latents of the SAE `first` that seem to be split in `second`."""
    one, other = (SAE.load_from_disk(run.folder / "saes" / n) for n in (first, second))
    between = CooccurrenceCounter(one.cfg.d_sae, other.cfg.d_sae)
    within = CooccurrenceCounter(other.cfg.d_sae)
    for batch in run.selection():
        firing = other.encode(batch) > 0
        between.update(one.encode(batch) > 0, firing)
        within.update(firing)
    return with_parts_phi(splitting_candidates(between, N_CANDIDATES), within)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    run = finished_run(parser.parse_args().run)
    solo, *others = (name for name in run.recipe.saes() if name.startswith("solo"))
    joints = [name for name in run.recipe.saes() if name.startswith("joint")]
    print(
        f"| {solo} in | second phi, median | phi of the parts, median | lowest "
        f"| below {APART} | second phi less phi of the parts, highest |"
    )
    print("|---|---|---|---|---|---|")
    for name in joints + others:
        found = candidates(run, solo, name)
        second = np.array([candidate.parts[1].phi for candidate in found])
        parts = np.array([candidate.parts_phi for candidate in found])
        print(
            f"| {name} | {np.median(second):.3f} | {np.median(parts):.3f} | {parts.min():.3f} "
            f"| {(parts < APART).sum()} of {len(found)} | {(second - parts).max():+.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
