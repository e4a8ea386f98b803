"""
How long 1,000 latents take where the judge does not, and how much memory.

    python -m benchmarks.autointerp

Everything but the language model and the judge: windows are collected from random activations, every
question goes over HTTP to a server of this machine that answers at once, and every reply is kept.
"""

import argparse
import asyncio
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.autointerp.asking import Asker, Limits
from sae_lens_meta.autointerp.contexts import ContextCollector
from sae_lens_meta.autointerp.openai_judge import OpenAIJudge
from sae_lens_meta.autointerp.run import (
    AutointerpConfig,
    Subject,
    interpret_one,
)
from sae_lens_meta.autointerp.scoring import Examiner
from tests.judges import Guesser, JudgeServer, judge_server

D_IN, CONTEXT, PROMPTS = 256, 128, 8
ACTIVE = 0.01  # share of tokens that a latent fires on


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latents", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=300_000)
    args = parser.parse_args()
    cfg = AutointerpConfig(latents=args.latents)
    torch.manual_seed(0)
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=args.latents))
    sae.W_enc.data = torch.randn(D_IN, args.latents) / D_IN**0.5
    sae.threshold.data.fill_(
        float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - ACTIVE)))
    )

    start = time.perf_counter()
    collector = ContextCollector(sae, range(args.latents), cfg.plan)
    for _ in range(args.tokens // (PROMPTS * CONTEXT)):
        tokens = torch.randint(0, 50_000, (PROMPTS, CONTEXT))
        collector.update(ActivationBatch(tokens, torch.randn(PROMPTS, CONTEXT, D_IN)))
    contexts = collector.result()
    found = [context for context in contexts.values() if context]
    collected = time.perf_counter()
    with (
        judge_server(JudgeServer(answer=Guesser().answer)) as server,
        TemporaryDirectory() as d,
    ):
        asker = Asker(
            OpenAIJudge(server.url, "stub"), Path(d) / "replies.sqlite", Limits()
        )
        examiner = Examiner(
            asker, lambda tokens: "".join(f"w{t} " for t in tokens), cfg.shown
        )
        subject = Subject("stub", sae, "", list(contexts), contexts)
        scored = asyncio.run(interpret_one(subject, found, examiner, cfg))
        asker.close()
    asked = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(scored.latents)} latents with controls: windows from {args.tokens:,} tokens "
        f"{collected - start:.0f} s, {asker.usage.requests:,} requests {asked - collected:.0f} s, "
        f"peak {peak:.1f} GB resident, this server included"
    )


if __name__ == "__main__":
    main()
