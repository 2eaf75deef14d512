"""Solvers of facility location: the same question answered greedily, by samples, in one pass, or on a device."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core import Draw, Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.coverage import Float32, assign, distances, greedy_cover, nearest_pick
from stepwell.prepare.select.sieve import sieve_cover


class Aim(Protocol):
    """Knows which way rows outside the problem would have the model go."""

    def __call__(self, step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the gradient of their mean loss, `[D]`, once the model has been moved by `-step`, `[D]`."""


class Problem(NamedTuple):
    """Rows ordered by group, of which some shall stand for all.

    Args:
        z: Rows in the space of the distances, float32 `[N, D]`.
        border: Rows of group g are `[border[g], border[g + 1])`.
        weight: How often each row counts, float64 `[N]`.
        budget: Rows to pick at most.
        draw: Randomness for solvers that sample.
        held: Distance of each row to what covers it already, or None.
        aim: Where other rows would have the model go, or None.
    """

    z: Float32
    border: Ids
    weight: npt.NDArray[np.float64]
    budget: int
    draw: Draw
    held: Float32 | None = None
    aim: Aim | None = None

    @property
    def group(self) -> Ids:
        """The group of each row."""
        return np.repeat(np.arange(len(self.border) - 1), np.diff(self.border))


class Answer(NamedTuple):
    """Picks of a problem, each row's pick, its distance, the gains computed, and weights that are no counts."""

    picks: Ids
    owner: Ids
    near: Float32
    evaluations: int
    weight: npt.NDArray[np.float64] | None = None


class Solver(Protocol):
    """Picks rows that bring all rows near a pick of their group."""

    def __call__(self, problem: Problem) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Lazy:
    """Greedy with lazy gains: at least `1 - 1/e` of the best objective, for the price of a few passes.

    Args:
        memory_bytes: Room for distances; a larger problem is refused with the way out.

    Cost:
        Distances of each group: `2 n_g^2 D` operations and `4 n_g^2` bytes.
    """

    memory_bytes: int = 1 << 30

    def __call__(self, problem: Problem) -> Answer:
        return _greedy(problem, self.memory_bytes, lazy=True)


@dataclass(frozen=True, slots=True)
class Naive:
    """Greedy that recomputes every gain for every pick: what `Lazy` must equal.

    Args:
        memory_bytes: Room for distances.
    """

    memory_bytes: int = 1 << 30

    def __call__(self, problem: Problem) -> Answer:
        return _greedy(problem, self.memory_bytes, lazy=False)


def _greedy(problem: Problem, memory_bytes: int, *, lazy: bool) -> Answer:
    sizes = np.diff(problem.border)
    need = 4 * int((sizes**2).sum())
    if need > memory_bytes:
        raise InvalidValueError(
            "rows", f"{int(sizes.max())} in one group ({need / 2**20:.0f} MiB of distances)",
            f"few enough for {memory_bytes / 2**20:.0f} MiB; use Stochastic() or Sieve(), or more memory_bytes",
        )  # fmt: skip
    flat, place = np.empty(need // 4, np.float32), 0
    for begin, end in pairwise(problem.border):
        part, size = problem.z[begin:end], int(end - begin)
        distances(part, part, flat[place : place + size**2].reshape(size, size))
        place += size**2
    nearest = np.full(len(problem.z), _far(problem, float(flat.max(initial=0.0))), np.float32)
    if problem.held is not None:
        nearest = np.minimum(nearest, problem.held)
    found = greedy_cover(
        flat, problem.border, problem.weight, problem.budget, nearest, lazy=lazy, every_group=problem.held is None
    )
    return Answer(found.picks, *assign(flat, problem.border, found.picks), found.evaluations)


def _far(problem: Problem, within: float) -> float:
    """Return the distance to nothing: the largest of the batch where some group may stay empty."""
    groups = int((np.diff(problem.border) > 0).sum())
    if problem.budget < groups:
        z = problem.z
        within = max(float(distances(z[i : i + 1024], z).max(initial=0.0)) for i in range(0, len(z), 1024))
    return within if within > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Stochastic:
    """Greedy over a random sample of candidates a pick: `1 - 1/e - epsilon` of the best, in expectation.

    Args:
        epsilon: What may be lost; the sample has `N / budget ln(1/epsilon)` rows.

    Cost:
        `N ln(1/epsilon)` candidates in all, each against the N rows: `2 N^2 D ln(1/epsilon)` operations; memory for
        one sample's distances.

    References:
        Mirzasoleiman et al., "Lazier than lazy greedy", AAAI 2015.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise InvalidValueError("epsilon", self.epsilon, "between 0 and 1")

    def __call__(self, problem: Problem) -> Answer:
        size, group, z = len(problem.z), problem.group, problem.z
        budget = min(problem.budget, size)
        width = min(size, ceil(size / budget * log(1 / self.epsilon)))
        far = 2 * float(np.linalg.norm(z - z.mean(0), axis=1).max(initial=0.0)) or 1.0
        nearest = np.full(size, far, np.float32) if problem.held is None else problem.held.copy()
        left, picks, evaluations = np.ones(size, bool), list[int](), 0
        for turn in range(budget):
            candidates = _sample(np.flatnonzero(left), width, problem.draw, turn)
            empty = _empty_groups(group, picks) if problem.held is None else np.empty(0, np.int64)
            if len(empty) and budget - turn <= len(empty):  # the last places belong to groups without a pick
                candidates = _sample(np.flatnonzero(group == empty[0]), width, problem.draw, turn)
            reach = np.where(group[candidates][:, None] == group, distances(z[candidates], z), np.float32(far))
            gains = np.maximum(nearest - reach, 0.0, dtype=np.float64) @ problem.weight
            evaluations += len(candidates)
            best = int(np.argmax(gains))
            if gains[best] <= 0 and not len(empty):
                left[candidates] = False  # all of them coincide with picks
                if not left.any():
                    break
                continue
            picks.append(int(candidates[best]))
            left[candidates[best]] = False
            nearest = np.minimum(nearest, reach[best])
        found = np.array(picks, np.int64)
        return Answer(found, *nearest_pick(z, group, found), evaluations)


def _sample(rows: Ids, width: int, draw: Draw, turn: int) -> Ids:
    """Return `width` of the rows, without repetition, in order; all of them if there are no more."""
    if len(rows) <= width:
        return rows
    keys = draw.bits(rows + np.int64(turn) * np.int64(1 << 32), 1)[:, 0]
    return np.sort(rows[np.argpartition(keys, width)[:width]])


def _empty_groups(group: Ids, picks: list[int]) -> Ids:
    return np.setdiff1d(group, group[picks]) if picks else np.unique(group)


@dataclass(frozen=True, slots=True)
class Sieve:
    """One pass over the rows: for sets whose distances have no room. `1/2 - epsilon` of the best on the sample.

    The objective is measured on a random sample of rows, as for any objective that is a sum over rows; with a sample
    of all rows it is exact. Weights and cover are exact: a second pass gives every row to its nearest pick.

    Args:
        epsilon: How finely the optimum is guessed.
        sample: Rows on which gains are measured.
        chunk: Rows taken at a time.

    Cost:
        `2 N sample D` operations, and `sample` for each of the guesses still open; `chunk sample` floats of memory.

    References:
        Badanidiyuru et al., "Streaming submodular maximization", KDD 2014, algorithm 3 and section 6.
    """

    epsilon: float = 0.1
    sample: int = 1024
    chunk: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise InvalidValueError("epsilon", self.epsilon, "between 0 and 1")

    def __call__(self, problem: Problem) -> Answer:
        sizes, picks, evaluations = np.diff(problem.border), list[Ids](), 0
        shares = _shares(sizes, problem.budget)
        for g, (begin, end) in enumerate(pairwise(problem.border)):
            if shares[g]:
                z = problem.z[begin:end]
                rows = _sample(np.arange(end - begin), self.sample, problem.draw, -1 - g)
                weight = problem.weight[begin:end][rows] * ((end - begin) / len(rows))
                held = None if problem.held is None else problem.held[begin:end][rows]
                found, count = sieve_cover(z, z[rows], weight, int(shares[g]), self.epsilon, self.chunk, held)
                picks.append(found + begin)
                evaluations += count
        chosen = np.concatenate(picks) if picks else np.empty(0, np.int64)
        return Answer(chosen, *nearest_pick(problem.z, problem.group, chosen), evaluations)


def _shares(sizes: Ids, budget: int) -> Ids:
    """Split a budget over groups in proportion to their size, at least one each while it lasts."""
    exact = budget * sizes / max(1, sizes.sum())
    shares: Ids = np.minimum(np.maximum(np.floor(exact), sizes > 0), sizes).astype(np.int64)
    while shares.sum() > budget:
        least = 1 if (shares > 1).any() else 0  # a group's only place goes last
        shares[int(np.argmax(np.where(shares > least, shares - exact, -np.inf)))] -= 1
    while shares.sum() < min(budget, sizes.sum()):
        shares[int(np.argmax(np.where(shares < sizes, exact - shares, -np.inf)))] += 1
    return shares


@dataclass(frozen=True, slots=True)
class OnTorch:
    """Greedy in torch operations, on any device: one fused reduction over all candidates a pick.

    Args:
        device: Where to compute.

    Cost:
        `N^2` floats on the device and `N^2` operations a pick; a device does them faster than a heap would.
    """

    device: str = "cpu"

    @torch.no_grad()
    def __call__(self, problem: Problem) -> Answer:
        z = torch.from_numpy(np.ascontiguousarray(problem.z)).to(self.device)
        group = torch.from_numpy(problem.group).to(self.device)
        weight = torch.from_numpy(problem.weight).to(self.device)
        near = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        same = group[:, None] == group
        least = 1e-6 * float(near[same].max())
        far = (near.max() if problem.budget < len(problem.border) - 1 else near[same].max()).clamp_min(1e-30)
        near = torch.where(same, near, far)
        nearest = far.repeat(len(z))
        if problem.held is not None:
            nearest = torch.minimum(nearest, torch.from_numpy(problem.held).to(self.device))
        picks, empty = list[int](), torch.ones(len(problem.border) - 1, dtype=torch.bool, device=self.device)
        groups_first = problem.held is None and problem.budget >= len(problem.border) - 1
        for _ in range(min(problem.budget, len(z))):
            gains = (nearest - near).clamp_min_(0).double() @ weight
            if groups_first and bool(empty.any()):
                gains = torch.where(empty[group], gains, -1.0)
            best = int(gains.argmax())
            if float(gains[best]) <= least and not (groups_first and bool(empty.any())):
                break
            picks.append(best)
            empty[group[best]] = False
            nearest = torch.minimum(nearest, near[best])
        chosen = np.array(picks, np.int64)
        return Answer(chosen, *nearest_pick(problem.z, problem.group, chosen), len(z) * len(chosen))
