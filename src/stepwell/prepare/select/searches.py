"""Searches: how rows are chosen in a space of distances. Coverage is Camel's and CRAIG's; the others are its rivals."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.coverage import nearest_pick
from stepwell.kernels.representatives import farthest_first, leaders, match_mean
from stepwell.prepare.select.solvers import Answer, Lazy, Problem, Solver, _sample, _shares


class Search(Protocol):
    """Chooses rows of a problem."""

    def __call__(self, problem: Problem) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Coverage:
    """Rows that bring every row near one of its class: facility location, the coreset of Camel and CRAIG.

    Guarantee: with `Lazy`, at least `1 - 1/e` of the best `largest distance - mean distance`.

    Args:
        solver: How the greedy search is done.
        share: `"global"` spends the budget where it helps most, `"proportional"` by class size, `"equal"` as evenly as
            classes have rows (water-filling).

    References:
        Li, Shen, Chen, "Camel: managing data for efficient stream learning", SIGMOD 2022.
        Mirzasoleiman, Bilmes, Leskovec, "Coresets for data-efficient training" (CRAIG), ICML 2020.
    """

    solver: Solver = field(default_factory=Lazy)
    share: Literal["global", "proportional", "equal"] = "global"

    def __post_init__(self) -> None:
        if self.share not in ("global", "proportional", "equal"):
            raise InvalidValueError("share", self.share, "'global', 'proportional' or 'equal'")

    def __call__(self, problem: Problem) -> Answer:
        if self.share == "global":
            return self.solver(problem)
        sizes = np.diff(problem.border)
        shares = _shares(sizes, problem.budget) if self.share == "proportional" else quotas(sizes, problem.budget)
        return by_group(problem, shares, self.solver)


@dataclass(frozen=True, slots=True)
class Centres:
    """Rows that bring the farthest row near: k-centre, at most twice the best largest distance.

    References:
        Gonzalez, 1985; Sener, Savarese, "Active learning for convolutional neural networks: a core-set approach",
        ICLR 2018.
    """

    def __call__(self, problem: Problem) -> Answer:
        far = np.full(len(problem.z), np.inf, np.float32) if problem.held is None else problem.held.copy()
        if len(problem.border) > 2:
            return by_group(problem, _shares(np.diff(problem.border), problem.budget), self)
        picks, _ = farthest_first(problem.z, problem.budget, far)
        return Answer(picks, *nearest_pick(problem.z, problem.group, picks), len(problem.z) * len(picks))


@dataclass(frozen=True, slots=True)
class Herding:
    """Rows whose mean follows the mean of their class.

    References:
        Welling, "Herding dynamical weights to learn", ICML 2009.
    """

    def __call__(self, problem: Problem) -> Answer:
        shares = _shares(np.diff(problem.border), problem.budget)
        picks = [
            begin + match_mean(problem.z[begin:end].astype(np.float64), int(share))
            for (begin, end), share in zip(pairwise(problem.border), shares, strict=True)
            if share
        ]
        chosen = np.concatenate(picks) if picks else np.empty(0, np.int64)
        return Answer(chosen, *nearest_pick(problem.z, problem.group, chosen), len(problem.z) * len(chosen))


@dataclass(frozen=True, slots=True)
class Leaders:
    """The first row of each heap of near duplicates: every row is within `radius` of a kept one of its class.

    The radius alone decides how many rows there are; the budget is not asked.

    Args:
        radius: Rows this near are the same.
    """

    radius: float = 0.0

    def __post_init__(self) -> None:
        if not self.radius >= 0:
            raise InvalidValueError("radius", self.radius, "at least 0")

    def __call__(self, problem: Problem) -> Answer:
        picks = leaders(problem.z, problem.group, self.radius)
        return Answer(picks, *nearest_pick(problem.z, problem.group, picks), 0)


@dataclass(frozen=True, slots=True)
class RandomRows:
    """Rows drawn uniformly without repetition, each as heavy as the next: what every search must beat."""

    def __call__(self, problem: Problem) -> Answer:
        picks = _sample(np.arange(len(problem.z)), problem.budget, problem.draw, 0)
        return Answer(picks, *nearest_pick(problem.z, problem.group, picks), 0)


def by_group(problem: Problem, shares: Ids, search: Search) -> Answer:
    """Search each group alone for its share of the budget; memory for one group's distances at a time."""
    size = len(problem.z)
    owner, near = np.full(size, -1, np.int64), np.full(size, np.inf, np.float32)
    picks, evaluations = list[Ids](), 0
    for g, (begin, end) in enumerate(pairwise(problem.border)):
        if shares[g]:
            held = None if problem.held is None else problem.held[begin:end]
            border = np.array([0, end - begin], np.int64)
            part = Problem(problem.z[begin:end], border, problem.weight[begin:end], int(shares[g]), problem.draw, held)
            found = search(part)
            picks.append(found.picks + begin)
            owner[begin:end], near[begin:end] = found.owner + begin, found.near
            evaluations += found.evaluations
    return Answer(np.concatenate(picks) if picks else np.empty(0, np.int64), owner, near, evaluations)


def quotas(sizes: Ids, budget: int) -> Ids:
    """Hand out a budget one place at a time, in turn, to the classes that still have rows: water-filling.

    Guarantee: two classes with rows to spare never differ by more than one place; earlier classes come first.

    Example:
        >>> quotas(np.array([2, 100, 50]), 11).tolist()
        [2, 5, 4]
    """
    sizes = np.asarray(sizes, np.int64)
    given = np.zeros_like(sizes)
    left = int(min(budget, sizes.sum()))
    while left:
        open_ = np.flatnonzero(given < sizes)
        step = min(int((sizes - given)[open_].min()), left // len(open_))
        if step:
            given[open_] += step
            left -= step * len(open_)
        else:
            given[open_[:left]] += 1
            left = 0
    return given
