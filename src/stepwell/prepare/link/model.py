"""The Fellegi-Sunter model: how much each degree of agreement speaks for a match, learned with or without labels.

A pair's comparisons fall into levels; level k of a comparison has probability m[k] among matches and u[k] among the
other pairs, and ln(m / u) is its weight. Expectation maximisation finds m, u and the share of matches together. Two
things differ from the textbook, and both were measured to matter most:

* where a row can have one partner only (two clean tables), the pairs of a row compete. The expectation is then the
  marginal of a matching, found by belief propagation, instead of one logistic function per pair;
* levels are a fine grid, and m / u must not fall as the similarity rises, so nobody has to choose where levels end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.link import kernels
from stepwell.prepare.link.text import Floats

Unique = Literal["neither", "left", "right", "both"]
ENOUGH = 20
"""Labelled matches from which labels set more than their own pairs: the prior, the factors, the threshold."""
_LARGEST = 35.0  # of a log weight: exp stays finite and products of messages keep their digits
_EQUAL = 1 - 1e-6  # full agreement, but for rounding
_PRIOR = 2.0  # pseudo-pairs of the Dirichlet prior, per level


@dataclass(frozen=True)
class Settings:
    """How the model is fitted.

    Args:
        unique: Of which table a row has one partner at most: both if each is free of duplicates.
        levels: How many levels of equal width a similarity has, at least 2; full agreement is one more.
        cuts: Where levels end instead, ascending, for all comparisons.
        monotone: Whether m / u may not fall with the similarity.
        rounds: Rounds of expectation maximisation at most.
        tolerance: Stop when no probability moves by more.

    Raises:
        InvalidValueError: If a setting is out of range.
    """

    unique: Unique = "neither"
    levels: int = 25
    cuts: tuple[float, ...] | None = None
    monotone: bool = True
    rounds: int = 80
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.unique not in ("neither", "left", "right", "both"):
            raise InvalidValueError("unique", self.unique, "'neither', 'left', 'right' or 'both'")
        if self.levels < 2:
            raise InvalidValueError("levels", self.levels, "at least 2")
        if self.rounds < 1:
            raise InvalidValueError("rounds", self.rounds, "at least 1")
        if self.cuts is not None and list(self.cuts) != sorted(set(self.cuts)):
            raise InvalidValueError("cuts", self.cuts, "ascending")

    @property
    def edges(self) -> Floats:
        """Where levels end, ascending; a similarity at an edge belongs to the level above."""
        if self.cuts is not None:
            return np.array(self.cuts, np.float64)
        return np.array([*(k / self.levels for k in range(1, self.levels)), _EQUAL], np.float64)


@dataclass(frozen=True)
class FellegiSunter:
    """A fitted model.

    Args:
        names: The comparisons, `C`.
        edges: Where levels end, `K - 1` ascending similarities.
        m: Probability of each level among matches, `[C, K]`.
        u: Probability of each level among other pairs, `[C, K]`.
        prior: Log odds of a match before any comparison.
        scale: Factor on each comparison's weight, `[C]`; 1 unless labels showed that comparisons repeat each other.
    """

    names: tuple[str, ...]
    edges: Floats
    m: Floats
    u: Floats
    prior: float
    scale: Floats

    def weights(self, similarity: Floats, rarity: Floats) -> Floats:
        """Return the log weight of each comparison of each pair, `[P, C]`; 0 where a value is missing."""
        table = np.log(self.m) - np.log(self.u)
        found = np.zeros(similarity.shape)
        for c in range(len(self.names)):
            level = levels_of(similarity[:, c], self.edges)
            known = level >= 0
            found[known, c] = table[c, level[known]]
        return np.asarray((found + rarity * (similarity == 1)) * self.scale)

    def table(self) -> pa.Table:
        """Return `comparison, begin, end, m, u, weight_bits`, a row per comparison and level."""
        begins, ends = np.append(0.0, self.edges), np.append(self.edges, 1.0)
        count = len(begins)
        bits = (np.log2(self.m) - np.log2(self.u)) * self.scale[:, None]
        return pa.table(
            {
                "comparison": np.repeat(self.names, count),
                "begin": np.tile(begins, len(self.names)),
                "end": np.tile(ends, len(self.names)),
                "m": self.m.ravel(),
                "u": self.u.ravel(),
                "weight_bits": bits.ravel(),
            }
        )


@dataclass(frozen=True)
class Fit:
    """What fitting found.

    Args:
        model: The model.
        weight: Log odds of each pair by its comparisons and the prior alone.
        probability: That the pair is a match, competition included.
        likelihood: Penalised log likelihood after each round; of pairs that compete it is not kept.
        rounds: Rounds until it settled.
    """

    model: FellegiSunter
    weight: Floats
    probability: Floats
    likelihood: tuple[float, ...]
    rounds: int


def fit(
    similarity: Floats,
    rarity: Floats,
    rows: tuple[Ids, Ids],
    names: Sequence[str],
    settings: Settings | None = None,
    labels: npt.NDArray[np.int8] | None = None,
) -> Fit:
    """Fit the model to pairs.

    Args:
        similarity: `[P, C]` in [0, 1], NaN where a value is missing (such a comparison says nothing).
        rarity: `[P, C]`, added to the weight of full agreement.
        rows: Left and right row of each pair.
        names: The comparisons.
        settings: How to fit.
        labels: 1 for a known match, 0 for a known other pair, -1 for the rest. They are kept fixed; 20 matches among
            them also set the prior and one factor per comparison, by a logistic regression drawn towards 1.

    Raises:
        DataError: If no pair has any similarity.

    Cost: O(rounds x P x C); memory a few arrays of `[P, C]`.

    References:
        I. Fellegi, A. Sunter, "A theory for record linkage", 1969. W. Winkler, "Using the EM algorithm for weight
        computation in the Fellegi-Sunter model", 1988. M. Sadinle, "Bayesian estimation of bipartite matchings for
        record linkage", 2017 (the prior over matchings). R. Dykstra et al., "Inference for likelihood ratio ordering",
        1995 (the ordered levels).
        Differs: marginals of the matching by belief propagation, not by sampling.
    """
    settings = settings or Settings()
    if not len(similarity) or np.isnan(similarity).all():
        raise DataError("linkage", "no pair can be compared", "a pair with a value in both rows", "widen the blocks")
    problem = _Problem(similarity, rarity, rows, settings, labels)
    probability = problem.seeds()
    share = float(np.clip(probability.mean(), 1e-6, 0.5))
    trace: list[float] = []
    rounds = 0
    while rounds < settings.rounds:
        rounds += 1
        m, u = problem.maximise(probability, share)
        weight = problem.weigh(m, u) + problem.prior(probability)
        if settings.unique == "neither":
            trace.append(problem.likelihood(weight, m, u, probability, share))
        moved, probability = probability, problem.expect(weight)
        if np.abs(probability - moved).max() < settings.tolerance:
            break
    scale, prior = np.ones(similarity.shape[1]), problem.prior(probability)
    if labels is not None and (labels == 1).sum() >= ENOUGH and (labels == 0).any():
        scale, odds = _calibrated(problem.weights(m, u), labels)
        prior = odds + problem.competition(probability)
    weight = problem.weights(m, u) @ scale + prior
    model = FellegiSunter(tuple(names), settings.edges, m, u, float(prior), scale)
    return Fit(model, weight, problem.expect(weight), tuple(trace), rounds)


class _Problem:
    """The pairs of one fit, with what stays the same from round to round."""

    def __init__(
        self,
        similarity: Floats,
        rarity: Floats,
        rows: tuple[Ids, Ids],
        settings: Settings,
        labels: npt.NDArray[np.int8] | None,
    ) -> None:
        self.similarity, self.rarity, self.labels = similarity, rarity * (similarity == 1), labels
        self.settings, self.edges = settings, settings.edges
        self.levels = np.stack([levels_of(column, self.edges) for column in similarity.T], 1)
        self.sides = [_grouped(side) for side in rows]
        self.unique = [settings.unique in ("both", side) for side in ("left", "right")]
        alone = (np.arange(len(similarity)), np.arange(len(similarity) + 1))
        self.groups = [side if unique else alone for side, unique in zip(self.sides, self.unique, strict=True)]
        count = len(self.edges) + 1
        known = [column[column >= 0] for column in self.levels.T]
        self.usual = np.stack([(np.bincount(k, minlength=count) + 1) / (len(k) + count) for k in known])

    def seeds(self) -> Floats:
        """Begin with the pairs that agree most by mean rank, the best of their rows where rows compete."""
        ranks = np.stack([_ranks(column) for column in self.similarity.T], 1)
        score = np.nansum(ranks, 1) / np.maximum(1, (~np.isnan(ranks)).sum(1))
        best = np.ones(len(score), bool)
        for (order, bounds), unique in zip(self.sides, self.unique, strict=True):
            if unique:
                top = np.maximum.reduceat(score[order], bounds[:-1])
                best[order] &= score[order] >= np.repeat(top, np.diff(bounds))
        share = 0.5 if all(self.unique) else 0.05
        border = np.quantile(score[best], 1 - share)
        return self._known(np.where(best & (score >= border), 0.9, 0.01))

    def maximise(self, probability: Floats, share: float) -> tuple[Floats, Floats]:
        """Return m and u that fit the probabilities best, under the prior and the order of the levels."""
        count = len(self.edges) + 1
        m, u = np.empty((2, self.levels.shape[1], count))
        for c, level in enumerate(self.levels.T):
            known = level >= 0
            usual = _PRIOR * count * self.usual[c]
            match = np.bincount(level[known], probability[known], count) + share * usual
            other = np.bincount(level[known], 1 - probability[known], count) + (1 - share) * usual
            if self.settings.monotone:
                total = match + other
                match = isotonic(match / total, total) * total
                other = total - match
            m[c], u[c] = match / match.sum(), other / other.sum()
        return m, u

    def weights(self, m: Floats, u: Floats) -> Floats:
        table = np.log(m) - np.log(u)
        level = np.maximum(self.levels, 0)
        found = np.take_along_axis(table.T, level, 0) if len(level) else np.empty(level.shape)
        return np.where(self.levels >= 0, found + self.rarity, 0.0)

    def weigh(self, m: Floats, u: Floats) -> Floats:
        return np.asarray(self.weights(m, u).sum(1))

    def prior(self, probability: Floats) -> float:
        """Return the log odds of a match; where rows compete, the odds that make the expected number come out."""
        matches, pairs = max(float(probability.sum()), 1e-9), len(probability)
        if not any(self.unique):
            return float(np.log(matches / pairs) - np.log1p(-min(matches / pairs, 1 - 1e-9)))
        return float(np.log(matches / pairs)) + self.competition(probability)

    def competition(self, probability: Floats) -> float:
        """Return by how much a prior must rise because rows can be taken already."""
        matches, raised = float(probability.sum()), 0.0
        for (_, bounds), unique in zip(self.sides, self.unique, strict=True):
            if unique:
                rows = len(bounds) - 1
                raised -= float(np.log(max(1 - matches / rows, 0.5 / rows)))
        return raised

    def expect(self, weight: Floats) -> Floats:
        """Return the probability of each pair."""
        weight = np.clip(weight, -_LARGEST, _LARGEST)
        if self.labels is not None:
            weight = np.where(self.labels == 1, _LARGEST, np.where(self.labels == 0, -_LARGEST, weight))
        (order_a, bounds_a), (order_b, bounds_b) = self.groups
        found = kernels.matching_marginals(np.exp(weight), order_a, bounds_a, order_b, bounds_b, 100, 1e-7)
        return self._known(np.asarray(found))

    def likelihood(self, weight: Floats, m: Floats, u: Floats, probability: Floats, share: float) -> float:
        """Return the penalised log likelihood of all pairs under independent m, u and share of matches."""
        count = m.shape[1]
        level = np.maximum(self.levels, 0)
        below = np.where(self.levels >= 0, np.take_along_axis(np.log(u).T, level, 0), 0.0).sum(1)
        rest = np.log1p(-min(probability.mean(), 1 - 1e-9))
        total = np.logaddexp(0, weight)
        if self.labels is not None:
            total = np.where(self.labels == 1, weight, np.where(self.labels == 0, 0.0, total))
        penalty = _PRIOR * count * self.usual * (share * np.log(m) + (1 - share) * np.log(u))
        return float((below + rest + total).sum() + penalty.sum())

    def _known(self, probability: Floats) -> Floats:
        if self.labels is None:
            return probability
        return np.where(self.labels >= 0, self.labels, probability)


def levels_of(similarity: Floats, edges: Floats) -> Ids:
    """Return the level of each similarity, -1 where it is NaN."""
    level = np.searchsorted(edges, similarity, side="right").astype(np.int64)
    return np.where(np.isnan(similarity), -1, level)


def isotonic(values: Floats, weights: Floats) -> Floats:
    """Return the rising sequence nearest to `values` in weighted least squares (pool adjacent violators)."""
    means, sizes, spans = [], [], []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        sizes.append(weight)
        spans.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            mean, size, span = means.pop(), sizes.pop(), spans.pop()
            means[-1] = (means[-1] * sizes[-1] + mean * size) / (sizes[-1] + size)
            sizes[-1] += size
            spans[-1] += span
    return np.repeat(means, spans)


def _ranks(values: Floats) -> Floats:
    """Return the mid-rank of each value as a share of all, NaN where it is missing."""
    known = ~np.isnan(values)
    found = np.full(len(values), np.nan)
    _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    found[known] = (np.cumsum(counts) - counts / 2)[place] / max(1, known.sum())
    return found


def _grouped(rows: Ids) -> tuple[Ids, Ids]:
    """Return the pairs ordered by row, and where each row's begin."""
    order = np.argsort(rows, kind="stable")
    _, counts = np.unique(rows, return_counts=True)
    return order, np.append(0, np.cumsum(counts))


def _calibrated(weights: Floats, labels: npt.NDArray[np.int8]) -> tuple[Floats, float]:
    """Return a factor per comparison and the prior's log odds: logistic regression of labels, drawn to factors of 1."""
    known = labels >= 0
    x = np.column_stack([weights[known], np.ones(known.sum())])
    y = labels[known].astype(np.float64)
    centre = np.append(np.ones(weights.shape[1]), 0.0)
    ridge = np.append(np.full(weights.shape[1], 3.0), 1e-6)
    found = np.zeros(x.shape[1])
    best = _loss(x, y, found, centre, ridge)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -_LARGEST, _LARGEST)))
        slope = x.T @ (y - p) - ridge * (found - centre)
        curve = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curve, slope)
        while np.abs(step).max() > 1e-9 and _loss(x, y, found + step, centre, ridge) > best:
            step /= 2
        found += step
        before, best = best, _loss(x, y, found, centre, ridge)
        if before - best < 1e-9 * (1 + abs(best)):
            break
    return np.maximum(found[:-1], 0.0), float(found[-1])


def _loss(x: Floats, y: Floats, factors: Floats, centre: Floats, ridge: Floats) -> float:
    odds = x @ factors
    return float((np.logaddexp(0, odds) - y * odds).sum() + 0.5 * (ridge * (factors - centre) ** 2).sum())
