"""Every error a user can meet: one sentence with what, allowed, got, and then the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class StepwellError(Exception):
    """The root of all errors raised on purpose."""


class InvalidValueError(StepwellError, ValueError):
    """An argument is outside its allowed range."""

    def __init__(self, name: str, got: object, allowed: str) -> None:
        super().__init__(f"`{name}` must be {allowed}, got {got!r}.")


class UnknownNameError(StepwellError, LookupError):
    """A registry, a table or a batch has no entry of that name."""

    def __init__(self, kind: str, got: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(got, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"No {kind} named {got!r}.{hint} Known: {', '.join(names) or 'none'}.")


class MissingExtraError(StepwellError, ImportError):
    """An optional library is needed and absent."""

    def __init__(self, purpose: str, library: str, extra: str) -> None:
        super().__init__(f"{purpose} needs {library}. Install it with: pip install 'stepwell[{extra}]'")


class DataError(StepwellError, ValueError):
    """Input data cannot be used as it is.

    Args:
        where: The file or table, with the row or column when it is known.
        problem: What is wrong there, with the offending value.
        allowed: What is allowed instead.
        fix: What the user can do next.
    """

    def __init__(self, where: str, problem: str, allowed: str, fix: str) -> None:
        super().__init__(f"{where}: {problem}. Allowed: {allowed}. To mend it: {fix}")
        self.where = where


class LeakError(StepwellError, RuntimeError):
    """A score depends on what had not happened yet."""


class ProtocolError(StepwellError, ValueError):
    """Two scores of different protocols were compared."""


class PlanError(StepwellError, ValueError):
    """The stages of a pipeline do not fit together."""


class CheckpointError(StepwellError, RuntimeError):
    """A saved state is missing, torn or of another shape."""
