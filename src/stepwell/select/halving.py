"""Searchers that stop most configurations early: of each rung the best go on."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field

from stepwell.core.errors import InvalidValueError
from stepwell.select.orders import Add, End, Go, Order, Told, Verdict, best_first, number_of, searchers
from stepwell.select.space import Params, Space


@dataclass
class _Rung:
    until: int
    told: dict[str, float]
    promoted: set[str]
    ranked: list[tuple[float, int, str]] = field(default_factory=list)

    def hear(self, name: str, value: float) -> None:
        """Take a result in."""
        self.told[name] = value
        insort(self.ranked, (-value, len(self.ranked), name))

    def next(self, count: int) -> str | None:
        """Return the first of the best `count` that is not promoted yet; the first told wins a tie."""
        found = (name for value, _, name in self.ranked[:count] if name not in self.promoted and math.isfinite(value))
        return next(found, None)


def rungs(epochs: int, first: int, eta: int) -> list[int]:
    """Return the epochs of the rungs: `first`, times `eta` each, and `epochs` as the last.

    Raises:
        InvalidValueError: If `eta < 2` or `first` is not within 1 and `epochs`.
    """
    if eta < 2:
        raise InvalidValueError("eta", eta, "at least 2")
    if not 1 <= first <= epochs:
        raise InvalidValueError("first", first, f"within 1 and epochs ({epochs})")
    found = []
    while first < epochs:
        found.append(first)
        first *= eta
    return [*found, epochs]


@searchers.register("halving")
class SuccessiveHalving:
    """All configurations train a little; of each rung the best `1 / eta` train on, once the whole rung has been told.

    Its decisions do not depend on the order in which results come, so they are the same for any number of workers.

    Args:
        space: The space.
        epochs: Epochs of the last rung.
        configs: Configurations of the first rung, drawn at random; None takes the grid.
        first: Epochs of the first rung.
        eta: One in how many goes on.
        seed: Of the draws.

    References:
        Jamieson and Talwalkar, "Non-stochastic Best Arm Identification", AISTATS 2016.
    """

    def __init__(
        self, space: Space, epochs: int, configs: int | None = None, first: int = 1, eta: int = 3, seed: int = 0
    ) -> None:
        rows = space.grid() if configs is None else tuple(space.draw(seed, number) for number in range(configs))
        self._init(rows, rungs(epochs, first, eta), eta)

    def _init(self, rows: tuple[Params, ...], levels: list[int], eta: int) -> None:
        self._rows, self._eta, self._next = rows, eta, 0
        self._rungs = [_Rung(until, {}, set()) for until in levels]
        self._sizes = [max(1, len(rows) // eta**level) for level in range(len(levels))]
        self._place: dict[str, int] = {}
        self._orders: list[Order] = []

    @classmethod
    def _of(cls, rows: tuple[Params, ...], levels: list[int], eta: int) -> SuccessiveHalving:
        made = cls.__new__(cls)
        made._init(rows, levels, eta)
        return made

    def ask(self, name: str, *, room: bool) -> Order | None:
        if self._orders:
            return self._orders.pop(0)
        if not room or self._next == len(self._rows):
            return None
        self._next += 1
        self._place[name] = 0
        return Add(self._rows[self._next - 1], self._rungs[0].until)

    def tell(self, told: Told) -> Verdict:
        level = self._place[told.config]
        rung = self._rungs[level]
        rung.told[told.config] = told.value
        if level + 1 == len(self._rungs):
            return "finish"
        if len(rung.told) == self._sizes[level]:
            winners = set(best_first(rung.told)[: self._sizes[level + 1]])
            for name in sorted(rung.told, key=number_of):
                if name in winners and math.isfinite(rung.told[name]):
                    self._place[name] = level + 1
                    self._orders.append(Go(name, self._rungs[level + 1].until))
                else:
                    self._orders.append(End(name, f"not among the best 1/{self._eta} after {rung.until} epochs"))
            going = sum(isinstance(order, Go) for order in self._orders)
            self._sizes[level + 1] = going
        return "pause"


@searchers.register("asha")
class ASHA:
    """Successive halving that waits for nobody: whoever is among the best `1 / eta` of its rung so far goes on.

    A study begins at most 16 at once, so that the first results have a say in what is begun next.

    Args:
        space: The space.
        epochs: Epochs of the last rung.
        configs: Configurations to begin, drawn at random; None takes the grid.
        first: Epochs of the first rung.
        eta: One in how many goes on.
        seed: Of the draws.

    References:
        Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
    """

    at_once = 16

    def __init__(
        self, space: Space, epochs: int, configs: int | None = None, first: int = 1, eta: int = 3, seed: int = 0
    ) -> None:
        self._rows = space.grid() if configs is None else tuple(space.draw(seed, number) for number in range(configs))
        self._eta, self._next = eta, 0
        self._rungs = [_Rung(until, {}, set()) for until in rungs(epochs, first, eta)]
        self._place: dict[str, int] = {}

    def ask(self, name: str, *, room: bool) -> Order | None:
        for level in range(len(self._rungs) - 2, -1, -1):
            rung = self._rungs[level]
            winner = rung.next(len(rung.told) // self._eta)
            if winner is not None:
                rung.promoted.add(winner)
                self._place[winner] = level + 1
                return Go(winner, self._rungs[level + 1].until)
        if not room or self._next == len(self._rows):
            return None
        self._next += 1
        self._place[name] = 0
        return Add(self._rows[self._next - 1], self._rungs[0].until)

    def tell(self, told: Told) -> Verdict:
        level = self._place[told.config]
        self._rungs[level].hear(told.config, told.value)
        return "finish" if level + 1 == len(self._rungs) else "pause"


@searchers.register("hyperband")
class Hyperband:
    """Successive halving from several first rungs at once: nobody has to guess how early a result can be trusted.

    Args:
        space: The space.
        epochs: Epochs of the last rung of every bracket.
        eta: One in how many goes on.
        seed: Of the draws.

    References:
        Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018, algorithm 1.
    """

    def __init__(self, space: Space, epochs: int, eta: int = 3, seed: int = 0) -> None:
        rungs(epochs, 1, eta)
        most = 0
        while eta ** (most + 1) <= epochs:
            most += 1
        self._brackets: list[SuccessiveHalving] = []
        drawn = 0
        for bracket in range(most, -1, -1):
            count = math.ceil((most + 1) / (bracket + 1) * eta**bracket)
            levels = [max(1, epochs // eta**left) for left in range(bracket, -1, -1)]
            rows = tuple(space.draw(seed, drawn + number) for number in range(count))
            drawn += count
            self._brackets.append(SuccessiveHalving._of(rows, levels, eta))
        self._of: dict[str, SuccessiveHalving] = {}

    @property
    def brackets(self) -> tuple[tuple[int, int], ...]:
        """Configurations and first rung of each bracket, the most adventurous first."""
        return tuple((len(one._rows), one._rungs[0].until) for one in self._brackets)

    def ask(self, name: str, *, room: bool) -> Order | None:
        for bracket in self._brackets:
            order = bracket.ask(name, room=room)
            if order is not None:
                if isinstance(order, Add):
                    self._of[name] = bracket
                return order
        return None

    def tell(self, told: Told) -> Verdict:
        return self._of[told.config].tell(told)
