"""Sums matched by few weighted rows: orthogonal matching pursuit with weights that are never below zero.

Greedy: the row that points most along what is still missing comes next, and the weights of all rows taken so far are
solved anew. With a ridge the weights stay moderate, and more rows than dimensions share the work.

Symbols beside the usual ones: `N` rows, `D` width of a row, `M` picks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stepwell.core import Ids

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
CLOSE = 1e-9
"""A gain below this share of the largest is rounding."""


class Match(NamedTuple):
    """What a matching pursuit found.

    Args:
        picks: Rows in the order in which they were picked, int64 `[M]`.
        weight: Weight of each, above 0, float64 `[M]`.
        missing: Length of what is still missing after each turn, float64 `[turns]`.
    """

    picks: Ids
    weight: Float64
    missing: Float64


def match_sum(z: Float32, target: Float64, budget: int, ridge: float) -> Match:
    """Pick rows and weights with `sum_j weight_j z_j` near a target.

    Minimises `|sum_j w_j z_j - target|^2 + ridge |w|^2` over the weights of the picks at every turn. The search ends
    early when no row that is left would bring the sum nearer. Picks whose weight is 0 in the end are left out.

    Args:
        z: Rows `[N, D]`, finite.
        target: What to match, float64 `[D]`.
        budget: Picks at most.
        ridge: How much large weights cost, above 0.

    Cost:
        `2 N D` operations a pick, or `2 N^2 D` in one product where that is less, and `M^3 / 3` a pick for the weights.

    References:
        Killamsetty et al., "GRAD-MATCH: gradient matching based data subset selection", ICML 2021, algorithm 2.
    """
    rows = np.ascontiguousarray(z, np.float32)
    goal = np.ascontiguousarray(target, np.float64)
    room = min(budget, len(rows))
    gram, weight = np.zeros((room, room)), np.zeros(room)
    picks, missing = np.empty(room, np.int64), np.empty(room)
    free, turns = np.ones(len(rows), bool), 0
    along = rows @ goal.astype(np.float32)
    towards = along.astype(np.float64)  # z_i . target, for every row
    reach = np.zeros((room, len(rows)), np.float32)  # z_pick . z_i
    pair = rows @ rows.T if len(rows) <= min(4 * room, rows.shape[1]) else None
    while turns < room:
        score = np.where(free, towards - weight[:turns] @ reach[:turns], -np.inf)
        best = int(np.argmax(score))
        if not score[best] > CLOSE * float(np.abs(towards).max(initial=0.0)):
            break
        picks[turns], free[best] = best, False
        reach[turns] = rows @ rows[best] if pair is None else pair[best]
        gram[turns, : turns + 1] = gram[: turns + 1, turns] = reach[turns, picks[: turns + 1]]
        turns += 1
        weight[:turns] = _weights(gram[:turns, :turns] + ridge * np.eye(turns), towards[picks[:turns]], weight[:turns])
        reached = weight[:turns].astype(np.float32) @ rows[picks[:turns]]
        missing[turns - 1] = np.linalg.norm(reached - goal)
    kept = weight[:turns] > 0
    return Match(picks[:turns][kept], weight[:turns][kept], missing[:turns])


def match_sum_reference(z: Float32, target: Float64, budget: int, ridge: float) -> Match:
    """State, with the least squares of scipy, what `match_sum` must compute."""
    from scipy.optimize import nnls

    rows, picks, weight = z.astype(np.float64), list[int](), np.zeros(0)
    missing = list[float]()
    while len(picks) < min(budget, len(rows)):
        left = target - weight @ rows[picks]
        score = [float(row @ left) if i not in picks else -np.inf for i, row in enumerate(rows)]
        best = int(np.argmax(score))
        if not score[best] > CLOSE * float(np.abs(rows @ target).max()):
            break
        picks.append(best)
        tall = np.concatenate([rows[picks].T, np.sqrt(ridge) * np.eye(len(picks))])
        weight, _ = nnls(tall, np.concatenate([target, np.zeros(len(picks))]))
        missing.append(float(np.linalg.norm(weight @ rows[picks] - target)))
    kept = weight > 0
    return Match(np.array(picks, np.int64)[kept], weight[kept], np.array(missing))


def _weights(gram: Float64, goal: Float64, weight: Float64) -> Float64:
    """Minimise `w G w / 2 - goal w` over `w >= 0`, from the weights of the turn before: an active set.

    References:
        Lawson, Hanson, "Solving least squares problems", 1974, chapter 23.
    """
    weight = weight.copy()
    used = weight > 0
    least = CLOSE * float(np.abs(goal).max())
    for _ in range(3 * len(goal)):
        slope = np.where(used, -np.inf, goal - gram @ weight)
        best = int(np.argmax(slope))
        if not slope[best] > least:
            break
        used[best] = True
        wanted = _solved(gram, goal, used)
        while used.any() and wanted[used].min() <= 0:
            below = used & (wanted <= 0)
            share = float((weight[below] / (weight[below] - wanted[below])).min())
            weight += share * (wanted - weight)
            used &= weight > CLOSE * weight.max(initial=0.0)
            weight[~used] = 0
            wanted = _solved(gram, goal, used)
        weight = wanted
    return weight


def _solved(gram: Float64, goal: Float64, used: npt.NDArray[np.bool_]) -> Float64:
    """Return the best weights of the used rows, below 0 or not; 0 for the others."""
    found, rows = np.zeros(len(goal)), np.flatnonzero(used)
    if len(rows):
        found[rows] = np.linalg.solve(gram[np.ix_(rows, rows)], goal[rows])
    return found
