"""Who is trained how long: everyone to the end (grid, random), a population that copies its best, or by rungs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stepwell.core.errors import InvalidValueError
from stepwell.select.halving import ASHA as ASHA
from stepwell.select.halving import Hyperband as Hyperband
from stepwell.select.halving import SuccessiveHalving as SuccessiveHalving
from stepwell.select.orders import Add, End, Go, Order, Told, Verdict, at_least_one, best_first, searchers
from stepwell.select.space import Params, Space


class _Fixed:
    """Trains a list of configurations, each to the end."""

    def __init__(self, rows: tuple[Params, ...], epochs: int) -> None:
        at_least_one("epochs", epochs)
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
        at_least_one("configs", configs)
        super().__init__(tuple(space.draw(seed, number) for number in range(configs)), epochs)


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
        at_least_one("interval", interval)
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
        ranked = best_first(self._told)
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
