"""The label engine: what is true, and how good is each source, from votes alone (Dawid and Skene's question).

Expectation maximisation with one number a source ("one-coin") or a whole confusion matrix, chosen for each source by
what its votes make more probable. Crowds, labelling functions, models and extractors are all sources. Rules that each
say one thing share their one number, because no other model of them can be told from their votes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare.label.correlated import Merged, merge_correlated
from stepwell.prepare.label.kernels import Counts, Voters, count, expect, log_evidence
from stepwell.prepare.label.labels import Belief, Labels
from stepwell.prepare.label.one_sided import nobody, one_number
from stepwell.prepare.label.patterns import Patterns, patterns
from stepwell.prepare.label.votes import Floats, Votes

_TINY = 1e-300
_ROUNDS = 4  # choices of a model for each source; they settle after one or two
_MOST = 2.0  # times its even share that a class may have at most, for all that is known of rules' classes


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of a source before it has voted.

    Args:
        mean: Expected share of right votes, for sources with one number.
        strength: Votes that this expectation is worth.
        diagonal: Votes on the diagonal of a confusion matrix, a class, on top of `anywhere`.
        anywhere: Votes in each cell of a confusion matrix.

    Raises:
        InvalidValueError: If a number is outside its range.
    """

    mean: float = 0.7
    strength: float = 2.0
    diagonal: float = 1.0
    anywhere: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.mean < 1:
            raise InvalidValueError("mean", self.mean, "between 0 and 1")
        for name in ("strength", "diagonal", "anywhere"):
            if getattr(self, name) <= 0:
                raise InvalidValueError(name, getattr(self, name), "above 0")

    def matrix(self, classes: int) -> Floats:
        """Return the votes that a confusion matrix begins with, `[K, K]`; it is symmetric."""
        pseudo: Floats = self.anywhere + self.diagonal * np.eye(classes)
        return pseudo


@dataclass(frozen=True, slots=True)
class LabelModel:
    """Settings of the label engine; `fit` makes labels of votes.

    Guarantee: the penalised likelihood of the votes never falls from one iteration to the next (`Labels.likelihoods`);
    the result does not depend on the order of votes, sources or classes.

    Args:
        source: How a source is described: by one number, by a confusion matrix, or by whichever makes its votes more
            probable. `"auto"` gives all sources that only ever vote for one label one number together, if most votes
            come from such: how often they contradict each other tells how often they are right, and nothing tells
            them apart. If those for a label speak on more than twice its even share of the items (or on more than its
            given share), their number is lower by as much as they must be wrong. `"one-coin"` refuses such votes
            unless gold, a known accuracy or a balance other than `"auto"` comes with them: a number of its own for
            each explains them best by one class everywhere.
        balance: Share of each class: learned, uniform, or given (one number a class). `"auto"` learns it unless most
            votes come from sources that only ever vote for one label, as labelling functions do: from those it cannot
            be told, because how often a label is voted for then says who wrote the rules.
        prior: What is believed of a source beforehand.
        merge_above: Sources that say the same on more than this share of the items either votes on count as one;
            None to merge none.
        max_iterations: Most iterations of one fit.
        tolerance: A fit ends when no probability moves by more.

    Raises:
        InvalidValueError: If a setting is outside its range.

    Cost: O(V) an iteration for sources with one number, O(V K) for confusion matrices; all in memory.

    References:
        Dawid and Skene, "Maximum likelihood estimation of observer error-rates using the EM algorithm", Applied
        Statistics 28(1), 1979. Differs: priors on sources (so the posterior mode, not the maximum of the likelihood),
        and the model of each source is chosen by the Bayes factor of its expected votes under those priors, which is
        what the Bayesian information criterion approximates for many votes.

    Example:
        >>> votes = Votes.from_matrix([[0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], classes=("ham", "spam"))
        >>> LabelModel().fit(votes).names
        ['ham', 'spam', 'ham', 'spam']
    """

    source: Literal["auto", "one-coin", "confusion"] = "auto"
    balance: Literal["auto", "learned", "uniform"] | tuple[float, ...] = "auto"
    prior: Prior = Prior()
    merge_above: float | None = 0.98
    max_iterations: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.source not in ("auto", "one-coin", "confusion"):
            raise InvalidValueError("source", self.source, "'auto', 'one-coin' or 'confusion'")
        if isinstance(self.balance, str):
            if self.balance not in ("auto", "learned", "uniform"):
                raise InvalidValueError("balance", self.balance, "'auto', 'learned', 'uniform' or one share a class")
        elif min(self.balance, default=0) <= 0:
            raise InvalidValueError("balance", self.balance, "shares above 0")
        if self.merge_above is not None and not 0 < self.merge_above < 1:
            raise InvalidValueError("merge_above", self.merge_above, "between 0 and 1, or None")
        if self.max_iterations < 1 or self.tolerance <= 0:
            raise InvalidValueError("max_iterations, tolerance", (self.max_iterations, self.tolerance), "positive")

    def fit(
        self, votes: Votes, gold: Mapping[int, str] | None = None, accuracy: Mapping[str, float] | None = None
    ) -> Labels:
        """Return labels for every item of `votes`.

        Args:
            votes: Votes for labels.
            gold: Row to class, where the truth is known; it stays as it is and teaches how good the sources are.
            accuracy: Source to its share of right votes, where that is known from a test; it stays as it is.

        Raises:
            InvalidValueError: If votes are numbers, there are fewer than two classes, a known accuracy is no share, or
                `source="one-coin"` cannot tell how good the sources are.
            UnknownNameError: If `gold` names no class or `accuracy` no source.
        """
        task = self._task(votes, gold or {}, accuracy or {})
        if self.source == "one-coin" and self.balance == "auto" and not (task.is_told_balance or gold or accuracy):
            allowed = "'auto' where most votes are of sources that only ever vote for one label, or gold or a balance"
            raise InvalidValueError("source", self.source, allowed)
        start = task.start(self)
        fitted = task.run(self, start, task.first_choice(self))
        for _ in range(_ROUNDS):
            choice = task.choose(self, fitted.posterior)
            if (choice == fitted.matrix).all():
                break
            fitted = task.run(self, start, choice)
        return task.labels(fitted)

    def update(self, labels: Labels, more: Votes, gold: Mapping[int, str] | None = None) -> Labels:
        """Return labels from the votes of `labels` and `more` votes, starting from what was learned before.

        The model of each source stays as it was chosen; new sources get one number. A few iterations suffice where a
        few votes came. Votes of a source that voted on an item before replace the older ones.

        Args:
            labels: What `fit` or `update` returned.
            more: Further votes, for the same classes.
            gold: Further rows whose truth is known.

        Raises:
            InvalidValueError: If the classes differ.
            UnknownNameError: If `gold` names no class.

        Cost: as `fit`, for fewer iterations.
        """
        task = self._task(labels.votes.with_votes(more), {**labels.gold, **(gold or {})}, labels.accuracy)
        matrix = np.zeros(len(task.all.sources), bool)
        matrix[: len(labels.belief.matrix)] = labels.belief.matrix
        return task.labels(task.run(self, task.start(self, labels.belief), matrix & task.may_have_matrix))

    def _task(self, votes: Votes, gold: Mapping[int, str], accuracy: Mapping[str, float]) -> _Task:
        if len(votes.classes) < 2:
            raise InvalidValueError("votes.classes", votes.classes, "at least two; numbers have `NumberModel`")
        if not isinstance(self.balance, str) and len(self.balance) != len(votes.classes):
            raise InvalidValueError("balance", self.balance, f"{len(votes.classes)} shares, one a class")
        merged = Merged(votes, np.arange(len(votes.sources)))
        if self.merge_above is not None:
            merged = merge_correlated(votes, self.merge_above)
        return _Task(self, votes, merged, dict(gold), dict(accuracy))


@dataclass(frozen=True, eq=False)
class _Fitted:
    posterior: Floats
    counts: Counts
    voters: Voters
    balance: Floats
    matrix: npt.NDArray[np.bool_]
    likelihoods: tuple[float, ...]


class _Task:
    """The votes of one fit, each pattern of them once, with what is fixed."""

    def __init__(
        self, model: LabelModel, votes: Votes, merged: Merged, gold: dict[int, str], accuracy: dict[str, float]
    ) -> None:
        self.all, self.merged, self.votes = votes, merged, merged.votes
        self.given_gold, self.given_accuracy = gold, accuracy
        self.classes = len(votes.classes)
        self.gold = _gold(votes, gold)
        self.known_hit = np.full(len(votes.sources), -1.0)
        for name, share in accuracy.items():
            if name not in votes.sources:
                raise UnknownNameError("source", name, votes.sources)
            if not 0 < share < 1:
                raise InvalidValueError(f"accuracy[{name!r}]", share, "between 0 and 1")
            self.known_hit[merged.leader[votes.sources.index(name)]] = share
        self.patterns = patterns(self.votes, self.gold)
        sided = self.votes.one_sided[self.votes.source]
        self.is_told_balance = 2 * int(sided.sum()) < len(sided)
        self.shared = nobody(len(votes.sources))
        if model.source == "auto" and not self.is_told_balance:
            even = np.full(self.classes, 1 / self.classes)
            given = None if isinstance(model.balance, str) else self._balance(model, even)[0]
            balance, most = (even, _MOST * even) if given is None else (given, given)
            self.shared = one_number(self.votes, self.known_hit > 0, balance, most)
        self.may_have_matrix: npt.NDArray[np.bool_] = (self.known_hit < 0) & ~self.shared.which

    def start(self, model: LabelModel, belief: Belief | None = None) -> Floats:
        """Return the probabilities that a fit begins with, `[P, K]`.

        They are what an earlier belief makes of the votes if there is one; else what is known beforehand makes of them
        if there is gold or a known accuracy; else the shares of the votes.
        """
        shares = _fractions(self.patterns, self.classes)
        sources = len(self.votes.sources)
        if belief is None and not self.given_gold and not self.given_accuracy:
            return shares
        slot, tables, hit = np.full(sources, -1), np.empty((0, self.classes, self.classes)), self.known_hit
        balance = np.full(self.classes, 1 / self.classes)
        if belief is None:
            certain = self.patterns.gold >= 0
            taught = replace(self.patterns, weight=self.patterns.weight * certain)
            right = count(taught, slot, shares).right
            size = count(taught, slot, np.ones_like(shares)).right
            own = (right + model.prior.mean * model.prior.strength) / (size + model.prior.strength)
        else:
            old = len(belief.leader)
            slot[:old] = np.arange(old)
            tables = np.log(np.maximum(belief.says, _TINY)).transpose(0, 2, 1).copy()
            own = np.full(sources, model.prior.mean)
            balance = belief.balance
        hit = np.where(hit > 0, hit, own)
        voters = Voters(np.log(hit), np.log1p(-hit) - np.log(self.classes - 1), slot, tables)
        expect(self.patterns, voters, np.log(balance), shares)
        return shares

    def first_choice(self, model: LabelModel) -> npt.NDArray[np.bool_]:
        """Return which sources begin with a confusion matrix.

        Sources with fewer votes than classes never have one, so that all matrices together have at most V K cells.
        """
        able: npt.NDArray[np.bool_] = self.may_have_matrix & (self.votes.per_source >= self.classes)
        return able if model.source != "one-coin" else np.zeros_like(able)

    def choose(self, model: LabelModel, posterior: Floats) -> npt.NDArray[np.bool_]:
        """Return which sources' votes are more probable with a confusion matrix than with one number."""
        able = self.first_choice(model)
        if model.source != "auto":
            return able
        prior, wrong = model.prior, self.classes - 1
        tables = count(self.patterns, _slots(able), posterior).tables
        total = tables.sum((1, 2))
        right = np.einsum("skk->s", tables)
        pseudo = np.array([prior.mean, 1 - prior.mean]) * prior.strength
        one = log_evidence(np.stack([right, total - right], 1), pseudo) - (total - right) * np.log(wrong)
        full = np.zeros(len(tables))
        for k, row in enumerate(prior.matrix(self.classes)):
            full += log_evidence(np.ascontiguousarray(tables[:, :, k]), row)
        able[able] = full > one
        return able

    def run(self, model: LabelModel, start: Floats, matrix: npt.NDArray[np.bool_]) -> _Fitted:
        """Iterate to the nearest maximum of the penalised likelihood."""
        slot = _slots(matrix)
        posterior = start.copy()
        counts = count(self.patterns, slot, posterior)
        trace: list[float] = []
        for _ in range(model.max_iterations):
            voters, penalty = self._voters(model.prior, slot, counts)
            balance, balance_penalty = self._balance(model, posterior)
            likelihood, change, counts = expect(self.patterns, voters, np.log(balance), posterior)
            trace.append(likelihood + penalty + balance_penalty)
            if change < model.tolerance:
                break
        return _Fitted(posterior, counts, voters, balance, matrix, tuple(trace))

    def _voters(self, prior: Prior, slot: Ids, counts: Counts) -> tuple[Voters, float]:
        """Return the most probable belief given the counts, and the log of its prior density."""
        single = (slot < 0) & (self.votes.per_source > 0) & ~self.shared.which
        common, of_shared = self.shared.accuracy(counts.right, self.votes.per_source, prior.mean, prior.strength)
        hit = (counts.right + prior.mean * prior.strength) / (self.votes.per_source + prior.strength)
        hit = np.where(self.shared.which, of_shared, hit)
        hit = np.where(self.known_hit > 0, self.known_hit, hit)
        right, wrong = np.log(hit), np.log1p(-hit)
        penalty = prior.strength * float((prior.mean * right + (1 - prior.mean) * wrong)[single].sum())
        penalty += prior.strength * float(prior.mean * np.log(common) + (1 - prior.mean) * np.log1p(-common))
        pseudo = prior.matrix(self.classes)
        tables = counts.tables + pseudo
        tables = np.log(tables / tables.sum(1, keepdims=True))
        penalty += float((pseudo * tables).sum())
        return Voters(right, wrong - np.log(self.classes - 1), slot, tables), penalty

    def _balance(self, model: LabelModel, posterior: Floats) -> tuple[Floats, float]:
        if not isinstance(model.balance, str):
            given = np.asarray(model.balance, np.float64)
            return given / given.sum(), 0.0
        if model.balance == "uniform" or (model.balance == "auto" and not self.is_told_balance):
            return np.full(self.classes, 1 / self.classes), 0.0
        mass = self.patterns.weight @ posterior + 1.0  # one imagined item a class keeps every class possible
        share = mass / mass.sum()
        return share, float(np.log(share).sum())

    def labels(self, fitted: _Fitted) -> Labels:
        """Return what callers see."""
        leader = self.merged.leader
        tables = np.zeros((len(leader), self.classes, self.classes))
        for who in range(len(leader)):
            slot = fitted.voters.slot[who]
            if slot >= 0:
                tables[who] = np.exp(fitted.voters.tables[slot]).T
            else:
                tables[who] = np.exp(fitted.voters.miss[who])
                np.fill_diagonal(tables[who], np.exp(fitted.voters.hit[who]))
        belief = Belief(tables[leader], fitted.balance, fitted.matrix[leader], leader)
        gold, accuracy = self.given_gold, self.given_accuracy
        return Labels(self.all, fitted.posterior[self.patterns.of], belief, fitted.likelihoods, gold, accuracy)


def _gold(votes: Votes, gold: Mapping[int, str]) -> Ids:
    place = {name: number for number, name in enumerate(votes.classes)}
    known = np.full(len(votes.rows), -1, np.int64)
    for row, name in gold.items():
        if name not in place:
            raise UnknownNameError("class", name, votes.classes)
        at = int(np.searchsorted(votes.rows, row))
        if at < len(votes.rows) and votes.rows[at] == row:
            known[at] = place[name]
    return known


def _fractions(patterns: Patterns, classes: int) -> Floats:
    """Return the share of each pattern's votes, gold as it is, uniform where nothing is known."""
    owner = np.repeat(np.arange(len(patterns.gold)), np.diff(patterns.indptr))
    cells = np.bincount(owner * classes + patterns.label, minlength=len(patterns.gold) * classes)
    shares = cells.reshape(-1, classes).astype(np.float64)
    total = shares.sum(1, keepdims=True)
    shares = np.where(total > 0, shares / np.maximum(total, 1), 1 / classes)
    known = patterns.gold >= 0
    shares[known] = np.eye(classes)[patterns.gold[known]]
    return shares


def _slots(matrix: npt.NDArray[np.bool_]) -> Ids:
    return np.where(matrix, np.cumsum(matrix) - 1, -1).astype(np.int64)


def majority(votes: Votes) -> Floats:
    """Return the share of each item's votes that each class got, `[N, K]`; uniform where an item has none.

    Raises:
        InvalidValueError: If votes are numbers.
    """
    if len(votes.classes) < 2:
        raise InvalidValueError("votes.classes", votes.classes, "at least two")
    found = patterns(votes, np.full(len(votes.rows), -1))
    shares: Floats = _fractions(found, len(votes.classes))[found.of]
    return shares
