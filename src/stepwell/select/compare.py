"""Who is best beyond chance: paired differences between the leader and every rival, on the same examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stepwell.core.errors import InvalidValueError
from stepwell.select.intervals import Interval, Method, at_look, interval, paired
from stepwell.select.records import Config

if TYPE_CHECKING:
    from stepwell.select.study import Study


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer that may be "not decided yet".

    Args:
        leader: The configuration with the best mean.
        rivals: Those that could still be better; empty if it is decided.
        confidence: How sure the answer is.
        lead: The leader's advantage over its closest rival, per example, or None if it has none.
    """

    leader: Config
    rivals: tuple[str, ...]
    confidence: float
    lead: Interval | None = None

    @property
    def decided(self) -> bool:
        """Whether the leader is best beyond chance."""
        return not self.rivals

    def __str__(self) -> str:
        if self.decided:
            return f"{self.leader.name} is best ({self.confidence:.0%} sure)"
        some = ", ".join(self.rivals[:4]) + (f" and {len(self.rivals) - 4} more" if len(self.rivals) > 4 else "")
        return f"not decided yet ({self.confidence:.0%} asked): {self.leader.name} leads, {some} may be better"


def verdict(study: Study, ranked: Sequence[Config], confidence: float, over: str) -> Verdict:
    """Compare the leader with every rival.

    The chance of a wrong answer is shared evenly among the rivals, and among all the epochs after which one may look.

    Raises:
        InvalidValueError: If `confidence` or `over` is none that there is.
    """
    if not 0 < confidence < 1:
        raise InvalidValueError("confidence", confidence, "above 0 and below 1")
    if over not in ("new", "validation"):
        raise InvalidValueError("over", over, "'new' or 'validation'")
    leader, rivals = ranked[0], ranked[1:]
    if not rivals:
        return Verdict(leader, (), confidence)
    bounds = metric_bounds(study)
    best = study.values(leader.name)
    population = len(best) if over == "validation" else None
    method: Method | None = None if bounds is None else "betting"
    alpha = at_look((1 - confidence) / len(rivals), max(leader.epoch, 1))
    open_, lead = [], None
    for rival in rivals:
        other = study.values(rival.name)
        pair = (best, other) if study.records.sign > 0 else (other, best)
        # one side matters
        found = paired(*pair, 2 * alpha, bounds=bounds, population=population, method=method)
        lead = found if lead is None or found.low < lead.low else lead
        if found.low <= 0:
            open_.append(rival.name)
    return Verdict(leader, tuple(open_), confidence, lead)


def metric_bounds(study: Study) -> tuple[float, float] | None:
    """Return the bounds of the study's metric, or None."""
    bounds = study.records.settings.get("bounds")
    return (float(bounds[0]), float(bounds[1])) if isinstance(bounds, list) else None  # type: ignore[arg-type]


def score_interval(mean: float, count: int, alpha: float, bounds: tuple[float, float] | None) -> Interval | None:
    """Return the interval of a mean of zeros and ones whose values are not at hand, or None for other values."""
    if bounds != (0.0, 1.0):
        return None
    ones = round(mean * count)
    return interval(np.repeat([1.0, 0.0], [ones, count - ones]), alpha, method="wilson")
