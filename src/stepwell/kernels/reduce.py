"""Which row of a batch counts when several write the same place: the last one."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.unique import unique_inverse


def last_wins(ids: Ids, order: npt.NDArray[np.number] | None = None) -> tuple[Ids, Ids]:
    """Return the distinct ids and the row that wins each of them.

    Guarantee: the winner has the largest `order`; among equals, and without `order`, it is the last row. So a write
    of the winners' values gives what writing every row one by one in that order would.

    Args:
        ids: What is written, int64 `[S]`.
        order: When it is written (times), `[S]`, or None for row order.

    Returns:
        Distinct ids in order of first appearance, and the winners' rows, int64 `[U]` each.

    Raises:
        InvalidValueError: If the lengths differ.

    Cost:
        O(S) on average.

    References:
        Rossi et al., 2020, arXiv:2006.10637, section 3.1: the "last message" aggregator.
    """
    unique, inverse = unique_inverse(ids)
    rows = np.full(len(unique), -1, np.int64)
    if order is None:
        rows[inverse] = np.arange(len(inverse))
        return unique, rows
    order = np.ascontiguousarray(order)
    if len(order) != len(inverse):
        raise InvalidValueError("order", len(order), f"as long as ids ({len(inverse)})")
    _largest(inverse, order, rows)
    return unique, rows


@numba.njit(cache=True, nogil=True)
def _largest(inverse, order, rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for i in range(len(inverse)):
        best = rows[inverse[i]]
        if best < 0 or order[i] >= order[best]:
            rows[inverse[i]] = i
