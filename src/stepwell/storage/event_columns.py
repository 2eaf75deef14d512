"""Which columns of a source make an event, as a user names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stepwell.storage.files import Rows
from stepwell.storage.spill import Columns
from stepwell.storage.units import parse_unit


@dataclass(frozen=True, slots=True)
class EventColumns:
    """Names of columns; `Lake.events` says what each may hold.

    Args:
        src: Column of the source node's key, or a pair (key space, column).
        dst: The same for the destination.
        time: Column of the time.
        features: Numeric columns, one column of lists, or an `.npy` file.
        label: Column of one number an event.
        event_type: Column of small integers or of names.
        unit: What the numbers of `time` count, or a pair (source, stored); None takes that of the timestamps, or "s".
    """

    src: str | tuple[str, str] = "src"
    dst: str | tuple[str, str] = "dst"
    time: str = "time"
    features: str | Path | Sequence[str] | None = None
    label: str | None = None
    event_type: str | None = None
    unit: str | tuple[str, str] | None = None

    def in_source(self, rows: Rows) -> Columns:
        """Return the columns with key spaces and units filled in, as they are in a source.

        Raises:
            DataError: If the source has no such column of time.
            InvalidValueError: If there is no such unit.
        """
        file, names = self._features()
        unit, kind = self.unit, rows.select([self.time]).schema.field(self.time).type
        if unit is None:
            unit = kind.unit if pa.types.is_timestamp(kind) else "s"
        src, dst = (("node", end) if isinstance(end, str) else (end[0], end[1]) for end in (self.src, self.dst))
        return Columns(
            src=src,
            dst=dst,
            time=self.time,
            features=names,
            feature_file=file,
            label=self.label or "",
            event_type=self.event_type or "",
            unit=parse_unit(unit),
        )

    def _features(self) -> tuple[str, tuple[str, ...]]:
        """Return the file of features, empty if there is none, and the columns of features."""
        if self.features is None:
            return "", ()
        if isinstance(self.features, Path):
            return str(self.features), ()
        names = (self.features,) if isinstance(self.features, str) else tuple(self.features)
        return (names[0], ()) if names and names[0].endswith(".npy") else ("", names)
