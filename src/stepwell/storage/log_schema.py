"""What a log's commit says about itself: how many events and nodes, which columns, unit, spaces, side tables.

The record stands in the metadata of the commit that it describes, so a version can be opened knowing nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stepwell.core.errors import DataError
from stepwell.storage.spill import Columns

KEY = "events"
"""Under this name the record stands in the commit's metadata."""


@dataclass(frozen=True)
class LogSchema:
    """The record of one version.

    Args:
        columns: How the source was read; the default for later appends.
        num_events: Events that have a position.
        next_id: The permanent id that the next event gets.
        num_nodes: N.
        spaces: Names of the key spaces; their codes are the node types.
        text: Whether keys are text.
        directed: Whether an event is seen from its source only.
        width: F of the events, 0 without features.
        node_width: F of the nodes, 0 without features.
        types: Names of the event types, empty if they were numbers.
        notes: What the user should know.
        parent: The version this one was made from, -1 for a first ingest.
        fingerprint: What the source looked like, to recognise it again; or "".
        tables: Versions of the side tables.
    """

    columns: Columns
    num_events: int
    next_id: int
    num_nodes: int
    spaces: tuple[str, ...]
    text: bool
    directed: bool = False
    width: int = 0
    node_width: int = 0
    types: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    parent: int = -1
    fingerprint: str = ""
    tables: tuple[tuple[str, int], ...] = ()

    def to_metadata(self) -> dict[str, str]:
        """Return the commit's metadata."""
        return {KEY: json.dumps(asdict(self)), "tables": json.dumps(dict(self.tables))}

    @classmethod
    def from_metadata(cls, where: str, metadata: Mapping[str, str]) -> LogSchema:
        """Read the record of a commit.

        Raises:
            DataError: If the table is no event log.
        """
        if KEY not in metadata:
            fix = "ingest it with lake.events(name, source, src=..., dst=..., time=...)"
            raise DataError(where, "is a table and no event log", "a name that was ingested as events", fix)
        found = {name: _tuples(value) for name, value in json.loads(metadata[KEY]).items()}
        columns = {name: _tuples(value) for name, value in found.pop("columns").items()}
        return cls(columns=Columns(**columns), **found)

    def table(self, part: str) -> int:
        """Return the version of the side table that ends in `.part`."""
        return next(version for name, version in self.tables if name.endswith(f".{part}"))


def _tuples(value: Any) -> Any:
    """Return lists as tuples, which is what JSON made of them."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
