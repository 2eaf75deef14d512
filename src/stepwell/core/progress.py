"""Progress of long work: one live line on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from stepwell.core.settings import settings


class Task(Protocol):
    """One line of progress."""

    def advance(self, amount: int = 1) -> None:
        """Say that `amount` more units are done."""

    def note(self, text: str) -> None:
        """Show `text` (a loss, a rate) behind the bar."""


class _Silent:
    def advance(self, amount: int = 1) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


class _Line:
    def __init__(self, bar: object, task: int) -> None:
        self._bar = bar
        self._task = task

    def advance(self, amount: int = 1) -> None:
        self._bar.advance(self._task, amount)  # type: ignore[attr-defined]

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=text)  # type: ignore[attr-defined]


@contextmanager
def progress(label: str, total: int | None = None, unit: str = "rows", rank: int = 0) -> Iterator[Task]:
    """Draw one live line on stderr while the block runs.

    Silent when stderr is no terminal, when `STEPWELL_PROGRESS=0`, or on any rank but 0.

    Args:
        label: What is being done.
        total: How many units there are, or None if that is unknown.
        unit: The unit's name.
        rank: The rank of this process in a distributed run.
    """
    if rank != 0 or not settings().progress or not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Line(bar, bar.add_task(label, total=total, note=""))
