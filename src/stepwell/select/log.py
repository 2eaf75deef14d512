"""What is written down of a study: one line an event, only ever appended.

A line that a crash cut short is the last one; it is left out when the log is read, and overwritten by what follows.
Each line is the kernel's as soon as it is appended, so a killed process loses none. What shall outlive a power cut too
is brought to disk by a thread of its own, many lines at once: no unit waits for the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from stepwell.core.errors import CheckpointError, StepwellError
from stepwell.core.state import Json

Event = dict[str, Json]


class BusyError(StepwellError, RuntimeError):
    """Another process is running this study."""


class Log:
    """The log of a study, open for appending; one process at a time.

    Args:
        path: The file.

    Raises:
        BusyError: If another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BusyError(f"{path.parent} is being run by another process. Wait for it, or stop it.") from None
        whole = _whole_bytes(path)
        if whole < self._file.tell():
            os.truncate(path, whole)
            self._file.seek(0, os.SEEK_END)
        self._due, self._over = threading.Event(), False
        self._syncing = threading.Thread(target=self._sync, name="stepwell-log", daemon=True)
        self._syncing.start()

    def append(self, kind: str, values: Mapping[str, Json], *, durable: bool = False) -> None:
        """Append one event; with `durable` it is brought to disk at once, and is there when the log is closed."""
        self._file.write(json.dumps({"kind": kind, **values}, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        if durable:
            self._due.set()

    def close(self) -> None:
        """Bring what is due to disk, close the file and let others have it."""
        self._over = True
        self._due.set()
        self._syncing.join()
        if self._due.is_set():
            os.fsync(self._file.fileno())
        self._file.close()

    def _sync(self) -> None:
        while not self._over:
            self._due.wait()
            self._due.clear()
            os.fsync(self._file.fileno())


def read_log(path: Path, begin: int = 0) -> Iterator[Event]:
    """Yield the events of a log from a byte on, leaving out a last line that is not whole.

    Raises:
        CheckpointError: If a line before the last is no event.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(begin)
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
                event["kind"]
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(
                    f"{path}, line {number}, is no event: {error}. Restore it from a copy."
                ) from error
            yield cast("Event", event)


def _whole_bytes(path: Path) -> int:
    """Return the length of a file up to its last line's end."""
    data = path.read_bytes()
    return data.rfind(b"\n") + 1
