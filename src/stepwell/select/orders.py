"""What a searcher orders and hears: begin a configuration, let one train on, end one; larger values are always better.

A searcher is a deterministic function of its settings and of what it was asked and told. The study writes both down,
so a study that is opened again asks and tells the same once more, and the searcher stands where it stood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from stepwell.core.errors import InvalidValueError
from stepwell.core.registry import Registry
from stepwell.select.space import Params


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


def best_first(told: Mapping[str, float]) -> list[str]:
    """Return names, best first; ties by their number, so that no order of arrival shows."""
    return sorted(told, key=lambda name: (-told[name], number_of(name)))


def number_of(name: str) -> tuple[int, str]:
    """Return what configurations are sorted by: the number in the name, then the name."""
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else 0, name)


def at_least_one(name: str, value: int) -> None:
    """Raise `InvalidValueError` if a number is below 1."""
    if value < 1:
        raise InvalidValueError(name, value, "at least 1")
