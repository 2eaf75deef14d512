"""Searches that add up gradients: rows that together step where all rows, or a validation set, would.

Coverage asks who stands for whom; these ask where a step on the chosen rows leads. They want vectors that may be added
(the spaces `layer` and `gradient`), and two of them an aim: the gradient of other rows, which the selection is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.coverage import Float32, nearest_pick
from stepwell.kernels.matching import Float64, match_sum
from stepwell.prepare.select.solvers import Aim, Answer, Problem, _shares
from stepwell.prepare.select.spaces import RowLoss, Seen, Space, layer_inputs, output_gradient


@dataclass(frozen=True)
class LastLayer:
    """The aim of some rows, as far as the last layer goes: exact for any step of a layer that is not projected.

    Args:
        space: `"layer"` moves weights and biases, `"gradient"` the biases alone.
        seen: What a pass over the rows showed; with features for `"layer"`.
        y: Their labels.
        loss: Loss of each row; cross-entropy if None.
    """

    space: Space
    seen: Seen
    y: torch.Tensor
    loss: RowLoss | None = None

    def __post_init__(self) -> None:
        if self.space not in ("layer", "gradient"):
            raise InvalidValueError("space", self.space, "'layer' or 'gradient', whose vectors add up")
        if self.space == "layer" and self.seen.features is None:
            raise InvalidValueError("seen", "no features", "a look with features=True, for the space 'layer'")

    def __call__(self, step: Float64) -> Float64:
        """Return the gradient of the mean loss after a step."""
        output, entered = self.seen.output.detach(), self._entered()
        shape = (output.reshape(len(output), -1).shape[1], entered.shape[1])
        move = torch.from_numpy(step.astype(np.float32)).reshape(shape).to(output.device)
        moved = output - (entered @ move.T).reshape(output.shape)
        gradient = output_gradient(moved, self.y.to(output.device), self.loss)
        return np.asarray((gradient.T @ entered / len(entered)).reshape(-1).cpu().numpy(), np.float64)

    def _entered(self) -> torch.Tensor:
        output = self.seen.output.reshape(len(self.seen.output), -1)
        if self.space == "gradient" or self.seen.features is None:
            return torch.ones(len(output), 1, device=output.device)
        return layer_inputs(self.seen.features.detach(), output.shape[1])


@dataclass(frozen=True, slots=True)
class Matching:
    """Rows and weights whose weighted gradients add up to those of all rows of the class: GradMatch.

    The weights are the method's own, scaled so that each class keeps its weight. There may be fewer rows than the
    budget, if fewer match.

    Args:
        ridge: How much large weights cost, as a share of the rows' mean squared length and of the rows that a pick
            stands for on average: near 0 a few rows match exactly, with weights far apart; the larger, the more even.

    References:
        Killamsetty et al., "GRAD-MATCH", ICML 2021. `Differs:` the weights' sum is matched too, since a weighted mean
        is what is learnt; the ridge is relative and grows as picks get fewer; rows are not filled up at random when
        the match is exact.
    """

    ridge: float = 0.1

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise InvalidValueError("ridge", self.ridge, "above 0")

    def __call__(self, problem: Problem) -> Answer:
        shares = _shares(np.diff(problem.border), problem.budget)
        picks, weights = list[Ids](), list[Float64]()
        for (begin, end), share in zip(pairwise(problem.border), shares, strict=True):
            if share:
                z, mass = problem.z[begin:end], problem.weight[begin:end]
                found, weight = _match(z, mass, int(share), self.ridge)
                picks.append(found + begin)
                weights.append(weight)
        chosen = np.concatenate(picks) if picks else np.empty(0, np.int64)
        weight = np.concatenate(weights) if weights else np.empty(0)
        owner, near = nearest_pick(problem.z, problem.group, chosen)
        return Answer(chosen, owner, near, len(problem.z) * len(chosen), weight)


def _match(z: Float32, mass: Float64, budget: int, ridge: float) -> tuple[Ids, Float64]:
    """Match the sum of a class, and its weight: a number that is the same in all rows is matched like any other."""
    length = float(np.sqrt(np.einsum("nd,nd->n", z, z, dtype=np.float64).mean())) or 1.0
    rows = np.concatenate([z / np.float32(length), np.ones((len(z), 1), np.float32)], 1)
    found = match_sum(rows, mass @ rows.astype(np.float64), budget, ridge * len(z) / budget)
    return found.picks, found.weight * (mass.sum() / found.weight.sum())


@dataclass(frozen=True, slots=True)
class Bilevel:
    """Rows a step on which lowers the loss of a validation set most, taken greedily: GLISTER.

    After every few picks the last layer is moved by the picks so far, and the validation set's gradient is taken anew;
    a row gains what its gradient has in common with that. Needs an aim, and spends the whole budget, each class its
    share where classes are told apart.

    Args:
        rate: Length of the step that the mean of all picks would take.
        renew: Picks between two looks at the validation set.

    Cost:
        `2 N D` operations and one pass of the last layer over the validation rows for each look.

    References:
        Killamsetty et al., "GLISTER: generalization based data subset selection for efficient and robust learning",
        AAAI 2021, algorithm 2 and the Taylor approximation of section 4.
    """

    rate: float = 1.0
    renew: int = 10

    def __post_init__(self) -> None:
        if not self.rate > 0 or self.renew < 1:
            raise InvalidValueError("rate, renew", (self.rate, self.renew), "above 0, and at least 1")

    def __call__(self, problem: Problem) -> Answer:
        aim, z, group = _aim(problem), problem.z, problem.group
        places = _shares(np.diff(problem.border), problem.budget)
        step, picks, budget = np.zeros(z.shape[1]), list[Ids](), int(places.sum())
        free, looks = np.ones(len(z), bool), 0
        while places.sum():
            gain = np.where(free, problem.weight * (z @ aim(step).astype(np.float32)), -np.inf)
            best = _best(gain, group, places, self.renew)
            picks.append(best)
            free[best], looks = False, looks + 1
            step += self.rate / budget * z[best].sum(0, dtype=np.float64)
        chosen = np.concatenate(picks)
        return Answer(chosen, *nearest_pick(z, group, chosen), looks * len(z))


def _best(score: Float64, group: Ids, places: Ids, count: int) -> Ids:
    """Return the best rows, `count` at most, while their group has places; takes the places."""
    best = list[int]()
    for row in np.argsort(-score, kind="stable"):
        if places[group[row]] and score[row] > -np.inf:
            places[group[row]] -= 1
            best.append(int(row))
            if len(best) == count:
                break
    return np.array(best, np.int64)


def bilevel_reference(z: Float32, aim: Aim, budget: int, rate: float) -> list[int]:
    """State, one candidate at a time, which rows `Bilevel(rate, renew=1)` must pick."""
    step, picks = np.zeros(z.shape[1]), list[int]()
    for _ in range(min(budget, len(z))):
        towards = aim(step)
        gains = {i: float(row.astype(np.float64) @ towards) for i, row in enumerate(z) if i not in picks}
        best = max(gains, key=lambda i: gains[i])
        picks.append(best)
        step = step + rate / budget * z[best].astype(np.float64)
    return picks


@dataclass(frozen=True, slots=True)
class Affinity:
    """Rows like their batch, unlike each other, and in harmony with what is remembered: online coreset selection.

    A row's score is the cosine of its gradient with the batch's mean one, less its mean cosine with the other rows,
    plus its cosine with the gradient of the aim (the memory's rows); the best rows win. Without an aim the last part
    is 0, as before anything is remembered. Where classes are told apart, each is a batch with its share of the budget.

    Args:
        memory: How much the harmony with the aim counts.

    Cost:
        `3 N D` operations.

    References:
        Yoon, Madaan, Yang, Hwang, "Online coreset selection for rehearsal-based continual learning", ICLR 2022,
        equations 4 to 7.
    """

    memory: float = 1.0

    def __post_init__(self) -> None:
        if not self.memory >= 0:
            raise InvalidValueError("memory", self.memory, "at least 0")

    def __call__(self, problem: Problem) -> Answer:
        z, score = problem.z, np.empty(len(problem.z))
        aim = None if problem.aim is None else problem.aim(np.zeros(z.shape[1]))
        for begin, end in pairwise(problem.border):
            score[begin:end] = affinity(z[begin:end], aim, self.memory)
        places = _shares(np.diff(problem.border), problem.budget)
        chosen = _best(score, problem.group, places, int(places.sum()))
        return Answer(chosen, *nearest_pick(z, problem.group, chosen), len(z))


def affinity(z: Float32, aim: Float64 | None, memory: float) -> Float64:
    """Return each row's score for `Affinity`, in one pass instead of pair by pair."""
    unit = _unit(z.astype(np.float64))
    total = unit.sum(0)
    like = unit @ _unit(z.sum(0, dtype=np.float64)[None])[0]
    unlike = (unit @ total - np.einsum("nd,nd->n", unit, unit)) / max(1, len(z) - 1)
    score = like - unlike
    return np.asarray(score if aim is None else score + memory * (unit @ _unit(aim[None])[0]), np.float64)


def affinity_reference(z: Float32, aim: Float64 | None, memory: float) -> Float64:
    """State, pair by pair, what `affinity` must compute."""

    def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
        length = float(np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64)))
        return float(a.astype(np.float64) @ b) / length if length else 0.0

    mean, scores = z.mean(0, dtype=np.float64), list[float]()
    for i, row in enumerate(z):
        others = [cosine(row, other) for k, other in enumerate(z) if k != i]
        scores.append(cosine(row, mean) - sum(others) / max(1, len(others)))
        scores[-1] += 0.0 if aim is None else memory * cosine(row, aim)
    return np.array(scores)


def _unit(rows: Float64) -> Float64:
    """Return rows of length 1; rows of length 0 as they are."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0), np.float64)


def _aim(problem: Problem) -> Aim:
    if problem.aim is None:
        raise InvalidValueError("aim", None, "validation rows: select_rows(..., validation=(x, y)), or an `Aim`")
    return problem.aim
