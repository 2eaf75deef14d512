"""Numbers voted by many sources: the most probable value of each item, and each source's bias and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.prepare.label.votes import Floats, Votes


@dataclass(frozen=True, slots=True)
class NumberModel:
    """Settings for votes that are numbers: `vote = value of the item + bias of the source + noise of the source`.

    Guarantee: the penalised likelihood never falls from one iteration to the next.

    The priors are strong on purpose. A source that always answers near the middle looks precise and is not, and the
    noise of an item looks like that of its sources; so a source must vote often before it counts differently. With
    `noise_strength` and `bias_strength` growing, values become plain means.

    Args:
        noise_strength: Votes that the common noise is worth as a guess for each source's.
        bias_strength: Votes that "no bias" is worth.
        max_iterations: Most iterations.
        tolerance: A fit ends when no value moves by more than this share of the votes' standard deviation.

    Raises:
        InvalidValueError: If a setting is not above 0.

    Cost: O(V) an iteration.

    References:
        Raykar et al., "Learning from crowds", Journal of Machine Learning Research 11, 2010, section 5. Differs: no
        features, a bias for each source, and priors on bias and noise.

    Example:
        >>> votes = Votes.from_matrix([[1.0, 3.0], [5.0, 7.0]], classes=())
        >>> NumberModel().fit(votes).values.round(3).tolist()
        [2.0, 6.0]
    """

    noise_strength: float = 100.0
    bias_strength: float = 10.0
    max_iterations: int = 200
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("noise_strength", "bias_strength", "max_iterations", "tolerance"):
            if getattr(self, name) <= 0:
                raise InvalidValueError(name, getattr(self, name), "above 0")

    def fit(self, votes: Votes) -> Numbers:
        """Return values for every item; NaN for an item without votes.

        Raises:
            InvalidValueError: If votes are labels.
        """
        if votes.classes:
            raise InvalidValueError("votes", votes.classes, "numbers; labels have `LabelModel`")
        said, item, source = votes.number, votes.item, votes.source
        num_items, num_sources = len(votes.rows), len(votes.sources)
        per_item = np.bincount(item, minlength=num_items)
        with np.errstate(invalid="ignore"):
            value = np.bincount(item, said, num_items) / per_item
        spread = float(said.std()) if len(said) else 0.0
        common = float(np.mean((said - value[item]) ** 2)) if len(said) else 0.0
        common = max(common, 1e-12 * spread**2) or 1.0  # all votes agree: any noise does
        noise, bias, trace = np.full(num_sources, common), np.zeros(num_sources), list[float]()
        variance = np.zeros(num_items)
        for turn in range(self.max_iterations):
            if turn:
                bias, noise = self._sources(votes, value, variance, noise, common)
            weight = 1 / noise[source]
            precision = np.bincount(item, weight, num_items)
            with np.errstate(invalid="ignore", divide="ignore"):
                variance = 1 / precision
                moved = np.bincount(item, weight * (said - bias[source]), num_items) / precision
            trace.append(self._likelihood(votes, moved, variance, bias, noise, common))
            step = float(np.nanmax(np.abs(moved - value), initial=0.0)) if len(said) else 0.0
            value = moved
            if turn and step <= self.tolerance * spread:
                break
        variance = np.where(per_item > 0, variance, np.nan)
        return Numbers(votes, value, variance, bias, noise, tuple(trace))

    def _sources(
        self, votes: Votes, value: Floats, variance: Floats, noise: Floats, common: float
    ) -> tuple[Floats, Floats]:
        """Return the most probable bias of each source, and then its most probable noise."""
        source, size, num = votes.source, votes.per_source, len(votes.sources)
        rest = votes.number - value[votes.item]
        held = self.bias_strength * noise / common
        bias = np.bincount(source, rest, num) / (size + held)
        squares = np.bincount(source, (rest - bias[source]) ** 2 + variance[votes.item], num)
        return bias, (squares + self.noise_strength * common) / (size + self.noise_strength)

    def _likelihood(
        self, votes: Votes, value: Floats, variance: Floats, bias: Floats, noise: Floats, common: float
    ) -> float:
        rest = votes.number - value[votes.item] - bias[votes.source]
        of_votes = -0.5 * (np.log(noise)[votes.source] + rest**2 / noise[votes.source]).sum()
        of_items = 0.5 * np.log(variance[np.diff(votes.indptr) > 0]).sum()
        prior = -0.5 * self.noise_strength * (np.log(noise) + common / noise).sum()
        return float(of_votes + of_items + prior - 0.5 * self.bias_strength * (bias**2).sum() / common)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Values with what they rest on.

    Args:
        votes: The votes.
        values: The value of each item, NaN if nobody voted on it, `[N]`.
        variances: How uncertain each value is, `[N]`.
        bias: How much each source votes too high, `[m]`.
        noise: Variance of each source's votes around the value, `[m]`.
        likelihoods: Penalised log likelihood at each iteration, up to a constant.
    """

    votes: Votes
    values: Floats
    variances: Floats
    bias: Floats
    noise: Floats
    likelihoods: tuple[float, ...]

    @property
    def rows(self) -> Ids:
        """Ids of the items, ascending, `[N]`."""
        return self.votes.rows

    def table(self) -> pa.Table:
        """Return `_row`, `label`, `variance` of the items with votes, and a `weight` of at most 1 for training."""
        known = np.isfinite(self.values)
        variance = self.variances[known]
        weight = variance.min(initial=np.inf) / variance
        columns = {"_row": self.rows[known], "label": self.values[known], "variance": variance, "weight": weight}
        return pa.table(columns)

    def report(self) -> pa.Table:
        """Return one row a source: `source`, `votes`, `bias`, and `noise` as a standard deviation."""
        size = self.votes.per_source
        names = pa.array(self.votes.sources, pa.string())
        return pa.table({"source": names, "votes": size, "bias": self.bias, "noise": np.sqrt(self.noise)})
