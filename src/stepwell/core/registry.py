"""One registry for everything that has a name in text: recipes, samplers, policies, data sets, models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from stepwell.core.errors import InvalidValueError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects, filled by decorators here and by entry points elsewhere.

    Third parties join by the entry-point group `stepwell.<kind>`; these are read at the first look-up
    of a name that is not known, so importing Stepwell never imports a plug-in.

    Args:
        kind: What is registered, in the singular (`"sampler"`); used in messages and for the group.

    Example:
        >>> shapes = Registry[type]("shape")
        >>> @shapes.register("square")
        ... class Square: ...
        >>> shapes["square"] is Square
        True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._plugins_read = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its object under `name`."""

        def add(entry: T) -> T:
            if name in self._entries and self._entries[name] is not entry:
                raise InvalidValueError(f"{self.kind} name", name, "a name not taken yet")
            self._entries[name] = entry
            return entry

        return add

    def _read_plugins(self) -> None:
        if not self._plugins_read:
            self._plugins_read = True
            for point in entry_points(group=f"stepwell.{self.kind.replace(' ', '_')}"):
                self._entries.setdefault(point.name, point.load())

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._read_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        self._read_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._read_plugins()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._read_plugins()
        return len(self._entries)
