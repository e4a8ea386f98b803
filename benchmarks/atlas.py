"""
How large an atlas of true size is, and how long a browser takes to open it.

Everything in it is drawn at random: latents, parts, and contexts of Zipf-distributed tokens that have
less to compress than text has. Needs chromium and chromedriver.

    python -m benchmarks.atlas --latents 20480
    python -m benchmarks.atlas --latents 65536 --without-contexts
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from benchmarks.browser import browser
from sae_lens_meta.atlas.collect import N_SAMPLED, N_STRONGEST, Observed
from sae_lens_meta.atlas.contents import Contents
from sae_lens_meta.atlas.effects import Effects
from sae_lens_meta.atlas.facts import Facts
from sae_lens_meta.atlas.page import write_atlas
from sae_lens_meta.atlas.words import Words
from sae_lens_meta.decomposition.decomposition import decomposed
from sae_lens_meta.measures.histograms import LOG_EDGES
from sae_lens_meta.measures.phi import Partners
from sae_lens_meta.measures.top_contexts import Peak

D_IN, N_TOKENS, N_WORDS, WIDTH, PEAK = 64, 1_000_000, 40_000, 21, 12
WORDS_OF_A_LATENT, ACTIVE = 60, 4


class Tokenizer:
    """Tokens that read like words."""

    def __init__(self, random: np.random.Generator):
        letters = np.array(list("etaoinshrdlucmfw"))
        lengths = random.integers(2, 9, N_WORDS)
        self.texts = [" " + "".join(random.choice(letters, n)) for n in lengths]

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.texts[token] for token in tokens)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.texts[token]


def parts(d_sae: int, n_meta: int) -> Any:
    """A decomposition of some four parts a row."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(d_sae, D_IN, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=1)
    meta = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=n_meta))
    meta.W_dec.data = torch.nn.functional.normalize(
        torch.randn(n_meta, D_IN, generator=generator), dim=1
    )
    meta.W_enc.data = meta.W_dec.data.t().contiguous()
    cosines = rows[:500] @ meta.W_enc.data
    meta.threshold.data.fill_(cosines.quantile(1 - 4 / n_meta).item())
    return decomposed(rows, meta, "fitted", {})


def peak(random: np.random.Generator) -> Peak:
    tokens = np.minimum(random.zipf(1.3, WIDTH), N_WORDS) - 1
    active = np.zeros(WIDTH)
    active[random.integers(0, WIDTH, ACTIVE)] = 3 * random.random(ACTIVE)
    active[PEAK] = 3 + random.random()
    return Peak(float(active[PEAK]), PEAK, tokens.tolist(), active.tolist())


def observed(d_sae: int, texts: list[str]) -> Observed:
    """What a pass might have shown."""
    random = np.random.default_rng(0)
    n_pairs = d_sae * WORDS_OF_A_LATENT
    word = np.minimum(random.zipf(1.2, n_pairs), N_WORDS) - 1
    latent = np.repeat(np.arange(d_sae), WORDS_OF_A_LATENT)
    together = random.integers(1, 40, n_pairs)
    words = Words(
        [text.strip() for text in texts],
        np.sort(random.integers(1, 5000, N_WORDS))[::-1],
        np.bincount(latent, together, d_sae).astype(int),
        word,
        latent,
        together,
        random.random(n_pairs),
    )
    return Observed(
        N_TOKENS,
        N_TOKENS // 128,
        random.integers(10, 5000, d_sae),
        {i: [peak(random) for _ in range(N_STRONGEST)] for i in range(d_sae)},
        {i: [peak(random) for _ in range(N_SAMPLED)] for i in range(d_sae)},
        random.integers(0, 90, (d_sae, len(LOG_EDGES) - 1))
        * (np.abs(np.arange(len(LOG_EDGES) - 1) - 20) < 8),
        Partners(random.integers(0, d_sae, (d_sae, 8)), random.random((d_sae, 8))),
        words,
    )


def effects(n: int, random: torch.Generator) -> Effects:
    tokens = [torch.randint(0, N_WORDS, (n, 10), generator=random) for _ in range(2)]
    values = [5 * torch.rand(n, 10, generator=random) for _ in range(2)]
    return Effects(tokens[0], values[0], tokens[1], -values[1])


def contents(d_sae: int, tokenizer: Tokenizer, with_contexts: bool) -> Contents:
    """Of an SAE with a meta SAE of 9 % of its width."""
    n_meta = round(0.09 * d_sae)
    random, drawn = np.random.default_rng(1), torch.Generator().manual_seed(1)
    near = torch.rand(d_sae, 6), torch.randint(0, d_sae, (d_sae, 6))
    near_metas = torch.rand(n_meta, 6), torch.randint(0, n_meta, (n_meta, 6))
    partners = Partners(random.integers(0, n_meta, (n_meta, 8)), random.random((n_meta, 8)))  # fmt: skip
    return Contents(
        parts(d_sae, n_meta),
        near,
        near_metas,
        partners,
        random.integers(0, 99, (n_meta, 8)),
        random.uniform(-1, 1, (n_meta, 2)),
        observed(d_sae, tokenizer.texts) if with_contexts else None,
        effects(d_sae, drawn),
        effects(n_meta, drawn),
    )


def opened(path: Path, states: list[str]) -> dict[str, float]:
    """Seconds from asking for a state in a fresh browser to its heading; and to the whole page read."""
    taken = {}
    for state in states:
        with browser(load="none") as driver:
            driver.get("about:blank")
            begin = time.perf_counter()
            driver.get(path.as_uri() + state)
            shown = "return document.querySelector('main h1') !== null"
            while not driver.execute_script(shown):
                time.sleep(0.01)
            taken[state] = time.perf_counter() - begin
            while driver.execute_script("return document.readyState") != "complete":
                time.sleep(0.01)
            taken[f"{state}, to its end"] = time.perf_counter() - begin
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latents", type=int, default=20_480)
    parser.add_argument("--without-contexts", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    tokenizer = Tokenizer(np.random.default_rng(0))
    made = contents(args.latents, tokenizer, not args.without_contexts)
    with TemporaryDirectory() as folder:
        path = (args.output or Path(folder) / "atlas.html").resolve()
        begin = time.perf_counter()
        write_atlas("drawn at random", made, Facts("Drawn.", "0" * 64), path, tokenizer)
        print(f"written in {time.perf_counter() - begin:.0f} s")
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        last = args.latents - 1
        for state, seconds in opened(
            path, ["", f"#/latent/{last}", "#/search?q=tea"]
        ).items():
            print(f"opened at {state or '#/'}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
