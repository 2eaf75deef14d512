"""Test-then-train scores: every row is answered before it is learnt, so a stream needs no held-out set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.core.state import Json, StateReader, StateWriter


@dataclass(frozen=True, slots=True)
class Scores:
    """What test-then-train found so far.

    Args:
        rows: Rows answered.
        accuracy: Share of right answers over the whole stream; of a regression, minus the mean squared error.
        recent: The same, with the weight of a row fading by half every `half_life` rows.
        balanced: Mean over the classes of the share of right answers; of a regression, as `accuracy`.
        kappa: Cohen's kappa: 0 for answering by the classes' shares alone, 1 for always right; 0 for a regression.
    """

    rows: int
    accuracy: float
    recent: float
    balanced: float
    kappa: float


class Prequential:
    """Counts answers against truths; constant memory.

    Args:
        half_life: Rows after which a row counts half in `recent`.
    """

    def __init__(self, half_life: int = 1000) -> None:
        if half_life < 1:
            raise InvalidValueError("half_life", half_life, "at least 1")
        self.half_life = half_life
        self._table: npt.NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._rows, self._score, self._fading, self._mass = 0, 0.0, 0.0, 0.0

    def add(self, answer: npt.NDArray[np.generic], truth: npt.NDArray[np.generic]) -> float:
        """Count a batch and return its mean error: the share of wrong answers, or the mean squared error."""
        if truth.dtype.kind == "f":
            score = -np.square(answer.astype(np.float64).reshape(truth.shape) - truth.astype(np.float64))
        else:
            a, t = answer.astype(np.int64), truth.astype(np.int64)
            score = (a == t).astype(np.float64)
            self._grow(max(int(a.max()), int(t.max())) + 1)
            np.add.at(self._table, (t, a), 1)
        fade = 0.5 ** (np.arange(len(score))[::-1] / self.half_life)
        whole = 0.5 ** (len(score) / self.half_life)
        self._fading = self._fading * whole + float((fade * score).sum())
        self._mass = self._mass * whole + float(fade.sum())
        self._rows += len(score)
        self._score += float(score.sum())
        return float(1.0 - score.mean()) if truth.dtype.kind != "f" else float(-score.mean())

    def _grow(self, size: int) -> None:
        grow = size - len(self._table)
        if grow > 0:
            self._table = np.pad(self._table, ((0, grow), (0, grow)))

    @property
    def confusion(self) -> Ids:
        """Rows of each true class (down) by answer (across)."""
        return self._table

    def scores(self) -> Scores:
        """Return the scores so far; zeros before the first row."""
        if not self._rows:
            return Scores(0, 0.0, 0.0, 0.0, 0.0)
        accuracy, recent = self._score / self._rows, self._fading / self._mass
        if not len(self._table):
            return Scores(self._rows, accuracy, recent, accuracy, 0.0)
        truths, answers = self._table.sum(1), self._table.sum(0)
        seen = truths > 0
        balanced = float((np.diag(self._table)[seen] / truths[seen]).mean())
        chance = float((truths / self._rows * (answers / self._rows)).sum())
        kappa = (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
        return Scores(self._rows, accuracy, recent, balanced, kappa)

    def save(self, writer: StateWriter) -> None:
        """Write the counts so far."""
        writer.tensor("confusion", self._table)
        writer.value("sums", cast("Json", [self._rows, self._score, self._fading, self._mass]))

    def load(self, reader: StateReader) -> None:
        """Go on from the counts that `save` wrote."""
        self._table = reader.tensor("confusion").numpy().copy()
        rows, self._score, self._fading, self._mass = cast("list[float]", reader.value("sums"))
        self._rows = int(rows)
