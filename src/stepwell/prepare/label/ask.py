"""What to ask next, and whom: the votes that are expected to tell most for what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.prepare.label.labels import Labels
from stepwell.prepare.label.votes import Floats

EXPERT = ""  # the name of a source that is always right
_BLOCK = 65_536  # items looked at together, which bounds memory


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who can be asked.

    Args:
        source: Name of a source of the labels; `""` for an expert who is always right.
        cost: Price of one answer.

    Raises:
        InvalidValueError: If the price is not above 0.
    """

    source: str = EXPERT
    cost: float = 1.0

    def __post_init__(self) -> None:
        if not self.cost > 0:
            raise InvalidValueError("cost", self.cost, "above 0")


def ask(labels: Labels, budget: float, askers: tuple[Asker, ...] = (Asker(),)) -> pa.Table:
    """Return which items to have labelled next, and by whom, best first, for at most `budget`.

    The gain of a question is the expected fall of the item's entropy in nats: what an answer tells of the truth. Each
    item gets the asker with the largest gain for its price who has not voted on it; items are then taken in the order
    of gain for price while the budget lasts. Items whose truth was given are not asked about.

    Args:
        labels: What is known.
        budget: What all questions together may cost.
        askers: Who can be asked.

    Returns:
        `_row`, `source`, `gain`, `cost`.

    Raises:
        InvalidValueError: If the budget is negative or there are no askers.
        UnknownNameError: If an asker is no source of the labels.

    Cost: O(N K^2 a) for a askers, in blocks.
    """
    if budget < 0 or not askers:
        raise InvalidValueError("budget, askers", (budget, askers), "a budget of at least 0 and somebody to ask")
    says = [_says(labels, one.source) for one in askers]
    gain = np.stack([information(labels.probabilities, one) for one in says], 1)
    free = _may_be_asked(labels, askers)
    cost = np.array([one.cost for one in askers])
    rate = np.where(free, gain / cost, -np.inf)
    best = rate.argmax(1)
    worth = rate[np.arange(len(rate)), best]
    order = np.lexsort((labels.rows, -worth))
    order = order[worth[order] > 0]
    price = cost[best[order]]
    order = order[np.cumsum(price) <= budget + 1e-9]
    chosen = best[order]
    names = pa.array([one.source for one in askers], pa.string())
    columns = {"_row": labels.rows[order], "source": names.take(pa.array(chosen)), "gain": gain[order, chosen]}
    return pa.table({**columns, "cost": cost[chosen]})


def information(probabilities: Floats, says: Floats) -> Floats:
    """Return what one answer tells of each item's class, in nats: their mutual information, `[N]`.

    Args:
        probabilities: Of each class, `[N, K]`.
        says: Probability of each answer given the class, `[K, L]`.

    Cost: O(N K L), in blocks.
    """
    silent = _entropy(says)
    found = np.empty(len(probabilities))
    for begin in range(0, len(probabilities), _BLOCK):
        block = probabilities[begin : begin + _BLOCK]
        found[begin : begin + _BLOCK] = _entropy(block @ says) - block @ silent
    return np.maximum(found, 0.0)


def _entropy(shares: Floats) -> Floats:
    tiny = np.finfo(np.float64).tiny
    found: Floats = -(shares * np.log(np.maximum(shares, tiny))).sum(-1)
    return found


def _says(labels: Labels, source: str) -> Floats:
    if source == EXPERT:
        return np.eye(len(labels.votes.classes))
    if source not in labels.votes.sources:
        raise UnknownNameError("source", source, labels.votes.sources)
    one: Floats = labels.belief.says[labels.votes.sources.index(source)]
    return one


def _may_be_asked(labels: Labels, askers: tuple[Asker, ...]) -> npt.NDArray[np.bool_]:
    votes = labels.votes
    free = np.ones((len(labels.rows), len(askers)), bool)
    for number, one in enumerate(askers):
        if one.source != EXPERT:
            free[votes.item[votes.source == votes.sources.index(one.source)], number] = False
    free[np.isin(labels.rows, np.array(list(labels.gold), np.int64))] = False
    return free


@dataclass(frozen=True, slots=True)
class Jury:
    """Voters whose majority decides.

    Args:
        members: Their names.
        error: Probability that their majority is wrong.
        cost: What they cost together.
    """

    members: tuple[str, ...]
    error: float
    cost: float


def jury(accuracy: Mapping[str, float], budget: float = np.inf, cost: Mapping[str, float] | None = None) -> Jury:
    """Return the voters whose majority errs least, an odd number, within a budget.

    Where all cost the same, the best jury of each size is made of the best voters, so the result is the optimum. Else
    the voters are tried in several orders (accuracy, price, log odds for the price), pairs are added while they lower
    the error, and the best of these juries is returned: good, not certain to be the optimum.

    Args:
        accuracy: Voter to its probability of being right on a question with two answers.
        budget: What all members may cost.
        cost: Voter to its price; 1 where it is absent.

    Raises:
        InvalidValueError: If an accuracy is no probability, a price is not above 0, or nobody can be paid.

    Cost: O(n^3) for equal prices, O(n^3) for each order else.

    References:
        Cao, She, Tong and Chen, "Whom to ask? Jury selection for decision making tasks on micro-blog services",
        PVLDB 5(11), 2012. Differs: several greedy orders where prices differ.
    """
    price = {name: (cost or {}).get(name, 1.0) for name in accuracy}
    for name, share in accuracy.items():
        if not 0 <= share <= 1 or not price[name] > 0:
            raise InvalidValueError(f"accuracy, cost of {name!r}", (share, price[name]), "a probability and a price")
    payable = [name for name in accuracy if price[name] <= budget]
    if not payable:
        raise InvalidValueError("budget", budget, "enough for one voter")
    best = sorted(payable, key=lambda name: (-accuracy[name], price[name], name))
    if len({price[name] for name in payable}) == 1:
        most = int(min(len(best), budget / price[best[0]] + 1e-9)) if np.isfinite(budget) else len(best)
        juries = [_jury(best[:size], accuracy, price) for size in range(1, most + 1, 2)]
    else:
        odds = {name: _odds(accuracy[name]) / price[name] for name in payable}
        orders = (best, sorted(payable, key=lambda name: (-odds[name], name)), sorted(payable, key=lambda n: price[n]))
        juries = [_grown(order, accuracy, price, budget) for order in orders]
    return min(juries, key=lambda one: (one.error, one.cost, one.members))


def jury_error(accuracy: npt.ArrayLike) -> float:
    """Return the probability that half of the voters or more are wrong: the tail of a Poisson-binomial distribution.

    Args:
        accuracy: Each voter's probability of being right.

    Cost: O(n^2).
    """
    wrong = np.ones(1)  # probability of each number of wrong votes so far
    shares = np.asarray(accuracy, np.float64)
    for share in shares:
        wrong = np.append(wrong * share, 0.0) + np.append(0.0, wrong * (1 - share))
    return float(wrong[(len(shares) + 1) // 2 :].sum())


def _jury(members: list[str], accuracy: Mapping[str, float], price: Mapping[str, float]) -> Jury:
    error = jury_error([accuracy[name] for name in members])
    return Jury(tuple(sorted(members)), error, sum(price[name] for name in members))


def _grown(order: list[str], accuracy: Mapping[str, float], price: Mapping[str, float], budget: float) -> Jury:
    """Start with the first voter and add pairs, in order, while each pair lowers the error and can be paid."""
    held = _jury(order[:1], accuracy, price)
    waiting = order[1:]
    while len(waiting) >= 2:
        tried = [_jury([*held.members, a, b], accuracy, price) for a, b in pairwise(waiting)]
        able = [one for one in tried if one.cost <= budget and one.error < held.error]
        if not able:
            break
        held = min(able, key=lambda one: one.error)
        waiting = [name for name in waiting if name not in held.members]
    return held


def _odds(share: float) -> float:
    held = min(max(share, 1e-9), 1 - 1e-9)
    return float(np.log(held / (1 - held)))
