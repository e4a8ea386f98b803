"""What the latents of one SAE say of every label, chosen on the first part, scored on the second."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from scipy.sparse import csc_matrix
from tqdm.auto import tqdm

from sae_lens_meta.probing.absorption import (
    NONE,
    Absorbed,
    absorbed,
    child_of,
    main_latents,
)
from sae_lens_meta.probing.dense_probe import DenseProbes, fit_dense_probes
from sae_lens_meta.probing.labels import Labels
from sae_lens_meta.probing.result import Absorber, LabelScore, ProbedLabel
from sae_lens_meta.probing.sparse_probe import (
    FEW,
    KS,
    SparseProbe,
    best_single_latents,
    k_sparse_probes,
)
from sae_lens_meta.probing.text import Codes, Part, encoded
from sae_lens_meta.statistics.ratio import Ratio, f1_ratio

REACHED = 0.95  # of the dense probe's F1
N_ABSORBERS = 5
Ratios = dict[str, list[Ratio]]
"""The figures that have an interval, of every label, by id."""


@dataclass
class Task:
    """
    What every SAE is measured against.

    Attributes:
        labels: to probe for.
        first: the part to choose on.
        second: the part to score on.
        token_ids: of the vocabulary, of the first part, `[n]`.
        shown: a token id as text.
        seed: of the shuffled labels.
        probes: dense ones.
        said: what they say of the second part, `[n, n_labels]`.
        projections: of the second part on their directions, `[n, n_labels]`.
        ceilings: F1 of each.
        shuffled_ceilings: of those of shuffled labels.
    """

    labels: Labels
    first: Part
    second: Part
    token_ids: np.ndarray
    shown: Callable[[int], str]
    seed: int
    probes: DenseProbes = field(init=False)
    said: np.ndarray = field(init=False)
    projections: np.ndarray = field(init=False)
    ceilings: list[Ratio] = field(init=False)
    shuffled_ceilings: list[Ratio] = field(init=False)
    shuffled: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        x, y = self.first.normalised(), self.second.normalised()
        self.shuffled = (
            self.first.shuffled(self.seed),
            self.second.shuffled(self.seed + 1),
        )
        self.probes = fit_dense_probes(x, self.first.holds)
        self.said = self.probes.predict(y)
        self.projections = self.probes.projections(y)
        self.ceilings = self._f1s(self.said, self.second.holds)
        said = fit_dense_probes(x, self.shuffled[0]).predict(y)
        self.shuffled_ceilings = self._f1s(said, self.shuffled[1])

    def f1(self, predicted: np.ndarray, holds: np.ndarray) -> Ratio:
        """Of a prediction for the second part."""
        part = self.second
        return f1_ratio(predicted, holds, part.documents, part.n_documents)

    def _f1s(self, predicted: np.ndarray, holds: np.ndarray) -> list[Ratio]:
        pairs = zip(predicted.T, holds.T, strict=True)
        return [self.f1(one, label) for one, label in pairs]

    def probed_labels(self) -> list[ProbedLabel]:
        """The labels and their ceilings."""
        first, second = self.first.holds.sum(axis=0), self.second.holds.sum(axis=0)
        return [
            ProbedLabel(
                name=name,
                ancestors=sorted(self.labels.ancestors[name]),
                n_first=int(first[i]),
                n_second=int(second[i]),
                rate=float(second[i] / len(self.second.holds)),
                ceiling=self.ceilings[i].estimate(),
                shuffled_ceiling=self.shuffled_ceilings[i].value,
            )
            for i, name in enumerate(self.labels.names)
        ]


@dataclass
class Measured:
    """
    One SAE.

    Attributes:
        scores: what its latents say of each label, by its name.
        ratios: the same figures as ratios, by id, a ratio a label.
        l0: mean number of latents that fire on a token of the second part.
    """

    scores: dict[str, LabelScore]
    ratios: Ratios
    l0: float


def measure(name: str, sae: SAE[Any], task: Task) -> Measured:
    """
    Everything about one SAE.

    Args:
        name: to show the progress under.
        sae: any SAE that reads these activations.
        task: the labels, the two parts and the dense probes.
    """
    measured = _Latents(sae, task)
    scores: dict[str, LabelScore] = {}
    ratios: Ratios = {}
    bar = tqdm(task.labels.names, desc=f"Probing {name}", unit="label", leave=False)
    for i, label in enumerate(bar):
        scores[label], found = measured.score(i, label)
        for figure, ratio in found.items():
            ratios.setdefault(figure, []).append(ratio)
    l0 = measured.codes[1].acts.nnz / len(task.second.places)
    return Measured(scores, ratios, l0)


class _Latents:
    """The codes of an SAE on both parts, and its single latents."""

    def __init__(self, sae: SAE[Any], task: Task):
        self.task = task
        self.codes: tuple[Codes, Codes] = (
            encoded(sae, task.first),
            encoded(sae, task.second),
        )
        first, second = (codes.acts.tocsc() for codes in self.codes)
        self.first, self.second = csc_matrix(first), csc_matrix(second)
        self.singles = best_single_latents(self.first, task.first.holds)
        self.shuffled_singles = best_single_latents(self.first, task.shuffled[0])
        W_dec = torch.as_tensor(sae.W_dec).detach().float().cpu().numpy()
        directions = task.probes.directions
        self.effects = W_dec @ directions
        lengths = np.outer(
            np.linalg.norm(W_dec, axis=1), np.linalg.norm(directions, axis=0)
        )
        self.cosines = self.effects / np.maximum(lengths, 1e-12)

    def score(self, i: int, label: str) -> tuple[LabelScore, dict[str, Ratio]]:
        task = self.task
        holds = task.second.holds[:, i]
        single = task.f1(self._fires(self.singles[i]), holds)
        probes = k_sparse_probes(self.first, task.first.holds[:, i])
        by_k = {k: task.f1(p.predict(self.second), holds) for k, p in probes.items()}
        f1_by_k = {k: ratio.value or 0.0 for k, ratio in by_k.items()}
        target = REACHED * (task.ceilings[i].value or 0.0)
        main = main_latents(probes, self._f1_where_fitted(probes, i))
        # where no latent stands for the label, none can be silent
        probed = np.flatnonzero(holds & task.said[:, i]) if main else np.array([], int)
        by_any, by_one = (self._absorbed(i, probed, m) for m in (main, main[:1]))
        absorbers = self._absorbers(i, label, by_one)
        shares = self._shares(probed, by_any, by_one, absorbers)
        shuffled_single, shuffled_few = self._shuffled(i)
        score = LabelScore(
            latent=int(self.singles[i]),
            single=single.estimate(),
            f1_by_k=f1_by_k,
            latents=[int(latent) for latent in probes[KS[-1]].latents],
            needed=next((k for k, f1 in f1_by_k.items() if f1 >= target), None),
            main=main,
            n_probed=len(probed),
            **{figure: ratio.estimate() for figure, ratio in shares.items()},
            absorbers=absorbers[:N_ABSORBERS],
            shuffled_single=shuffled_single.value,
            shuffled_few=shuffled_few.value,
        )
        f1s = {
            "single": single,
            "one": by_k[1],
            "few": by_k[FEW],
            "shuffled_single": shuffled_single,
            "shuffled_few": shuffled_few,
        }
        return score, f1s | shares

    def _fires(self, latent: int) -> np.ndarray:
        return self.second[:, [latent]].toarray()[:, 0] != 0

    def _f1_where_fitted(
        self, probes: dict[int, SparseProbe], i: int
    ) -> dict[int, float]:
        holds = self.task.first.holds[:, i]
        said = {k: probe.predict(self.first) for k, probe in probes.items()}
        return {
            k: 2 * float((one & holds).sum()) / float(one.sum() + holds.sum())
            for k, one in said.items()
        }

    def _absorbed(self, i: int, probed: np.ndarray, main: list[int]) -> Absorbed:
        acts, scale = self.codes[1].acts, self.codes[1].scale
        return absorbed(
            acts[probed],
            scale[probed],
            self.task.projections[probed, i],
            self.effects[:, i],
            self.cosines[:, i],
            main,
        )

    def _absorbers(self, i: int, label: str, found: Absorbed) -> list[Absorber]:
        """Those on most tokens first."""
        latents, counts = np.unique(
            found.absorber[found.absorber != NONE], return_counts=True
        )
        if len(latents) == 0:
            return []
        holds = self.task.first.holds
        mine = np.flatnonzero(holds[:, i])
        codes = csc_matrix(self.codes[0].acts[mine])
        names = self.task.labels.names
        children = {
            child: holds[mine, names.index(child)]
            for child in self.task.labels.descendants(label)
        }
        ids = self.task.token_ids[mine]
        absorbers = []
        for place in np.argsort(-counts, kind="stable"):
            latent = int(latents[place])
            kinds = children | self._token(latent, codes, ids)
            child = child_of(latent, codes, kinds)
            absorbers.append(Absorber(latent, int(counts[place]), child))
        return absorbers

    def _token(
        self, latent: int, codes: csc_matrix, ids: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The token that a latent fires on most often: where each is it."""
        at = slice(codes.indptr[latent], codes.indptr[latent + 1])
        fired = ids[codes.indices[at]]
        if len(fired) == 0:
            return {}
        most = int(np.bincount(fired).argmax())
        return {f"'{self.task.shown(most)}'": ids == most}

    def _shares(
        self,
        probed: np.ndarray,
        by_any: Absorbed,
        by_one: Absorbed,
        absorbers: list[Absorber],
    ) -> dict[str, Ratio]:
        """Shares of the tokens on which the label holds and the dense probe says so."""
        part = self.task.second
        blocks, n = part.documents[probed], part.n_documents
        of_children = [a.latent for a in absorbers if a.child is not None]
        terms = {
            "silent": by_one.silent,
            "taken": by_one.absorber != NONE,
            "taken_by_child": np.isin(by_one.absorber, of_children),
            "absorption": by_any.absorber != NONE,
            "absorption_fraction": by_any.fraction,
        }
        below = np.bincount(blocks, minlength=n).astype(float)
        return {
            figure: Ratio(np.bincount(blocks, weights=one, minlength=n), below)
            for figure, one in terms.items()
        }

    def _shuffled(self, i: int) -> tuple[Ratio, Ratio]:
        """F1 of the best single latent and of the probe of a few, all on shuffled labels."""
        first, second = (holds[:, i] for holds in self.task.shuffled)
        probe = k_sparse_probes(self.first, first, [k for k in KS if k <= FEW])[FEW]
        fires = self._fires(self.shuffled_singles[i])
        said = probe.predict(self.second)
        return self.task.f1(fires, second), self.task.f1(said, second)
