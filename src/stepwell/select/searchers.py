"""Who is trained how long: searchers give orders and hear results; larger values are always better to them.

A searcher is a deterministic function of its settings and of what it was asked and told. The study writes both down,
so a study that is opened again asks and tells the same once more, and the searcher stands where it stood.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from stepwell.core.errors import InvalidValueError
from stepwell.core.registry import Registry
from stepwell.select.space import Params, Space


class Add(NamedTuple):
    """Begin a new configuration.

    Args:
        params: Its parameters.
        until: Epochs after which it pauses and its result is told.
        parent: A configuration whose weights and optimiser it starts from, or none.
    """

    params: Params
    until: int
    parent: str = ""


class Go(NamedTuple):
    """Let a paused configuration train on.

    Args:
        config: Its name.
        until: Epochs after which it pauses again.
    """

    config: str
    until: int


class End(NamedTuple):
    """End a paused configuration.

    Args:
        config: Its name.
        why: In a few words.
    """

    config: str
    why: str


Order: TypeAlias = "Add | Go | End"


class Told(NamedTuple):
    """What one configuration reached.

    Args:
        config: Its name.
        epoch: Finished epochs.
        value: Its metric, larger is better; minus infinity if it failed.
    """

    config: str
    epoch: int
    value: float


Verdict = Literal["pause", "finish"]


@runtime_checkable
class Searcher(Protocol):
    """Gives orders and hears results."""

    def ask(self, name: str, *, room: bool) -> Order | None:
        """Return the next order, or None if there is none now; None changes nothing.

        Args:
            name: What a new configuration will be called.
            room: Whether a new configuration may begin now.
        """

    def tell(self, told: Told) -> Verdict:
        """Hear a result at the epoch that was ordered; say whether the configuration may be asked for again."""


searchers: Registry[type] = Registry("searcher")


class _Fixed:
    """Trains a list of configurations, each to the end."""

    def __init__(self, rows: tuple[Params, ...], epochs: int) -> None:
        _at_least_one("epochs", epochs)
        self._rows, self._epochs, self._next = rows, epochs, 0

    def ask(self, name: str, *, room: bool) -> Order | None:
        if not room or self._next == len(self._rows):
            return None
        self._next += 1
        return Add(self._rows[self._next - 1], self._epochs)

    def tell(self, told: Told) -> Verdict:
        return "finish"


@searchers.register("grid")
class Grid(_Fixed):
    """Every combination of a space.

    Args:
        space: The space.
        epochs: Epochs of each.
    """

    def __init__(self, space: Space, epochs: int) -> None:
        super().__init__(space.grid(), epochs)


@searchers.register("random")
class Random(_Fixed):
    """Configurations drawn at random.

    Args:
        space: The space.
        epochs: Epochs of each.
        configs: How many.
        seed: Of the draws.
    """

    def __init__(self, space: Space, epochs: int, configs: int, seed: int = 0) -> None:
        _at_least_one("configs", configs)
        super().__init__(tuple(space.draw(seed, number) for number in range(configs)), epochs)


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
            winners = set(_ranked(rung.told)[: self._sizes[level + 1]])
            for name in sorted(rung.told, key=_number):
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


@searchers.register("pbt")
class PBT:
    """A population whose worst members are replaced, every few epochs, by changed copies of its best.

    A copy starts from weights and optimiser of the member it copies. A generation is judged when all of it has been
    told, so the outcome does not depend on the number of workers.

    Args:
        space: The space.
        epochs: Epochs of each line of descent.
        configs: Size of the population.
        interval: Epochs between judgements.
        share: Share of the population that is replaced, above 0 and at most a half.
        seed: Of the draws.
        changes: Names of the parameters that a copy changes; the continuous ones if None. One that shapes the model
            must not be among them, since the copy takes over its parent's weights.

    References:
        Jaderberg et al., "Population Based Training of Neural Networks", 2017, arXiv:1711.09846 (truncation selection).
        Differs: a copy is a new configuration with its own name, so that no curve mixes two settings.
    """

    def __init__(
        self,
        space: Space,
        epochs: int,
        configs: int = 8,
        interval: int = 1,
        share: float = 0.25,
        seed: int = 0,
        changes: Sequence[str] | None = None,
    ) -> None:
        _at_least_one("interval", interval)
        if configs < 2:
            raise InvalidValueError("configs", configs, "at least 2")
        if not 0 < share <= 0.5:
            raise InvalidValueError("share", share, "above 0 and at most 0.5")
        self._space, self._epochs, self._interval, self._seed = space, epochs, interval, seed
        self._changes = sorted(space.continuous) if changes is None else list(changes)
        self._replaced = max(1, int(configs * share))
        self._told: dict[str, float] = {}
        self._size, self._copies = configs, 0
        self._params: dict[str, Params] = {}
        first = min(interval, epochs)
        self._orders: list[Order] = [Add(space.draw(seed, number), first) for number in range(configs)]

    def ask(self, name: str, *, room: bool) -> Order | None:
        if not self._orders or (isinstance(self._orders[0], Add) and not self._orders[0].parent and not room):
            return None
        order = self._orders.pop(0)
        if isinstance(order, Add):
            self._params[name] = order.params
        return order

    def tell(self, told: Told) -> Verdict:
        if told.epoch >= self._epochs:
            return "finish"
        self._told[told.config] = told.value
        if len(self._told) == self._size:
            self._judge(min(told.epoch + self._interval, self._epochs))
        return "pause"

    def _judge(self, until: int) -> None:
        ranked = _ranked(self._told)
        failed = {name for name in ranked if not math.isfinite(self._told[name])}
        top = [name for name in ranked[: self._replaced] if name not in failed]
        bottom = ranked[len(ranked) - max(self._replaced, len(failed)) :]
        self._told = {}
        if not top:
            self._orders += [End(name, "the whole population failed") for name in ranked]
            return
        for place, name in enumerate(bottom):
            best = top[place % len(top)]
            self._copies += 1
            near = self._space.near(self._params[best], self._seed, self._copies, self._changes)
            self._orders += [Add(near, until, best), End(name, f"replaced by a copy of {best}")]
        self._orders += [Go(name, until) for name in ranked if name not in bottom]


def _ranked(told: Mapping[str, float]) -> list[str]:
    """Return names, best first; ties by their number, so that no order of arrival shows."""
    return sorted(told, key=lambda name: (-told[name], _number(name)))


def _number(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else 0, name)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InvalidValueError(name, value, "at least 1")
