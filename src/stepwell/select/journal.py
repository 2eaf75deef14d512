"""What a session writes down: every event goes to the log, into the records and to whoever listens, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stepwell.core.state import Json
from stepwell.select.log import Event, Log
from stepwell.select.records import Records


class Watcher(Protocol):
    """Hears of every event of a study while it runs: a live table, a tracking server."""

    def hear(self, records: Records, event: Event) -> None:
        """Hear of one event; the records have been changed by it."""

    def close(self, records: Records) -> None:
        """Hear that the session has ended."""


class Journal:
    """The log of a running study, its records and its watchers.

    Args:
        records: What is known; changed by every event.
        watchers: Hear of every event.

    Raises:
        BusyError: If another process runs the study.
    """

    def __init__(self, records: Records, watchers: Sequence[Watcher] = ()) -> None:
        self.records = records
        self._watchers = watchers
        self._log = Log(records.folder / "log.jsonl")

    def write(self, kind: str, values: dict[str, Json], *, durable: bool = False) -> None:
        """Write one event down; with `durable` it is brought to disk at once, see `Log`."""
        self._log.append(kind, values, durable=durable)
        event: Event = {"kind": kind, **values}
        self.records.apply(event)
        for watcher in self._watchers:
            watcher.hear(self.records, event)

    def close(self) -> None:
        """Let others have the study, and tell the watchers."""
        self._log.close()
        for watcher in self._watchers:
            watcher.close(self.records)
