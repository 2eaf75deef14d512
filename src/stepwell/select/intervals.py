"""How far a mean over some examples may be from the truth: intervals that hold whenever and however often one looks.

Values lie in known bounds. Some are means over part of a finite population drawn without replacement (a validation set
seen in part); with `population=None` the population is endless (new examples of the same kind).

References:
    Bardenet and Maillard, "Concentration inequalities for sampling without replacement", Bernoulli 2015 (Hoeffding- and
    empirical Bernstein-Serfling); Wilson, "Probable inference", JASA 1927; Maurer and Pontil, "Empirical Bernstein
    Bounds and Sample Variance Penalization", COLT 2009; Waudby-Smith and Ramdas, "Estimating means of bounded random
    variables by betting", JRSS B 2024 (one-sided capital, both sides at half the error).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import InvalidValueError

Method = Literal["bernstein", "hoeffding", "betting", "wilson", "normal"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it may be instead.

    Args:
        mean: The mean of the values seen.
        low: The smallest truth that is not ruled out.
        high: The largest one.
        num_values: Values seen.
    """

    mean: float
    low: float
    high: float
    num_values: int

    @property
    def spread(self) -> float:
        """The larger distance from the mean to an end."""
        return max(self.high - self.mean, self.mean - self.low)

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(
    values: npt.ArrayLike,
    alpha: float = 0.05,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    population: int | None = None,
    method: Method | None = None,
) -> Interval:
    """Return an interval that misses the truth with probability at most `alpha`.

    Args:
        values: The values seen, in a random order of the population.
        alpha: How often it may be wrong, above 0 and below 1.
        bounds: The smallest and largest value there can be, or None if nobody knows.
        population: Size of the finite population, or None if it has no end.
        method: `bernstein` (the default), `hoeffding` and `betting` hold always, the last is the tightest;
            `wilson` holds nearly, for zeros and ones; `normal`, the default without bounds, holds for many values only.

    Raises:
        InvalidValueError: If there are no values, one is outside the bounds, or an argument is out of range.

    Cost:
        One pass.
    """
    found = np.asarray(values, np.float64)
    count = len(found)
    if not 0 < alpha < 1:
        raise InvalidValueError("alpha", alpha, "above 0 and below 1")
    if not count:
        raise InvalidValueError("values", [], "at least one value")
    if population is not None and population < count:
        raise InvalidValueError("population", population, f"at least the {count} values seen")
    mean = float(found.mean())
    if population == count:
        return Interval(mean, mean, mean, count)
    chosen = method or ("normal" if bounds is None else "bernstein")
    if bounds is None:
        if chosen != "normal":
            raise InvalidValueError("method", chosen, "'normal' where the values have no bounds")
        bounds = (-math.inf, math.inf)
    low, high = bounds
    if found.min() < low or found.max() > high:
        raise InvalidValueError("values", (float(found.min()), float(found.max())), f"within {bounds}")
    if chosen == "wilson":
        return _wilson(mean, count, alpha, population)
    if chosen == "betting":
        scaled = (found - low) / (high - low)
        ends = _betting_low(scaled, alpha / 2, population), 1.0 - _betting_low(1.0 - scaled, alpha / 2, population)
        return Interval(mean, min(low + ends[0] * (high - low), mean), max(low + ends[1] * (high - low), mean), count)
    if chosen == "normal":
        half = _normal(found, alpha, population)
    elif chosen == "hoeffding":
        half = _hoeffding(count, alpha, high - low, population)
    else:
        half = _bernstein(found, alpha, high - low, population)
    return Interval(mean, max(mean - half, low), min(mean + half, high), count)


def _shrink(count: int, population: int | None) -> float:
    """Return Bardenet and Maillard's rho: how much sampling without replacement narrows."""
    if population is None:
        return 1.0
    if 2 * count <= population:
        return 1.0 - (count - 1) / population
    return (1.0 - count / population) * (1.0 + 1.0 / count)


def _hoeffding(count: int, alpha: float, width: float, population: int | None) -> float:
    """Half width by corollary 2.5, both sides."""
    return width * math.sqrt(_shrink(count, population) * math.log(2 / alpha) / (2 * count))


def _bernstein(values: npt.NDArray[np.float64], alpha: float, width: float, population: int | None) -> float:
    """Half width by theorem 4.3 (finite), or Maurer and Pontil's theorem 4 (endless), or Hoeffding's where tighter.

    Each has half of `alpha`, so that taking the tighter one costs no validity.
    """
    count = len(values)
    plain = _hoeffding(count, alpha / 2, width, population)
    if population is None:
        if count < 2:
            return plain
        each = math.log(2 / (alpha / 4))
        sure = math.sqrt(2 * float(values.var(ddof=1)) * each / count) + 7 * width * each / (3 * (count - 1))
    else:
        each, kappa = math.log(5 / (alpha / 4)), 7 / 3 + 3 / math.sqrt(2)
        spread = math.sqrt(2 * _shrink(count, population) * each / count) * float(values.std())
        sure = spread + kappa * width * each / count
    return min(plain, sure)


def _betting_low(values: npt.NDArray[np.float64], alpha: float, population: int | None) -> float:
    """Return a lower bound of the mean of values in [0, 1]: the largest mean against which a bet would have won.

    Somebody bets on each value in turn that it is above the mean `m`, with stakes chosen from the values before. If the
    truth is `m` or less, the capital ever exceeds `1 / alpha` with probability at most `alpha`. Stakes do not depend on
    `m`, so the capital falls in `m` and the bound is found by bisection.
    """
    count = len(values)
    places = np.arange(1, count + 1)
    means = (0.5 + np.cumsum(values)) / (places + 1)
    spread = (0.25 + np.cumsum((values - means) ** 2)) / (places + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    stakes = np.minimum(np.sqrt(2 * math.log(1 / alpha) / (before * count)), 0.9)
    drawn = np.concatenate([[0.0], np.cumsum(values)[:-1]])

    def wins(mean: float) -> bool:
        left = np.full(count, mean)
        if population is not None:
            left = (population * mean - drawn) / (population - places + 1)
            if left.min() < 0:
                return True  # so small a mean is ruled out by what was drawn
            left = np.minimum(left, 1.0)
        return bool(np.cumsum(np.log1p(stakes * (values - left))).max() >= math.log(1 / alpha))

    low, high = 0.0, float(values.mean())
    if not wins(low):
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if wins(middle) else (low, middle)
    return low


def _normal(values: npt.NDArray[np.float64], alpha: float, population: int | None) -> float:
    count = len(values)
    if count < 2:
        return math.inf
    left = 1.0 if population is None else 1.0 - count / population
    return NormalDist().inv_cdf(1 - alpha / 2) * math.sqrt(left * float(values.var(ddof=1)) / count)


def _wilson(mean: float, count: int, alpha: float, population: int | None) -> Interval:
    """Wilson's interval, continuity-corrected (Newcombe 1998); a finite population counts as more values."""
    many = count if population is None else count * (population - 1) / max(population - count, 1e-9)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    low = high = mean
    divisor = 2 * (many + z * z)
    middle = 2 * many * mean + z * z
    if mean > 0:
        inner = z * z - 2 - 1 / many + 4 * mean * (many * (1 - mean) + 1)
        low = max(0.0, (middle - 1 - z * math.sqrt(max(inner, 0.0))) / divisor)
    if mean < 1:
        inner = z * z + 2 - 1 / many + 4 * mean * (many * (1 - mean) - 1)
        high = min(1.0, (middle + 1 + z * math.sqrt(max(inner, 0.0))) / divisor)
    return Interval(mean, min(low, mean), max(high, mean), count)


def at_look(alpha: float, look: int) -> float:
    """Return the share of `alpha` for look number `look` (from 1): over any number of looks they sum to at most it.

    Whoever looks after every unit or epoch, and stops when he likes, is wrong with probability at most `alpha`.
    """
    if look < 1:
        raise InvalidValueError("look", look, "at least 1")
    return alpha / (look * (look + 1))


def paired(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    alpha: float = 0.05,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    population: int | None = None,
    method: Method | None = None,
) -> Interval:
    """Return an interval of the mean difference of two configurations on the same examples.

    Args:
        first: One value an example.
        second: The other configuration's values of the same examples in the same order.
        alpha: How often it may be wrong.
        bounds: Bounds of the values (not of their difference).
        population: Size of the finite population, or None.
        method: See `interval`.

    Raises:
        InvalidValueError: If the lengths differ.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape:
        raise InvalidValueError("second", b.shape, f"as many values as first, {a.shape}")
    wide = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return interval(a - b, alpha, bounds=wide, population=population, method=method)
