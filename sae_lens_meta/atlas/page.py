"""Writes an atlas: one HTML file with everything in it."""

from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm.auto import trange

from sae_lens_meta import __version__
from sae_lens_meta.activations.tokens import token_texts
from sae_lens_meta.atlas.contents import Contents
from sae_lens_meta.atlas.entries import (
    MAX_WORDS,
    LatentEntries,
    MetaEntries,
    Vocabulary,
    latent_labels,
    meta_labels,
    word_index,
)
from sae_lens_meta.atlas.facts import Facts
from sae_lens_meta.atlas.pack import packed, rounded, script
from sae_lens_meta.extras import extra
from sae_lens_meta.measures.histograms import LOG_EDGES

with extra("report"):
    from jinja2 import Environment, PackageLoader, StrictUndefined

FORMAT = 1
SCRIPTS = ("blocks", "elements", "charts", "views", "search", "router")
PER_BLOCK = {"latents": 64, "metas": 64}  # entries
PER_BLOCK_WITHOUT_CONTEXTS = 512
N_REST_BINS = 40


def write_atlas(
    name: str, contents: Contents, facts: Facts, path: Path, tokenizer: Any = None
) -> None:
    """
    Writes the page.

    Args:
        name: of the SAE.
        contents: that it shows.
        facts: that it says of itself.
        path: of the file; an earlier one is whole until this one is.
        tokenizer: of the language model, where tokens are shown.
    """
    vocabulary = Vocabulary(contents)
    texts = dict(contents.matched.vocabulary) if contents.matched else {}
    if tokenizer is not None:
        texts |= token_texts(tokenizer, vocabulary.tokens)
    per_block = dict(PER_BLOCK)
    if contents.observed is None:
        per_block["latents"] = PER_BLOCK_WITHOUT_CONTEXTS
    metas = MetaEntries(contents, vocabulary)
    core = _core(name, contents, facts, metas, texts) | {"per_block": per_block}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_head(name, facts.weights_sha256, core))
        file.write(script("vocabulary", [texts[token] for token in vocabulary.tokens]))
        if contents.observed is not None:
            file.write(script("words", word_index(contents.observed.words)))
        if contents.explained is not None:
            file.write(script("explanations", _explanations(contents)))
        found, latents = contents.decomposition, LatentEntries(contents, vocabulary)
        _write_blocks(file, "metas", metas, found.n_meta, per_block["metas"])
        _write_blocks(file, "latents", latents, found.d_sae, per_block["latents"])
        file.write("</body>\n</html>\n")
    part.replace(path)


def _write_blocks(file: TextIO, kind: str, entries: Any, n: int, size: int) -> None:
    for first in trange(0, n, size, desc=f"Writing {kind}", leave=False):
        block = [entries.of(number) for number in range(first, min(first + size, n))]
        file.write(script(f"{kind}-{first // size}", block))


def _head(name: str, weights_sha256: str, core: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("sae_lens_meta.atlas", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = files("sae_lens_meta.atlas")
    read = lambda path: folder.joinpath(path).read_text(encoding="utf-8")  # noqa: E731
    return (
        environment.get_template("atlas.html.jinja").render(
            name=name,
            format=FORMAT,
            weights_sha256=weights_sha256,
            version=__version__,
            made=datetime.now(timezone.utc).date().isoformat(),
            styles=[read("vendor/uPlot.min.css"), read("page/atlas.css")],
            vendored=[_licensed(read)],
            scripts=[read(f"page/{script}.js") for script in SCRIPTS],
            core=packed(core),
        )
        + "\n"
    )


def _licensed(read: Any) -> str:
    """The charting library, its licence before it, as the licence asks."""
    return f"/*\n{read('vendor/uPlot.LICENSE')}*/\n{read('vendor/uPlot.iife.min.js')}"


def _core(
    name: str,
    contents: Contents,
    facts: Facts,
    metas: MetaEntries,
    texts: dict[int, str],
) -> dict[str, Any]:
    """What every state of the page needs."""
    found, observed = contents.decomposition, contents.observed
    n_words = len(observed.words.texts) if observed else 0
    left_out = f"The {MAX_WORDS:,} most frequent of {n_words:,} words can be found."
    matched, explained = contents.matched, contents.explained
    return {
        "name": name,
        "lead": facts.lead,
        "notes": facts.notes + (matched.notes if matched else []),
        "facts": facts.made_with,
        "n_latents": found.d_sae,
        "n_metas": found.n_meta,
        "n_tokens": observed.n_tokens if observed else 0,
        "n_words": min(n_words, MAX_WORDS),
        "words_left_out": left_out if n_words > MAX_WORDS else None,
        "log_edges": [round(edge, 2) for edge in LOG_EDGES.tolist()],
        "latents": {
            "label": latent_labels(contents, texts),
            "fired": observed.fired.tolist() if observed else [],
        },
        "metas": _map(contents, metas) | {"label": meta_labels(contents, metas, texts)},
        "rest": _rest(found.unexplained.numpy()),
        "judge": explained.judge if explained else None,
        "explained": sorted(explained.latents) if explained else [],
        "match": matched.name if matched else None,
        "has_match": matched is not None and matched.partner is not None,
    }


def _map(contents: Contents, metas: MetaEntries) -> dict[str, Any]:
    """The meta latents that rows are made of, as parallel lists."""
    used = (metas.use > 0).nonzero()[0]
    stability = contents.decomposition.stability
    return {
        "number": used.tolist(),
        "x": [rounded(x, 4) for x in contents.places[used, 0].tolist()],
        "y": [rounded(y, 4) for y in contents.places[used, 1].tolist()],
        "used": metas.use[used].tolist(),
        "share": [rounded(share) for share in metas.share[used].tolist()],
        "stability": None
        if stability is None
        else [round(v, 2) for v in stability.cosine[used].tolist()],
    }


def _rest(unexplained: np.ndarray) -> dict[str, Any]:
    low, high = min(0.0, unexplained.min()), max(1.0, unexplained.max())
    counts, edges = np.histogram(unexplained, bins=N_REST_BINS, range=(low, high))
    return {"edges": edges.round(4).tolist(), "counts": counts.tolist()}


def _explanations(contents: Contents) -> list[list[Any]]:
    assert contents.explained is not None
    latents = contents.explained.latents
    return [[latent, latents[latent].explanation] for latent in sorted(latents)]
