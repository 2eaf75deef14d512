"""What the label engine found: a probability for each item and class, and a report on each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import StateReader, StateWriter
from stepwell.prepare.label.votes import Floats, Votes


@dataclass(frozen=True, eq=False)
class Belief:
    """What was learned of the sources and classes.

    Args:
        says: Probability that a source says a label, given that it speaks and the class, `[m, K, K]`, class first.
        balance: Share of each class, `[K]`.
        matrix: Which sources have a confusion matrix of their own, `[m]`.
        leader: The source each source speaks through; itself unless it was merged as a copy, `[m]`.
    """

    says: Floats
    balance: Floats
    matrix: npt.NDArray[np.bool_]
    leader: Ids

    @cached_property
    def accuracy(self) -> Floats:
        """Probability that a source's vote is right, were all classes equally frequent, `[m]`."""
        found: Floats = np.einsum("skk->s", self.says) / self.says.shape[1]
        return found

    @cached_property
    def weight(self) -> Floats:
        """Log odds of a source's vote against one wrong label, `[m]`; negative if it is worse than chance."""
        right = np.clip(self.accuracy, 1e-12, 1 - 1e-12)
        found: Floats = np.log(right * (self.says.shape[1] - 1) / (1 - right))
        return found


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels as probabilities, with what they rest on.

    Args:
        votes: The votes, copies included.
        probabilities: Of each class for each item, `[N, K]`, each row summing to 1.
        belief: What was learned of the sources.
        likelihoods: Penalised log likelihood of the votes at each iteration.
        gold: Row to class where the truth was given.
        accuracy: Source to its share of right votes where that was given.
    """

    votes: Votes
    probabilities: Floats
    belief: Belief
    likelihoods: tuple[float, ...]
    gold: Mapping[int, str]
    accuracy: Mapping[str, float]

    @property
    def rows(self) -> Ids:
        """Ids of the items, ascending, `[N]`."""
        return self.votes.rows

    @property
    def names(self) -> list[str]:
        """The most probable class of each item; the first of equals."""
        return [self.votes.classes[number] for number in self.probabilities.argmax(1)]

    @property
    def weights(self) -> Floats:
        """How much each item should count in training, `[N]`: 0 where nothing is known, 1 where all is."""
        chance = 1 / self.probabilities.shape[1]
        found: Floats = np.clip((self.probabilities.max(1) - chance) / (1 - chance), 0, 1)
        return found

    def table(self, *, covered: bool = True) -> pa.Table:
        """Return `_row`, `label`, `label_prob`, `weight`, and `probabilities` in the order of the classes.

        Args:
            covered: Leave out items that have neither a vote nor gold.
        """
        classes = pa.array(self.votes.classes, pa.string())
        kind = pa.list_(pa.float64(), len(classes))
        columns = {
            "_row": pa.array(self.rows),
            "label": classes.take(pa.array(self.probabilities.argmax(1))),
            "label_prob": pa.array(self.probabilities.max(1)),
            "weight": pa.array(self.weights),
            "probabilities": pa.FixedSizeListArray.from_arrays(pa.array(self.probabilities.ravel()), type=kind),
        }
        table = pa.table(columns)
        return table.filter(pa.array(self.covered)) if covered else table

    @cached_property
    def covered(self) -> npt.NDArray[np.bool_]:
        """Which items have a vote or gold, `[N]`."""
        known: npt.NDArray[np.bool_] = np.diff(self.votes.indptr) > 0
        return known | np.isin(self.rows, np.array(list(self.gold), np.int64))

    def report(self) -> pa.Table:
        """Return one row a source: how much it said, how often it met and contradicted others, how good it is.

        Columns: `source`, `votes`, `coverage` (share of the items), `overlap` (share of its votes that are not alone),
        `conflict` (share of its votes that another contradicts), `model` (`"one number"`, `"matrix"`, `"given"`, or
        `"copy of ..."`), `accuracy` (share of its votes that are probably right), `on_gold` (share that are right
        where the truth is known, null if it voted on none), `weight` (log odds of a vote; below 0 for a source that
        is worse than chance).

        Cost: O(V log V).
        """
        votes, belief = self.votes, self.belief
        size = np.maximum(1, votes.per_source)
        right = self.probabilities[votes.item, votes.label]
        met, contradicted = _company(votes)
        truth = _truth(self)[votes.item]
        tested = self._mean(truth >= 0, np.ones(len(truth))) * size
        correct = self._mean(truth == votes.label, np.ones(len(truth))) * size
        on_gold = [float(c / t) if t else None for c, t in zip(correct, np.rint(tested), strict=True)]
        return pa.table(
            {
                "source": pa.array(votes.sources, pa.string()),
                "votes": votes.per_source,
                "coverage": votes.per_source / max(1, len(votes.rows)),
                "overlap": self._mean(met, np.ones(len(met))),
                "conflict": self._mean(contradicted, np.ones(len(met))),
                "model": [self._model(who) for who in range(len(size))],
                "accuracy": self._mean(np.ones(len(met), bool), right),
                "on_gold": pa.array(on_gold, pa.float64()),
                "weight": belief.weight,
            }
        )

    def _model(self, who: int) -> str:
        leader = self.belief.leader[who]
        if leader != who:
            return f"copy of {self.votes.sources[leader]}"
        if self.votes.sources[who] in self.accuracy:
            return "given"
        return "matrix" if self.belief.matrix[who] else "one number"

    def _mean(self, chosen: npt.NDArray[np.bool_], values: Floats) -> Floats:
        total = np.bincount(self.votes.source, np.where(chosen, values, 0.0), minlength=len(self.votes.sources))
        share: Floats = total / np.maximum(1, self.votes.per_source)
        return share

    def save(self, writer: StateWriter) -> None:
        """Record what was learned; the votes themselves are a table of their own and are not recorded."""
        writer.tensor("probabilities", self.probabilities)
        writer.tensor("says", self.belief.says)
        writer.tensor("balance", self.belief.balance)
        writer.tensor("matrix", self.belief.matrix)
        writer.tensor("leader", self.belief.leader)
        writer.value("likelihoods", list(self.likelihoods))
        writer.value("gold", {str(row): name for row, name in self.gold.items()})
        writer.value("accuracy", dict(self.accuracy))

    @staticmethod
    def load(reader: StateReader, votes: Votes) -> Labels:
        """Return what `save` recorded, for the same votes.

        Raises:
            CheckpointError: If something is missing from the state.
            InvalidValueError: If the votes are of other items, sources or classes.
        """
        parts = {name: reader.tensor(name).numpy() for name in ("says", "balance", "matrix", "leader")}
        probabilities = reader.tensor("probabilities").numpy()
        shape = (len(votes.rows), len(votes.classes))
        if probabilities.shape != shape or len(parts["leader"]) != len(votes.sources):
            raise InvalidValueError("votes", shape, f"the votes of the saved labels, {probabilities.shape}")
        likelihoods, gold, accuracy = (reader.value(name) for name in ("likelihoods", "gold", "accuracy"))
        if not (isinstance(likelihoods, list) and isinstance(gold, dict) and isinstance(accuracy, dict)):
            raise InvalidValueError("reader", "another state", "the state of labels")
        return Labels(
            votes,
            probabilities,
            Belief(parts["says"], parts["balance"], parts["matrix"], parts["leader"]),
            tuple(float(str(value)) for value in likelihoods),
            {int(row): str(name) for row, name in gold.items()},
            {name: float(str(value)) for name, value in accuracy.items()},
        )


def _company(votes: Votes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which votes are not alone on their item, and which of them another vote contradicts."""
    total = np.diff(votes.indptr)[votes.item]
    key = votes.item * max(1, len(votes.classes)) + votes.label
    _, inverse, alike = np.unique(key, return_inverse=True, return_counts=True)
    return total > 1, alike[inverse] < total


def _truth(labels: Labels) -> Ids:
    place = {name: number for number, name in enumerate(labels.votes.classes)}
    known = np.full(len(labels.rows), -1, np.int64)
    for row, name in labels.gold.items():
        known[labels.rows == row] = place[name]
    return known
