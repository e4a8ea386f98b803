"""
Peak memory of training steps, one process for each kind of SAE.

    python -m benchmarks.memory gpt2-large gemma-4096
    python -m benchmarks.memory gpt2-large gemma-4096 --device cuda

Three steps with Adam, a meta phase before the third, and every hundredth latent dead so that
the auxiliary loss is at work. On CPU the peak is that of the whole process, Python and torch
included; on a GPU it is what torch's tensors take there.
"""

import argparse
import resource
import subprocess
import sys

import torch
from tqdm.auto import tqdm

from benchmarks.shapes import KINDS, SHAPES, sae_of, trainer_of
from benchmarks.step import step_seconds


def peak_gigabytes(kind: str, name: str, device: str) -> float:
    trainer = trainer_of(sae_of(kind, SHAPES[name], device), SHAPES[name])
    for due in (False, False, True):
        step_seconds(trainer, due)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux: kilobytes


def in_a_process_of_its_own(kind: str, name: str, device: str) -> str:
    command = [sys.executable, "-m", "benchmarks.memory", name, "--kind", kind]
    command += ["--device", device]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return f"{float(result.stdout):.1f} GB"
    is_killed = result.returncode < 0 or "memory" in result.stderr
    return "more than this machine has" if is_killed else result.stderr


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="+", choices=list(SHAPES))
    parser.add_argument("--kind", choices=KINDS, help="measure in this process")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    if args.kind:
        print(peak_gigabytes(args.kind, args.shapes[0], args.device))
        return
    for name in args.shapes:
        for kind in tqdm(reversed(KINDS), desc=name):
            peak = in_a_process_of_its_own(kind, name, args.device)
            tqdm.write(f"{name} {kind}: {peak}")


if __name__ == "__main__":
    main()
