"""Camel's coresets: a batch reduced to weighted rows, and rows of many batches merged and reduced again and again.

A reduce keeps, of each class, the rows that stand best for the others, and moves the weight of those that go to their
nearest kept row. What all reduces together may have cost is known at any time: the cover costs of the reduces add up to
a bound on the distance between everything that was ever absorbed and what stands for it now.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.coverage import Float32
from stepwell.prepare.select import Coverage, Selection, Selector
from stepwell.prepare.select.searches import Search, quotas
from stepwell.prepare.select.solvers import Lazy

__all__ = ["Merge", "delta_cover", "merge_reduce", "quotas", "select_coreset"]


def select_coreset(
    z: npt.NDArray[np.floating], y: Ids | None = None, budget: int | float = 0.1, *, proportional: bool = False
) -> Selection:
    """Choose weighted rows of a batch whose weighted mean loss is near the batch's, whatever the parameters.

    Guarantee: `|mean loss of the batch - weighted mean loss of the rows| <= lipschitz * cover`, for losses that are
    Lipschitz in `z` for a fixed label, once each class has a row, which a budget of at least one a class ensures.

    Args:
        z: One vector a row, `[N, D]`: the rows themselves in the paper's setting.
        y: Class of each row; None makes one class of all (regression: bins of the target).
        budget: Rows to keep: a count, or a share between 0 and 1.
        proportional: Split the budget by class size, instead of spending it where it helps most.

    Cost:
        `2 n_c^2 D` operations and `4 n_c^2` bytes a class (all classes at once unless `proportional`), then about ten
        passes over a class a row kept.

    References:
        Li, Shen, Chen, "Camel: managing data for efficient stream learning", SIGMOD 2022, coreset selection.

    Example:
        >>> found = select_coreset(np.array([[0.0], [0.1], [0.3], [0.4], [9.0]]), None, 2)
        >>> found.index.tolist(), found.weight.tolist(), round(found.cover, 3)
        ([2, 4], [4.0, 1.0], 0.12)
    """
    return Selector(search=Coverage(share="proportional" if proportional else "global")).select(z, y, budget)


def delta_cover(z: npt.NDArray[np.floating], y: Ids, index: Ids) -> float:
    """State, pair by pair, the cover of a choice: the mean distance to the nearest chosen row of the class.

    A row whose class has none counts the largest distance of the batch. The slow twin of `Selection.cover`.
    """
    z = np.asarray(z, np.float64).reshape(len(z), -1)
    pair = np.sqrt(((z[:, None] - z[None]) ** 2).sum(-1))
    pair[y[:, None] != y[None]] = pair.max(initial=0.0)
    return float(pair[:, index].min(1).mean()) if len(index) else float(pair.max(initial=0.0))


@dataclass(frozen=True, slots=True)
class Merge:
    """What is left after a reduce.

    Args:
        index: Rows kept, ascending, int64 `[M]`.
        weight: What each stands for now, float64 `[M]`.
        cost: Sum over what went of its weight times the distance to the row that stands for it now.
        counts: Rows kept of each class, by class.
    """

    index: Ids
    weight: npt.NDArray[np.float64]
    cost: float
    counts: dict[int, int] = field(default_factory=dict)


def merge_reduce(
    z: Float32,
    y: Ids,
    weight: npt.NDArray[np.float64],
    capacity: int,
    search: Search | None = None,
    block: int = 2048,
) -> Merge:
    """Reduce weighted rows to `capacity`: equal quotas (water-filling), facility location inside each class.

    Guarantee: weights of a class that keeps a row sum to what they were (with fewer places than classes, the last
    classes keep none). If S1 is what a reduce left of P1, and S2 of S1 with new rows
    B, then the distance of P1 and B to S2 is at most the sum of both costs; so the running sum of the costs bounds the
    distance between all rows ever absorbed and what stands for them (`Differs:` the bound is ours).

    Args:
        z: Vectors of kept and new rows together, float32 `[P, D]`.
        y: Their classes.
        weight: What each stands for.
        capacity: Rows to keep at most.
        search: How a class's rows are chosen; greedy facility location if None.
        block: Rows of a class that are looked at together; a larger class is cut in parts, in order, and both
            guarantees stay.

    Cost:
        `2 P block D` operations and `4 block^2` bytes.

    References:
        Li, Shen, Chen, "Camel", SIGMOD 2022, buffer update; Har-Peled, Mazumdar, "On coresets for k-means and k-median
        clustering", STOC 2004, for merge and reduce.
    """
    if capacity < 1:
        raise InvalidValueError("capacity", capacity, "at least 1 row")
    classes, sizes = np.unique(y, return_counts=True)
    if len(z) <= capacity:
        counts = {int(c): int(n) for c, n in zip(classes, sizes, strict=True)}
        return Merge(np.arange(len(z)), weight.astype(np.float64), 0.0, counts)
    selector = Selector(search=search or Coverage(Lazy()), by_class=False)
    mass, cost, counts = np.zeros(len(z)), 0.0, dict[int, int]()
    for label, share in zip(classes, quotas(sizes, capacity), strict=True):
        rows = np.flatnonzero(y == label)
        if not share:
            continue
        parts = np.array_split(rows, min(-(-len(rows) // block), int(share)))
        shares = quotas(np.array([len(part) for part in parts]), int(share))
        for part, places in zip(parts, shares, strict=True):
            if places >= len(part):
                mass[part] = weight[part]
                continue
            found = selector.select(z[part], None, int(places), weight[part])
            mass[part] = np.bincount(found.owner, weights=weight[part], minlength=len(part))
            cost += found.cover * float(weight[part].sum())
        counts[int(label)] = int((mass[rows] > 0).sum())
    index = np.flatnonzero(mass > 0)
    return Merge(index, mass[index], cost, counts)
