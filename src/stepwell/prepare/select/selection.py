"""What a selector answers: rows and how much each counts, never a copy of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a set, each with the weight of all rows that it stands for.

    Guarantee: no row twice, and all weights sum to those of the whole set. A weight counts the rows that its row stands
    for, unless the search has weights of its own (`moved` is above 0 then).

    Args:
        index: Positions of the chosen rows, int64 `[M]`, in the order in which they were chosen.
        weight: What each stands for, float32 `[M]`.
        cover: Mean distance of a row to the chosen row that stands for it, in the space of the selector.
        radius: Largest such distance.
        owner: The chosen position that stands for each row, int64 `[N]`.
        evaluations: Gains that the search computed, 0 where it has none.
        moved: What it costs at most, in mean distance, to move the counts of the rows to their weights; 0 where weights
            are counts.
        gap: Distance of the weighted mean of the chosen rows to the mean of all, in the space of the selector: where
            rows are gradients, the error of the gradient. At most `cover + moved`.
    """

    index: Ids
    weight: npt.NDArray[np.float32]
    cover: float
    radius: float
    owner: Ids
    evaluations: int = 0
    moved: float = 0.0
    gap: float = 0.0

    def __len__(self) -> int:
        return len(self.index)

    @property
    def mean_one(self) -> npt.NDArray[np.float32]:
        """The weights scaled to mean 1, as a weighted loss wants them."""
        return np.asarray(self.weight / self.weight.mean(dtype=np.float64), np.float32)

    def loss_bound(self, lipschitz: float) -> float:
        """Return how far the weighted mean loss of the chosen rows can be from the mean loss of all.

        Holds for any parameters for which the loss of a row with its label is `lipschitz` in the selector's space, if
        every class has a chosen row. The same holds for gradients with their own constant.

        Raises:
            InvalidValueError: If some row has no chosen row of its class; no bound holds then.
        """
        if len(self.owner) and self.owner.min() < 0:
            raise InvalidValueError("budget", len(self), "at least one row a class, or no bound holds")
        return lipschitz * (self.cover + self.moved)

    def table(self, rows: Ids | None = None) -> pa.Table:
        """Return the selection as a table: `_row`, `weight`, `rank` (order of choice), sorted by `_row`.

        Args:
            rows: The `_row` of each row of the set; positions if None.
        """
        row = self.index if rows is None else rows[self.index]
        order = np.argsort(row, kind="stable")
        return pa.table(
            {"_row": row[order].astype(np.int64), "weight": self.weight[order], "rank": order.astype(np.int64)}
        )
