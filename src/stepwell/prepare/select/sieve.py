"""Sieve streaming: one pass, a geometric grid of guesses of the optimum, each with its own picks."""

from __future__ import annotations

from math import ceil, floor, log

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids
from stepwell.kernels.coverage import Float32, distances


def sieve_cover(
    z: Float32,
    sample: Float32,
    weight: npt.NDArray[np.float64],
    budget: int,
    epsilon: float,
    chunk: int,
    held: Float32 | None = None,
) -> tuple[Ids, int]:
    """Return at most `budget` rows of `z` that bring the rows of `sample` near, and how many gains were computed.

    A guess `v` of the optimum takes a row if it gains at least `(v / 2 - F) / (budget - picks)`. Guesses are powers of
    `1 + epsilon` between the largest gain of one row and `2 budget` times it; the best guess's picks win. Rows that
    are left over of the budget go to the best next picks among those that any guess took.

    Cost:
        `2 N S D` operations for S rows of the sample, and S for each guess that a row could still serve.
    """
    centre = sample.mean(0)
    reach = float(np.linalg.norm(sample - centre, axis=1).max(initial=0.0))
    far = reach + float(np.linalg.norm(z - centre, axis=1).max(initial=0.0)) or 1.0
    start = np.full(len(sample), far, np.float32) if held is None else np.minimum(held, np.float32(far))
    guesses: dict[int, _Guess] = {}
    largest, evaluations = 0.0, 0
    for begin in range(0, len(z), chunk):
        near = distances(z[begin : begin + chunk], sample)
        single = _singles(near, weight, start)
        evaluations += len(single)
        top = float(single.max(initial=0.0))
        if top > largest:
            largest = top
            guesses = _grid(guesses, largest, budget, epsilon, start)
        for guess in guesses.values():
            evaluations += guess.offer(near, single, weight, begin, budget)
    if not guesses:
        return np.zeros(min(1, len(z)), np.int64), evaluations
    best = max(guesses.values(), key=lambda guess: guess.value)
    return _fill(best, guesses, z, sample, weight, budget), evaluations


class _Guess:
    """The picks for one guess of the optimum."""

    def __init__(self, optimum: float, start: Float32, budget: int) -> None:
        self.optimum, self.value = optimum, 0.0
        self.nearest = start.copy()
        self._picks, self._count = np.empty(budget, np.int64), 0

    @property
    def picks(self) -> Ids:
        return self._picks[: self._count]

    def offer(
        self, near: Float32, single: npt.NDArray[np.float64], weight: npt.NDArray[np.float64], begin: int, budget: int
    ) -> int:
        if self._count == budget:
            return 0
        self._count, self.value, tried = _sieve(
            near, single, weight, begin, self.optimum, self.value, self.nearest, self._picks, self._count
        )
        return int(tried)


def _grid(old: dict[int, _Guess], largest: float, budget: int, epsilon: float, start: Float32) -> dict[int, _Guess]:
    """Keep the guesses that may still be near the optimum, and open those that now may."""
    base = log(1 + epsilon)
    low, high = ceil(log(largest) / base), floor(log(2 * budget * largest) / base)
    steps = range(low, max(low, high) + 1)
    return {i: old.get(i) or _Guess((1 + epsilon) ** i, start, budget) for i in steps}


def _fill(
    best: _Guess, guesses: dict[int, _Guess], z: Float32, sample: Float32, weight: npt.NDArray[np.float64], budget: int
) -> Ids:
    """Spend what is left of the budget on the best rows that other guesses took: never worse than the best guess."""
    picks, nearest = list(best.picks), best.nearest.copy()
    others = np.unique(np.concatenate([guess.picks for guess in guesses.values()]))
    others = others[~np.isin(others, best.picks)]
    if len(picks) < budget and len(others):
        near = distances(z[others], sample)
        while len(picks) < budget:
            gains = np.maximum(nearest - near, 0.0, dtype=np.float64) @ weight
            top = int(np.argmax(gains))
            if gains[top] <= 0:
                break
            picks.append(others[top])
            nearest = np.minimum(nearest, near[top])
    return np.array(picks, np.int64)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "contract"})
def _gain(row, weight, nearest):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(row)):
        total += weight[i] * np.float64(max(nearest[i] - row[i], np.float32(0.0)))
    return total


@numba.njit(cache=True, nogil=True)
def _singles(near, weight, start):  # type: ignore[no-untyped-def]
    found = np.empty(len(near))
    for i in range(len(near)):
        found[i] = _gain(near[i], weight, start)
    return found


@numba.njit(cache=True, nogil=True)
def _sieve(near, single, weight, begin, optimum, value, nearest, picks, count):  # type: ignore[no-untyped-def]
    tried = 0
    for i in range(len(near)):
        if count == len(picks):
            break
        need = (optimum / 2 - value) / (len(picks) - count)
        if single[i] < need or single[i] <= 0.0:
            continue  # a gain never exceeds the gain alone
        gain = _gain(near[i], weight, nearest)
        tried += 1
        if gain >= need and gain > 0.0:
            for j in range(len(nearest)):
                nearest[j] = min(nearest[j], near[i, j])
            picks[count] = begin + i
            value += gain
            count += 1
    return count, value, tried
