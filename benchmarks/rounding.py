"""
What it costs to store an SAE's matrices in bfloat16.

    python -m benchmarks.rounding runs/metasae-smollm2-135m-instruct-l11

Takes the SAEs of a run of `reproduce` as they were trained, in float32, and once more with encoder and
decoder rounded; thresholds are taken of each, and both are measured on the text held out for
selection.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from sae_lens import SAE

from benchmarks.finished import finished_run
from sae_lens_meta.measures.calibration import calibrate
from sae_lens_meta.measures.reconstruction import Reconstruction, ReconstructionMeter
from sae_lens_meta.reproduce.run import Run
from sae_lens_meta.reproduce.stages import checkpoints_of, export, store_matrices

DTYPES = ("float32", "bfloat16")


def measured(run: Run, name: str, dtype: str) -> Reconstruction:
    """The SAE `name` of a run at the end of its training, its matrices stored in `dtype`."""
    checkpoints = checkpoints_of(run, name)
    with TemporaryDirectory() as folder:
        path = Path(folder)
        export(checkpoints[max(checkpoints)], path, run.device)
        store_matrices(path, dtype)
        sae = SAE.load_from_disk(path, run.device)
    calibrate(sae, run.selection())
    meter = ReconstructionMeter(sae)
    for batch in run.selection():
        meter.update(batch)
    return meter.result()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    run = finished_run(parser.parse_args().run)
    print("| SAE | matrices | normalised L2 | explained variance | L0 | tokens |")
    print("|---|---|---|---|---|---|")
    for name in run.recipe.saes():
        for dtype in DTYPES:
            found = measured(run, name, dtype)
            print(
                f"| {name} | {dtype} | {found.normalized_l2:.6f} "
                f"| {found.explained_variance:.6f} | {found.l0:.3f} | {found.n_tokens:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
