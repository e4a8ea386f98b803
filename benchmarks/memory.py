"""
Peak resident memory of training steps, one process for each kind of SAE.

    python -m benchmarks.memory gpt2-large gemma-4096

Three steps with Adam, a meta phase before the third, and every hundredth latent dead so that
the auxiliary loss is at work. The peak is that of the whole process, Python and torch included.
"""

import argparse
import resource
import subprocess
import sys

from tqdm.auto import tqdm

from benchmarks.shapes import KINDS, SHAPES, sae_of, trainer_of
from benchmarks.step import step_seconds

DEAD_EVERY = 100


def peak_gigabytes(kind: str, name: str) -> float:
    trainer = trainer_of(sae_of(kind, SHAPES[name]), SHAPES[name])
    for due in (False, False, True):
        trainer.n_forward_passes_since_fired[::DEAD_EVERY] = 1e6
        step_seconds(trainer, due)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux: kilobytes


def in_a_process_of_its_own(kind: str, name: str) -> str:
    command = [sys.executable, "-m", "benchmarks.memory", name, "--kind", kind]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return f"{float(result.stdout):.1f} GB"
    is_killed = result.returncode < 0 or "memory" in result.stderr
    return "more than this machine has" if is_killed else result.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--kind", choices=KINDS, help="measure in this process")
    args = parser.parse_args()
    if args.kind:
        print(peak_gigabytes(args.kind, args.shapes[0]))
        return
    for name in args.shapes:
        for kind in tqdm(("joint", "solo", "stock"), desc=name):
            tqdm.write(f"{name} {kind}: {in_a_process_of_its_own(kind, name)}")


if __name__ == "__main__":
    main()
