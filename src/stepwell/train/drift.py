"""Drift: detectors hear the error of each batch and say when it has become another one; a reaction says what then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from stepwell.core.errors import InvalidValueError, MissingExtraError
from stepwell.core.state import Json, StateReader, StateWriter


class Detector(Protocol):
    """Hears numbers one after the other and says when their mean has changed; stateful."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def update(self, value: float) -> bool:
        """Hear the next number; return whether a change is found now."""

    def save(self, writer: StateWriter) -> None:
        """Write what was heard, as far as the next answers depend on it."""

    def load(self, reader: StateReader) -> None:
        """Go on from what `save` wrote."""


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a learner does in the batch in which a detector finds a change, and in those after it.

    Args:
        forget: Share of the remembered rows of before the change that go; 1 empties the memory of them, 0 keeps all.
        recent: Batches before the finding whose rows count as new: a detector is late by about as many.
        quota: Factor of the share of each batch that is learnt, up to all of it.
        batches: For how many batches the quota is raised, the one of the finding included.

    Raises:
        InvalidValueError: If a value is outside its range.
    """

    forget: float = 1.0
    recent: int = 1
    quota: float = 2.0
    batches: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.forget <= 1:
            raise InvalidValueError("forget", self.forget, "a share from 0 to 1")
        if self.recent < 0 or self.batches < 0:
            raise InvalidValueError("recent, batches", (self.recent, self.batches), "at least 0")
        if not self.quota >= 1:
            raise InvalidValueError("quota", self.quota, "at least 1")


@dataclass
class PageHinkley:
    """Finds a rise of the mean: the sum of what exceeds the mean so far, against its lowest point.

    Args:
        threshold: How far the sum must rise; in units of the numbers.
        slack: What each number may exceed the mean by without counting.
        grace: Numbers heard before anything is said.

    References:
        Page, "Continuous inspection schemes", Biometrika 1954; Hinkley 1971.
    """

    threshold: float = 0.5
    slack: float = 0.02
    grace: int = 10
    name: str = "page-hinkley"

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise InvalidValueError("threshold", self.threshold, "above 0")
        self._count, self._mean, self._sum, self._least = 0, 0.0, 0.0, 0.0

    def update(self, value: float) -> bool:
        """Hear the next number; forget all of them when a change is found."""
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._sum += value - self._mean - self.slack
        self._least = min(self._least, self._sum)
        if self._count <= self.grace or self._sum - self._least <= self.threshold:
            return False
        self.__post_init__()
        return True

    def save(self, writer: StateWriter) -> None:
        """Write count, mean, sum and its lowest point."""
        writer.value("page-hinkley", [self._count, self._mean, self._sum, self._least])

    def load(self, reader: StateReader) -> None:
        """Go on from what `save` wrote."""
        count, self._mean, self._sum, self._least = cast("list[float]", reader.value("page-hinkley"))
        self._count = int(count)


class River:
    """A detector of the library river: `"ADWIN"`, `"KSWIN"`, `"PageHinkley"` and others, at their own defaults.

    What it heard since its last finding is kept, and said again after a resume, since its own state has no format.

    Args:
        kind: Name of a class of `river.drift`.

    Raises:
        MissingExtraError: If river is not installed.
        InvalidValueError: If it has no such detector.
    """

    def __init__(self, kind: str = "ADWIN") -> None:
        try:
            from river import drift  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise MissingExtraError("River", "river", "stream") from error
        if not hasattr(drift, kind):
            raise InvalidValueError("kind", kind, "a detector of river.drift, such as 'ADWIN'")
        self.name = kind
        self._make = getattr(drift, kind)
        self._detector = self._make()
        self._heard: list[float] = []

    def update(self, value: float) -> bool:
        """Hear the next number; begin anew when a change is found."""
        self._detector.update(value)
        self._heard.append(float(value))
        if not self._detector.drift_detected:
            return False
        self._detector, self._heard = self._make(), []
        return True

    def save(self, writer: StateWriter) -> None:
        """Write every number heard since the last finding."""
        writer.value("heard", cast("Json", list(self._heard)))

    def load(self, reader: StateReader) -> None:
        """Say again to a new detector what the saved one had heard.

        Cost: one update a number heard since the last finding.
        """
        heard, self._heard = cast("list[float]", reader.value("heard")), []
        self._detector = self._make()
        for value in heard:
            self.update(value)
