"""What people answered, one line an answer: appended and flushed at once, so that a crash loses nothing answered."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stepwell.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one person about one row.

    Args:
        row: The row.
        label: The class, or None if the person passed on it.
        source: Who answered.
        undone: Whether this takes back the person's last answer about the row instead.
    """

    row: int
    label: str | None
    source: str
    undone: bool = False


class Journal:
    """Answers in a file that only grows.

    Guarantee: an answer that `append` has returned for survives a crash of the process or the machine; a line that a
    crash cut short is left out, and cut off before the next is written. Several processes may append to one journal.

    Args:
        path: The file; it and its folder are made at the first answer.

    Raises:
        DataError: If a whole line is no answer.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.answers: list[Answer] = []
        self._whole = 0
        if self.path.exists():
            with self.path.open("rb") as file:
                self._catch_up(file)

    def _catch_up(self, file: BinaryIO) -> None:
        """Read the whole lines behind those known."""
        file.seek(self._whole)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].decode("utf-8", "replace").splitlines():
            self.answers.append(self._read(len(self.answers) + 1, line))
        self._whole += whole

    def _read(self, number: int, line: str) -> Answer:
        try:
            cells = json.loads(line)
            label = cells["label"]
            return Answer(
                int(cells["row"]), None if label is None else str(label), str(cells["source"]), cells["undone"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path}, line {number}", "it is no answer", "one JSON object a line", "remove that line"
            ) from error

    def append(self, answer: Answer) -> None:
        """Write one answer and wait until it is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cells = {"row": answer.row, "label": answer.label, "source": answer.source, "undone": answer.undone}
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: two desks may share a journal
            self._catch_up(file)
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(json.dumps(cells).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self._whole = file.tell()
        self.answers.append(answer)

    def standing(self, source: str | None = None) -> dict[tuple[int, str], str | None]:
        """Return what stands now: (row, source) to its last answer that was not taken back, in the order answered.

        Args:
            source: Only the answers of this person.
        """
        kept: dict[tuple[int, str], list[str | None]] = {}
        for one in self.answers:
            key = (one.row, one.source)
            if source is not None and one.source != source:
                continue
            before = kept.pop(key, [])
            kept[key] = before[:-1] if one.undone else [*before, one.label]
            if not kept[key]:
                del kept[key]
        return {key: labels[-1] for key, labels in kept.items()}
