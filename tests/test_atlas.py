"""An atlas's contents, held against counts by hand, the models themselves, and a brute force."""

import gzip
import json
import re
from base64 import b64decode
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import GemmaConfig, GemmaForCausalLM

from sae_lens_meta.activations.text import load_text
from sae_lens_meta.activations.tokens import token_texts
from sae_lens_meta.atlas.attached import read_comparison, read_explanations
from sae_lens_meta.atlas.collect import (
    N_SAMPLED,
    N_STRONGEST,
    Collector,
    Observed,
)
from sae_lens_meta.atlas.common import common_words
from sae_lens_meta.atlas.contents import Contents
from sae_lens_meta.atlas.effects import logit_effects, reads_the_stream, unembedding
from sae_lens_meta.atlas.entries import (
    LatentEntries,
    MetaEntries,
    Vocabulary,
    latent_labels,
    word_index,
)
from sae_lens_meta.atlas.map import _principal, layout
from sae_lens_meta.atlas.pack import packed, script
from sae_lens_meta.atlas.words import WordCounter, first_of_each
from sae_lens_meta.cli import main
from sae_lens_meta.measures.geometry import nearest_rows
from sae_lens_meta.measures.histograms import LOG_EDGES
from sae_lens_meta.measures.kept_windows import OUTSIDE, KeptWindows
from sae_lens_meta.measures.matching import match_latents
from sae_lens_meta.saved import SavedSAE
from tests.atlases import (
    CONTEXT,
    D_SAE,
    N_META,
    Tokenizer,
    an_sae,
    batches,
    its_contents,
    its_parts,
    save_beside_its_kin,
)


@pytest.fixture(scope="module")
def contents() -> Contents:
    return its_contents(an_sae(), Tokenizer())


@pytest.fixture(scope="module")
def observed(contents: Contents) -> Observed:
    assert contents.observed is not None
    return contents.observed


@pytest.fixture(scope="module")
def read() -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[contexts, positions]` and codes of all that was read."""
    sae = an_sae()
    every = list(batches(sae, Tokenizer()))
    tokens = torch.cat([batch.tokens for batch in every])
    codes = torch.cat([batch.codes(sae) for batch in every])
    return tokens.numpy(), codes.detach().numpy()


def test_the_windows_kept_are_those_of_highest_rank_however_they_are_offered() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(200, 7, generator=generator)
    ranks[:, 6] = -torch.inf  # it has none to offer
    ranks[50:, 5] = -torch.inf
    kept = KeptWindows(7, 60, 3)
    for number, rank in enumerate(ranks):
        windows = torch.full((7, 3), number)
        kept.offer(rank, lambda chosen, w=windows: (w[chosen], w[chosen] / 2.0))
    for latent in range(7):
        order = ranks[:, latent].argsort(descending=True)
        best = order[ranks[order, latent] > -torch.inf][:60].tolist()
        tokens, activations = kept.of(latent)
        assert tokens[:, 0].tolist() == best and OUTSIDE not in tokens
        assert activations[:, 2].tolist() == [number / 2 for number in best]
    assert (len(kept.of(5)[0]), len(kept.of(6)[0])) == (50, 0)


def test_nearest_rows_are_those_of_a_brute_force() -> None:
    rows = torch.nn.functional.normalize(torch.randn(2500, 12), dim=1)
    cosines, places = nearest_rows(rows, rows, 5, "rows")
    every = rows @ rows.t()
    every.fill_diagonal_(-torch.inf)
    assert torch.equal(places, every.topk(5).indices)
    torch.testing.assert_close(cosines, every.topk(5).values)
    cosines, places = nearest_rows(rows[:3], rows[:2], 5, "rows")
    assert places.shape == (3, 2), "as many as there are"
    assert places[0, 0] == 0, "rows of another matrix may be the same"


def test_contexts_are_the_strongest_and_those_drawn_are_others(
    observed: Observed, read: tuple[np.ndarray, np.ndarray]
) -> None:
    tokens, codes = read
    assert observed.n_tokens == tokens.size and observed.n_contexts == len(tokens)
    for latent in range(D_SAE):
        of_context = codes[:, :, latent].max(axis=1)
        expected = np.sort(of_context[of_context > 0])[::-1]
        shown = observed.strongest[latent]
        strengths = [peak.activation for peak in shown]
        assert strengths == pytest.approx(expected[:N_STRONGEST])
        others = observed.sampled[latent]
        n_others = min(N_SAMPLED, max(0, len(expected) - N_STRONGEST))
        assert len(others) == n_others
        texts = [tuple(peak.tokens) for peak in [*shown, *others]]
        assert len(set(texts)) == len(texts), "no text twice"
        if len(others) == N_SAMPLED and len(expected) >= 25:
            assert others[-1].activation < np.median(expected), "from all its range"
        for peak in [*shown, *others]:
            assert peak.activations[peak.place] == peak.activation
            for token, value in zip(peak.tokens, peak.activations, strict=True):
                own = [latent, 10] if latent == 20 else [latent]
                assert (value > 0) == (token % D_SAE in own)
    assert observed.strongest[D_SAE - 1] == [], "it never fires"


def test_a_repeated_text_is_shown_once() -> None:
    sae, tokenizer = an_sae(), Tokenizer()
    collector = Collector(sae, tokenizer)
    first = next(iter(batches(sae, tokenizer)))
    for _ in range(3):
        collector.update(first)
    for peaks in collector.result().strongest.values():
        texts = [tuple(peak.tokens) for peak in peaks]
        assert len(set(texts)) == len(texts)


def test_firing_histograms_and_partners_are_counted(
    observed: Observed, read: tuple[np.ndarray, np.ndarray]
) -> None:
    _, codes = read
    flat = codes.reshape(-1, D_SAE)
    assert np.array_equal(observed.fired, (flat > 0).sum(axis=0))
    for latent in (0, 7, D_SAE - 1):
        values = flat[flat[:, latent] > 0, latent]
        counts, _ = np.histogram(np.log10(values.astype(np.float64)), bins=LOG_EDGES)
        assert np.array_equal(observed.histogram[latent], counts)
    with np.errstate(invalid="ignore"):
        phi = np.asarray(np.corrcoef((flat > 0).T))
    np.fill_diagonal(phi, -np.inf)
    assert np.nanargmax(phi[10]) == 20 == observed.partners.latents[10, 0]
    assert observed.partners.phi[10, 0] == pytest.approx(phi[10, 20], abs=1e-6)


def by_hand(tokens: np.ndarray, codes: np.ndarray) -> tuple[Counter[str], Any]:
    """Words, and on which latents fire, found with strings alone."""
    tokenizer, counts, together = Tokenizer(), Counter[str](), Counter[Any]()
    for prompt, acts in zip(tokens.tolist(), codes, strict=True):
        words: list[tuple[str, Any]] = []
        for token, of_token in zip(prompt, acts, strict=True):
            piece, fires = (
                tokenizer.pieces[token],
                set(np.nonzero(of_token)[0].tolist()),
            )
            if piece == "stein" and words and words[-1][0][-1].isalnum():
                words[-1] = (words[-1][0] + piece, words[-1][1] | fires)
            else:
                words.append((piece.strip() or piece, fires))
        for word, fires in words:
            counts[word] += 1
            together.update((word, int(latent)) for latent in fires)
    return counts, together


def test_words_are_whole_and_counted_once_however_many_of_their_tokens_fire(
    observed: Observed, read: tuple[np.ndarray, np.ndarray]
) -> None:
    counts, together = by_hand(*read)
    words = observed.words
    assert dict(zip(words.texts, words.counts, strict=True)) == dict(counts)
    assert counts["Einstein"] > 5 and "stein" not in counts
    found = {
        (words.texts[word], int(latent)): int(n)
        for word, latent, n in zip(
            words.word, words.latent, words.together, strict=True
        )
    }
    assert found == dict(together)
    total = sum(counts.values())
    for place in (0, len(words.phi) // 2, len(words.phi) - 1):
        word, latent = words.texts[words.word[place]], words.latent[place]
        n_latent = sum(n for (_, other), n in together.items() if other == latent)
        a, b, both = counts[word], n_latent, together[word, int(latent)]
        phi = (total * both - a * b) / np.sqrt(a * (total - a) * b * (total - b))
        assert words.phi[place] == pytest.approx(phi)


def test_counting_in_parts_is_counting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for flush_at in (10, 1 << 22):
        monkeypatch.setattr("sae_lens_meta.atlas.words.FLUSH_AT", flush_at)
        sae, counter = an_sae(), WordCounter(Tokenizer(), D_SAE)
        for batch in batches(sae, Tokenizer(), 3):
            rows, latents = batch.codes(sae).flatten(0, 1).nonzero(as_tuple=True)
            counter.update(batch.tokens, rows.numpy(), latents.numpy())
        found.append(counter.result())
    first, second = found
    for name in ("counts", "fired", "word", "latent", "together", "phi"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


def test_the_first_of_each_group_are_its_highest() -> None:
    random = np.random.default_rng(0)
    group, value = random.integers(0, 9, 400), random.random(400)
    places, of = first_of_each(group, value, 4)
    for one in range(9):
        best = sorted(value[group == one], reverse=True)[:4]
        assert value[places[of == one]].tolist() == best


def test_a_word_is_found_with_the_latent_that_is_its_own(observed: Observed) -> None:
    index = {text: (n, latents) for text, n, latents in word_index(observed.words)}
    for word, latent in (("Paris", 0), ("Einstein", 1)):
        n, latents = index[word]
        assert [latent, n] in latents[:2], "fires on all of it"


def test_a_sentence_pieces_space_is_kept() -> None:
    class SentencePiece(Tokenizer):
        def convert_ids_to_tokens(self, token: int) -> str:
            return self.pieces[token].replace(" ", "▁")

        def decode(self, tokens: Any) -> str:
            return super().decode(tokens).lstrip(" ")

    texts = token_texts(SentencePiece(), [0, 1, SentencePiece().stein])
    assert list(texts.values()) == [" Paris", " Ein", "stein"]


def tiny(norm: str) -> HookedTransformer:
    torch.manual_seed(0)
    model = HookedTransformer(
        HookedTransformerConfig(
            n_layers=1, d_model=16, n_ctx=8, d_head=4, n_heads=4, d_vocab=50,
            act_fn="relu", normalization_type=norm,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.ln_final.named_parameters():
            parameter.copy_(torch.rand(16) + (0.2 if name == "w" else 0.0))
    return model


class Wrapped(torch.nn.Module):
    """As SAELens wraps a model of transformers."""

    def __init__(self, model: Any, n_tokens: int):
        super().__init__()
        self.model, self.tokenizer = model, range(n_tokens)


def gemma() -> Wrapped:
    """Its normalisation's weights are less 1, and its vocabulary is padded."""
    torch.manual_seed(0)
    model = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    )  # fmt: skip
    torch.nn.init.normal_(model.model.norm.weight, std=0.3)
    return Wrapped(model, 50)


@pytest.mark.parametrize("kind", ["LN", "RMS", "gemma"])
def test_effects_are_what_the_models_own_last_layers_make_of_a_direction(
    kind: str,
) -> None:
    directions = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    model: Any = gemma() if kind == "gemma" else tiny(kind)
    with torch.no_grad():
        if kind == "gemma":
            true = model.model.lm_head(model.model.model.norm(directions))[:, :50]
        else:
            model.tokenizer = range(50)
            model.unembed.b_U.zero_()
            normed, zero = (
                model.ln_final(x[None])[0] for x in (directions, 0 * directions)
            )
            true = model.unembed((normed - zero)[None])[0]
    found = unembedding(model)
    assert found is not None and found.shape == (50, 16)
    effects = logit_effects(directions, found, 6, "x")
    z = (true - true.mean(dim=1, keepdim=True)) / true.std(dim=1, keepdim=True)
    torch.testing.assert_close(effects.promoted, z.topk(6).indices)
    torch.testing.assert_close(effects.promoted_by, z.topk(6).values, atol=1e-3, rtol=0)
    torch.testing.assert_close(effects.suppressed, (-z).topk(6).indices)


def test_only_directions_of_the_stream_reach_the_logits_as_they_are() -> None:
    for hook in ("blocks.3.hook_resid_post", "blocks.0.hook_mlp_out"):
        assert reads_the_stream(hook)
    for hook in ("blocks.3.attn.hook_z", "blocks.3.mlp.hook_post", None):
        assert not reads_the_stream(hook)


def kept_near(places: np.ndarray, rows: torch.Tensor, n: int = 5) -> float:
    """Which share of the nearest by direction are among the nearest on the map."""
    _, near = nearest_rows(rows, rows, n, "rows")
    distances = torch.cdist(torch.from_numpy(places), torch.from_numpy(places))
    distances.fill_diagonal_(torch.inf)
    on_map = distances.topk(n, largest=False).indices
    same = (near[:, :, None] == on_map[:, None]).any(dim=2)
    return same.double().mean().item()


def test_neighbours_are_near_each_other_on_the_map() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 64, generator=generator)
    rows = centres.repeat(6, 1) + 0.5 * torch.randn(180, 64, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=1)
    places = layout(rows)
    assert np.array_equal(places, layout(rows)), "the same map again"
    assert np.abs(places).max() == pytest.approx(1)
    # the two principal components, where it begins, do not have it
    assert kept_near(places, rows) > 0.8 > 1.5 * kept_near(_principal(rows), rows)
    for n in range(4):
        assert layout(rows[:n]).shape == (n, 2)
        assert np.isfinite(layout(rows[:n])).all()


def test_shares_add_up_to_the_row_and_are_those_that_were_made(
    contents: Contents,
) -> None:
    vocabulary = Vocabulary(contents)
    latents = LatentEntries(contents, vocabulary)
    for latent in range(D_SAE):
        entry = latents.of(latent)
        shares = dict(map(tuple, entry["parts"]))
        # a meta latent that is the sum of n orthogonal rows is 1 / n of each
        assert shares == pytest.approx({latent % 15: 1 / 4, 15 + latent % 5: 1 / 12}, rel=2e-3)  # fmt: skip
        together = sum(shares.values()) + entry["constant"] + entry["rest"]
        assert together == pytest.approx(1, abs=3e-3)
    metas = MetaEntries(contents, vocabulary)
    assert {latent for latent, _ in metas.of(3)["rows"]} == {3, 18, 33, 48}
    assert metas.of(3)["used"] == 4
    assert len(metas.of(16)["rows"]) == 12


def test_what_the_latents_of_a_meta_latent_have_in_common_is_found(
    contents: Contents, observed: Observed
) -> None:
    found = common_words(contents.shares, observed.words, 1000)
    assert len(found) == N_META
    common = found[3]
    assert common is not None
    texts = [observed.words.texts[word] for word in common.words]
    own = {
        piece.strip()
        for token, piece in enumerate(Tokenizer().pieces[:-1])
        if token % D_SAE in (3, 18, 33, 48) and piece != " Ein"
    }
    assert set(texts) == own & set(observed.words.texts)
    shares, words = contents.shares.toarray(), observed.words
    profile = np.zeros((D_SAE, len(words.texts)))
    profile[words.latent, words.word] = words.together / words.fired[words.latent]
    weights = shares[:, 3] * (words.fired > 0)
    assert common.own[0] == pytest.approx(
        (weights @ profile / weights.sum())[common.words[0]]
    )
    nobody = csr_array((D_SAE, 2))
    assert common_words(nobody, observed.words, 3) == [None, None]


def test_labels_are_words_of_its_own_or_what_it_promotes(contents: Contents) -> None:
    texts = token_texts(Tokenizer(), range(len(Tokenizer())))
    labels = latent_labels(contents, texts)
    assert not labels[0].startswith("→")
    assert labels[D_SAE - 1].startswith("→ "), "it fires on nothing"
    without = replace(contents, observed=None, effects=None)
    assert set(latent_labels(without, texts)) == {""}


def test_a_block_is_what_was_packed_and_cannot_be_markup() -> None:
    data = {"texts": ["</script>", "\ud800", "é"], "n": [1, 2.5, None]}
    block = packed(data)
    found = json.loads(gzip.decompress(b64decode(block)))
    assert found["texts"][0] == "</script>" and found["n"] == data["n"]
    assert block == packed(data)
    assert script("a-1", data).count("<") == 2
    with pytest.raises(ValueError, match="JSON"):
        packed([float("nan")])


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SAE, another, a comparison of both and a judge's explanations, in a folder."""
    folder = tmp_path_factory.mktemp("kin")
    save_beside_its_kin(folder)
    return folder


def test_explanations_are_of_this_sae_or_an_error(kin: Path) -> None:
    saved = SavedSAE.read(kin / "joint")
    found = read_explanations(kin / "autointerp.json", saved)
    assert found.judge == "a judge"
    assert found.latents[0].explanation == "fires on Paris"
    assert read_explanations(kin, saved).latents.keys() == found.latents.keys()
    with pytest.raises(ValueError, match="none of which has the weights"):
        read_explanations(kin, SavedSAE.read(kin / "solo"))
    with pytest.raises(FileNotFoundError, match=r"no autointerp\.json at"):
        read_explanations(kin / "joint", saved)


def test_matches_are_those_of_the_matching_and_splits_those_of_the_comparison(
    kin: Path,
) -> None:
    joint, solo = (SavedSAE.read(kin / name) for name in ("joint", "solo"))
    W_dec: Any = joint.load().W_dec
    found = read_comparison(kin, joint, W_dec)
    expected = match_latents(W_dec, solo.load().W_dec)  # type: ignore[arg-type]
    assert found.name == "solo" and found.partner is not None
    assert {k: v[0] for k, v in found.partner.items()} == dict(
        enumerate(expected.partner)
    )
    assert [split.said[:24] for split in found.splits[1]] == [
        "Latent 0 of solo may be "
    ]
    of_solo = read_comparison(kin, solo, solo.load().W_dec)  # type: ignore[arg-type]
    assert of_solo.partner is None and "reference is this SAE" in of_solo.notes[0]
    (kin / "solo").rename(kin / "gone")
    try:
        gone = read_comparison(kin, joint, W_dec)
        assert gone.partner is None and "not on this machine" in gone.notes[0]
        assert gone.splits
        with pytest.raises(ValueError, match="none of which is this SAE"):
            read_comparison(kin, SavedSAE.read(kin / "third"), W_dec)
    finally:
        (kin / "gone").rename(kin / "solo")


def blocks(page: Path) -> dict[str, Any]:
    """Everything that a page holds, by the name of its block."""
    found = re.findall(r'data-block="([^"]*)">([^<]*)<', page.read_text("utf-8"))
    return {name: json.loads(gzip.decompress(b64decode(text))) for name, text in found}


def run(*args: str | Path) -> None:
    main(["atlas", *map(str, args)])


def test_an_atlas_without_text_says_so_and_loads_no_model(
    kin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "a.html"
    run(kin / "joint", "--output", page, "--autointerp", kin, "--comparison", kin)
    said = " ".join(capsys.readouterr().out.split())
    assert "Made without text" in said and "Made without a language model" in said
    assert page.read_text().rstrip().endswith("</html>")
    assert not list(page.parent.glob("*.part"))
    with pytest.raises(SystemExit, match="exists. Write elsewhere, or give --over"):
        run(kin / "joint", "--output", page)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing-there"], "There is no folder"),
        (["joint", "--autointerp", "solo"], r"no autointerp\.json"),
        (["third", "--comparison", "."], "none of which is this SAE"),
        (["zero_row"], "1 decoder rows are zero"),
        (["joint", "--dataset", "./none.txt"], "No text file"),
        (["joint", "--decomposition", "solo"], "decomposition"),
    ],
)
def test_bad_input_is_said_in_a_line_and_writes_nothing(
    kin: Path, args: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kin)
    before = sorted(kin.iterdir())
    with pytest.raises(SystemExit, match=said):
        run(*args, "--output", "atlas.html")
    assert sorted(kin.iterdir()) == before


def test_an_sae_that_saelens_converts_is_taken_as_it_comes(
    kin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_release(*given: Any) -> Any:
        asked.append(given)
        return SavedSAE.read(kin / "joint").load()

    def fitted(folder: Path) -> Any:
        assert SavedSAE.read(folder).d_sae == D_SAE
        return its_parts(an_sae())

    monkeypatch.setattr("sae_lens_meta.atlas.atlas.load_release", load_release)
    monkeypatch.setattr("sae_lens_meta.atlas.atlas.decomposition", fitted)
    page = tmp_path / "a.html"
    run("some-release", "--sae_id", "some/id", "--output", page)
    assert asked == [("some-release", "some/id")]
    core = blocks(page)["core"]
    assert (core["name"], core["n_latents"]) == ("some-release", D_SAE)


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_in_cache")
def test_the_bundled_release_gets_its_atlas_by_one_command_from_a_short_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "a.html"
    text = ["--dataset", "pydoc", "--held_out_documents", "4", "--tokens", "90000"]
    run("metasae-smollm2-135m-instruct-l11", *text, "--output", page)
    said = " ".join(capsys.readouterr().out.split())
    found = blocks(page)
    core, vocabulary = found["core"], found["vocabulary"]
    assert 128 <= core["n_tokens"] < 90_000
    assert f"The text ended after {core['n_tokens']:,} of 90,000 tokens." in said
    assert (core["n_latents"], core["n_metas"]) == (4096, 368)
    assert len(core["metas"]["x"]) == 368
    assert sum(core["latents"]["fired"]) / core["n_tokens"] == pytest.approx(32, rel=0.3)  # fmt: skip
    texts = [text for part in load_text("pydoc", 4) for text in part["text"]]
    flat = "".join("".join(texts).split())
    for latent in np.argsort(core["latents"]["fired"])[-5:].tolist():
        entry = found[f"latents-{latent // 64}"][latent % 64]
        tokens, place, active = entry["top"][0]
        text = "".join(vocabulary[token] for token in tokens[1:])
        assert "".join(text.split()).replace("<|im_start|>", "") in flat
        at = dict(zip(active[::2], active[1::2], strict=True))
        assert at[place] == max(at.values())
        assert len(entry["up"]) == 10
        shares = sum(share for _, share in entry["parts"])
        assert shares + entry["constant"] + entry["rest"] == pytest.approx(1, abs=5e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_in_cache")
def test_without_text_a_model_that_is_given_says_what_is_promoted(
    tmp_path: Path,
) -> None:
    page = tmp_path / "a.html"
    run("metasae-smollm2-135m-instruct-l11", "--model", "smollm2", "--output", page)
    found = blocks(page)
    assert found["core"]["n_tokens"] == 0 and "words" not in found
    assert all(label.startswith("→ ") for label in found["core"]["latents"]["label"])
    entry = found["latents-0"][3]
    assert "top" not in entry and len(entry["up"]) == len(entry["down"]) == 10


@pytest.mark.slow
def test_a_release_of_several_saes_takes_an_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="several SAEs"):
        run("gpt2-small-res-jb")
    assert list(tmp_path.iterdir()) == []


def test_contexts_fit_the_contexts_they_come_from() -> None:
    assert CONTEXT > 21, "windows must be cut at the ends of contexts in these tests"
    assert its_parts(an_sae()).n_meta == N_META
