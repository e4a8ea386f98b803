"""Atlases of SAEs made by hand: what fires where is known."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

from sae_lens_meta.activations.stream import ActivationBatch
from sae_lens_meta.atlas.collect import Collector
from sae_lens_meta.atlas.contents import Contents, contents_of
from sae_lens_meta.atlas.facts import Facts
from sae_lens_meta.atlas.page import write_atlas
from sae_lens_meta.autointerp.asking import Usage
from sae_lens_meta.autointerp.results import AutoInterpretation, InterpretedSAE
from sae_lens_meta.autointerp.scoring import ScoredLatent
from sae_lens_meta.comparison.result import ComparedSAE
from sae_lens_meta.decomposition.decomposition import Decomposition, decomposed
from sae_lens_meta.saved import SavedSAE
from sae_lens_meta.training.carried import META_FOLDER
from tests.comparisons import SOURCE, compared, comparison
from tests.tiny_llama import record_defaults

D_IN, D_SAE, N_META = 64, 60, 20
MARKUP = "<img/src=x/onerror=document.title='run'>"
WORDS = ["Paris", "Einstein", MARKUP, "</script><b/id='injected'>", "the", "\n", "$&"]
CONTEXT = 48


class Tokenizer:
    """Words of a list, with a space before each; "Einstein" is two tokens."""

    def __init__(self, n_words: int = 400):
        words = [*WORDS, *(f"word{i}" for i in range(n_words - len(WORDS)))]
        self.pieces = [f" {word}" for word in words]
        self.pieces[1] = " Ein"
        self.pieces.append("stein")

    def __len__(self) -> int:
        return len(self.pieces)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.pieces[token] for token in tokens)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token].replace(" ", "Ġ")

    @property
    def stein(self) -> int:
        return len(self.pieces) - 1


def jumprelu(rows: torch.Tensor, threshold: float) -> JumpReLUSAE:
    """An SAE whose latents read the directions of their own decoder rows."""
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=rows.shape[1], d_sae=len(rows)))
    sae.W_dec.data = (rows / rows.norm(dim=1, keepdim=True)).contiguous()
    sae.W_enc.data = sae.W_dec.data.t().contiguous()
    sae.threshold.data.fill_(threshold)
    return sae


def an_sae(d_in: int = D_IN, d_sae: int = D_SAE) -> JumpReLUSAE:
    """Its rows are orthogonal, and so its latents are independent; the last one never fires."""
    generator = torch.Generator().manual_seed(0)
    turned, _ = torch.linalg.qr(torch.randn(d_in, d_in, generator=generator))
    sae = jumprelu(turned[:d_sae], threshold=0.5)
    sae.threshold.data[-1] = 1e9
    return sae


def its_parts(sae: JumpReLUSAE) -> Decomposition:
    """Meta latent m is the latents i with i % 15 == m, and 15 + m those with i % 5 == m."""
    rows = sae.W_dec.detach()
    numbers = torch.arange(len(rows))
    groups = [rows[numbers % 15 == m].sum(dim=0) for m in range(15)]
    groups += [rows[numbers % 5 == m].sum(dim=0) for m in range(5)]
    meta = jumprelu(torch.stack(groups), threshold=0.1)
    return decomposed(rows, meta, "fitted", {"seed": 1})


def batches(sae: JumpReLUSAE, tokenizer: Tokenizer, n: int = 10, seed: int = 0) -> Any:
    """
    Text in which token t makes latent t % 60 fire, and where that is 10, latent 20 as well.

    The last batch is shorter.
    """
    generator = torch.Generator().manual_seed(seed)
    for i in range(n):
        shape = (8 if i + 1 < n else 3, CONTEXT)
        tokens = torch.randint(0, len(tokenizer) - 1, shape, generator=generator)
        follows = tokens.roll(1, dims=1) == 1
        follows[:, 0] = False
        tokens[follows] = tokenizer.stein
        strength = 1 + torch.rand(shape, generator=generator)
        rows = sae.W_dec.detach()[tokens % sae.cfg.d_sae]
        rows[tokens % sae.cfg.d_sae == 10] += sae.W_dec.detach()[20]
        yield ActivationBatch(tokens, rows * strength[..., None])


def its_contents(
    sae: JumpReLUSAE, tokenizer: Tokenizer, with_text: bool = True
) -> Contents:
    collector = Collector(sae, tokenizer)
    for batch in batches(sae, tokenizer):
        collector.update(batch)
    unembedding = torch.randn(
        len(tokenizer), sae.cfg.d_in, generator=torch.Generator().manual_seed(5)
    )
    observed = collector.result() if with_text else None
    return contents_of(its_parts(sae), observed, unembedding)


def write(
    contents: Contents, path: Path, name: str = "an SAE", sha256: str = "0" * 64
) -> None:
    lead = f"What {name} is made of."
    facts = Facts(lead, sha256, ["A note."], [["model", "a model"]])
    write_atlas(name, contents, facts, path, Tokenizer())


def save_beside_its_kin(folder: Path) -> None:
    """The SAE as `joint`, others, a comparison with `solo` and a judge's explanations."""
    saes = {
        "joint": an_sae(),
        "solo": an_sae(),
        "third": an_sae(),
        "zero_row": an_sae(),
    }
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(3))
    for weights in (saes["solo"].W_dec, saes["third"].W_dec):
        weights.data = weights.data[order] + 0.01 * torch.randn(D_SAE, D_IN)
    saes["zero_row"].W_dec.data[3] = 0
    for name, sae in saes.items():
        recorded = {"hook_name": "blocks.1.hook_resid_post", "model_name": "a-model"}
        recorded |= {"model_class_name": "HookedTransformer"}
        record_defaults(sae.cfg.metadata)
        for key, value in (recorded | {"context_size": CONTEXT}).items():
            setattr(sae.cfg.metadata, key, value)
        sae.save_model(folder / name)
        if name in ("joint", "third", "zero_row"):
            its_parts(an_sae()).meta_sae.save_model(folder / name / META_FOLDER)
    saved = {name: SavedSAE.read(folder / name) for name in saes}
    made = comparison(
        [_compared(saved["solo"], "solo"), _compared(saved["joint"], "joint")], 1
    )
    made.save(folder)
    explained = ScoredLatent(
        0, 0.01, "fires on Paris", {"fuzzing": 0.9, "detection": None}, {"detection": "refused"}
    )  # fmt: skip
    _autointerp(InterpretedSAE("joint", saved["joint"].weights_sha256, 0, [explained])).save(folder)  # fmt: skip


def _compared(saved: SavedSAE, group: str) -> ComparedSAE:
    made = compared(saved.path.name, group, 6e-3)
    made.path, made.weights_sha256 = str(saved.path), saved.weights_sha256
    return made


def _autointerp(sae: InterpretedSAE) -> AutoInterpretation:
    return AutoInterpretation(
        format=2,
        created="2026-01-01T00:00:00+00:00",
        judge="a judge",
        prompt_version=1,
        settings={},
        source=SOURCE,
        saes=[sae],
        differences=[],
        by_firing_rate=[],
        usage=Usage(),
    )
