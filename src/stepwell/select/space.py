"""What may be tried: named dimensions, conditions between them, and where a searcher draws from.

Every configuration is drawn from a generator of its own, keyed by (seed, number), and its dimensions one after the
other from that one generator. So dimensions are independent, and a configuration is the same whenever it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from stepwell.core.errors import InvalidValueError, UnknownNameError

Value: TypeAlias = "str | int | float | bool | None"
Params: TypeAlias = Mapping[str, Value]


@runtime_checkable
class Dimension(Protocol):
    """The values that one parameter may take."""

    def draw(self, random: np.random.Generator) -> Value:
        """Return one value at random."""

    def grid(self) -> tuple[Value, ...]:
        """Return the values of a grid."""

    def near(self, value: Value, random: np.random.Generator) -> Value:
        """Return a value close to `value`, for searchers that perturb."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values.

    Args:
        values: The values; their order is that of the grid, and neighbours in it count as near.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise InvalidValueError("values", (), "at least one value")

    def draw(self, random: np.random.Generator) -> Value:
        return self.values[int(random.integers(len(self.values)))]

    def grid(self) -> tuple[Value, ...]:
        return self.values

    def near(self, value: Value, random: np.random.Generator) -> Value:
        place = self.values.index(value) + (1 if random.random() < 0.5 else -1)
        return self.values[min(max(place, 0), len(self.values) - 1)]


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number between two others, evenly, or evenly in its logarithm.

    Args:
        low: The smallest value.
        high: The largest one.
        log: Whether factors count instead of differences; then `low` is above 0.
        steps: Values in a grid, equally far apart; 0 forbids a grid.

    Example:
        >>> Uniform(1e-4, 1e-1, log=True, steps=4).grid()
        (0.0001, 0.001, 0.01, 0.1)
    """

    low: float
    high: float
    log: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    def draw(self, random: np.random.Generator) -> Value:
        return self._at(random.random())

    def grid(self) -> tuple[Value, ...]:
        if self.steps < 1:
            raise InvalidValueError("steps", self.steps, "at least 1 for a grid; or draw at random instead")
        return tuple(self._at(i / max(self.steps - 1, 1)) for i in range(self.steps))

    def near(self, value: Value, random: np.random.Generator) -> Value:
        factor = 1.2 if random.random() < 0.5 else 0.8
        return min(max(float(value or 0.0) * factor, self.low), self.high)

    def _at(self, share: float) -> float:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return min(max(float(f"{math.exp(low + share * (high - low)):.12g}"), self.low), self.high)
        return min(max(self.low + share * (self.high - self.low), self.low), self.high)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number between two others, both included.

    Args:
        low: The smallest value.
        high: The largest one.
        log: Whether factors count instead of differences; then `low` is above 0.
        steps: Values in a grid; 0 takes all of them.
    """

    low: int
    high: int
    log: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        _check_range(self.low, self.high, log=self.log)

    def draw(self, random: np.random.Generator) -> Value:
        if not self.log:
            return int(random.integers(self.low, self.high + 1))
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(max(round(math.exp(low + random.random() * (high - low))), self.low), self.high)

    def grid(self) -> tuple[Value, ...]:
        if not self.steps:
            return tuple(range(self.low, self.high + 1))
        inner = Uniform(self.low, self.high, self.log, self.steps)
        return tuple(dict.fromkeys(round(float(value or 0.0)) for value in inner.grid()))

    def near(self, value: Value, random: np.random.Generator) -> Value:
        up = random.random() < 0.5
        old = int(value or 0)
        new = max(old + 1, round(old * 1.2)) if up else min(old - 1, round(old * 0.8))
        return min(max(new, self.low), self.high)


@dataclass(frozen=True, slots=True)
class When:
    """A dimension that exists only while another parameter has certain values.

    Args:
        name: The other parameter; it stands earlier in the space.
        values: Its values under which this one exists.
        then: The dimension.

    Example:
        >>> Space({"kind": ["sgd", "adam"], "momentum": When("kind", ("sgd",), Choice((0.0, 0.9)))}).grid()
        ({'kind': 'sgd', 'momentum': 0.0}, {'kind': 'sgd', 'momentum': 0.9}, {'kind': 'adam'})
    """

    name: str
    values: tuple[Value, ...]
    then: Dimension


@dataclass(frozen=True, slots=True)
class Space:
    """All configurations that may be tried.

    Args:
        dimensions: Name to a dimension; a list or tuple of values is a `Choice`, a single value is fixed.

    Raises:
        InvalidValueError: If a dimension is none of these.
        UnknownNameError: If a condition names a parameter that does not stand before it.
    """

    dimensions: Mapping[str, Dimension | When | Sequence[Value] | Value]

    def __post_init__(self) -> None:
        known: dict[str, Dimension | When] = {}
        for name, given in self.dimensions.items():
            if isinstance(given, When) and given.name not in known:
                raise UnknownNameError(f"parameter before {name!r}", given.name, known)
            known[name] = _dimension(name, given)
        object.__setattr__(self, "dimensions", known)

    def draw(self, seed: int, number: int) -> Params:
        """Return configuration `number` of the random sequence with this seed."""
        random = np.random.default_rng([seed, number, 0x5EA])
        drawn: dict[str, Value] = {}
        for name, dimension in self._active(drawn):
            drawn[name] = dimension.draw(random)
        return drawn

    def grid(self) -> tuple[Params, ...]:
        """Return every combination once, the last dimension changing fastest.

        Raises:
            InvalidValueError: If a dimension is continuous and has no steps.
        """
        rows: list[dict[str, Value]] = [{}]
        for name, given in self._known().items():
            grown: list[dict[str, Value]] = []
            for row in rows:
                dimension = _if_active(given, row)
                grown += [row] if dimension is None else [{**row, name: value} for value in dimension.grid()]
            rows = grown
        return tuple(rows)

    @property
    def continuous(self) -> frozenset[str]:
        """The names of the dimensions that are numbers without steps: rates, not shapes."""
        kinds = {name: given.then if isinstance(given, When) else given for name, given in self._known().items()}
        return frozenset(name for name, kind in kinds.items() if isinstance(kind, Uniform))

    def near(self, params: Params, seed: int, number: int, names: Iterable[str] | None = None) -> Params:
        """Return a configuration near `params`: values moved a little, parameters that no longer apply left out.

        Args:
            params: The configuration.
            seed: Of the moves.
            number: Which of the random moves with this seed.
            names: What may move; everything if None.
        """
        movable = set(self._known() if names is None else names)
        random = np.random.default_rng([seed, number, 0xBA7])
        moved: dict[str, Value] = {}
        for name, dimension in self._active(moved):
            if name not in params:
                moved[name] = dimension.draw(random)
            else:
                moved[name] = dimension.near(params[name], random) if name in movable else params[name]
        return moved

    def _known(self) -> Mapping[str, Dimension | When]:
        return self.dimensions  # type: ignore[return-value]

    def _active(self, drawn: Mapping[str, Value]) -> Iterator[tuple[str, Dimension]]:
        """Yield the dimensions that apply, given what is drawn meanwhile."""
        for name, given in self._known().items():
            dimension = _if_active(given, drawn)
            if dimension is not None:
                yield name, dimension


def _if_active(given: Dimension | When, drawn: Mapping[str, Value]) -> Dimension | None:
    if not isinstance(given, When):
        return given
    return given.then if given.name in drawn and drawn[given.name] in given.values else None


def _dimension(name: str, given: object) -> Dimension | When:
    if isinstance(given, When):
        return When(given.name, tuple(given.values), given.then)
    if isinstance(given, Dimension):
        return given
    if isinstance(given, list | tuple):
        return Choice(tuple(given))
    if given is None or isinstance(given, str | int | float | bool):
        return Choice((given,))
    raise InvalidValueError(f"space[{name!r}]", given, "a dimension, a list of values or one value")


def _check_range(low: float, high: float, *, log: bool) -> None:
    if not low <= high:
        raise InvalidValueError("high", high, f"at least low ({low})")
    if log and low <= 0:
        raise InvalidValueError("low", low, "above 0 where log is asked for")
