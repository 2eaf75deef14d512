"""Where the tables of a lake lie: a local folder, or an object store, which cannot list what it has.

In a folder every table is the subfolder of its name. An object store is asked for `_lineage` instead: its newest row of
a name says whether the table is still there.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.core.errors import DataError, UnknownNameError
from stepwell.storage import delta
from stepwell.storage.delta import Version
from stepwell.storage.derived import index_root
from stepwell.storage.lineage import TABLE, Origin
from stepwell.storage.table import Table

if TYPE_CHECKING:
    from deltalake import DeltaTable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SIDE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")


def is_table(name: str) -> bool:
    """Whether this can be the name of a table that a user writes."""
    return bool(_NAME.fullmatch(name))


def is_stored(name: str) -> bool:
    """Whether this can be the name of anything a lake keeps: a table, a side table `<name>.<part>`, or `_lineage`."""
    return name == TABLE or is_table(name) or bool(_SIDE.fullmatch(name))


class Place:
    """A folder or the address of an object store, and the Delta tables in it by name.

    Args:
        path: Where it is; a local folder is created if it is absent.
        options: Keys and settings of the object store, as the `deltalake` package names them.

    Raises:
        DataError: If the path is a file.
    """

    def __init__(self, path: str | Path, options: Mapping[str, str] | None = None) -> None:
        self.path = str(path).removeprefix("file://")
        self.options = dict(options) if options else None
        self.is_local = "://" not in self.path
        if self.is_local:
            if Path(self.path).is_file():
                raise DataError(self.path, "is a file", "a folder or an object store's address", "name a folder")
            Path(self.path).mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Return the names of all tables, side tables and `_lineage`, sorted.

        Cost: lists the folder; in an object store it reads `_lineage`.
        """
        if self.is_local:
            return sorted(log_folder.parent.name for log_folder in Path(self.path).glob("*/_delta_log"))
        with delta.failures(self.path):
            if delta.open_delta(self.uri(TABLE), None, self.options) is None:
                return []
        rows = Table(TABLE, self.open(TABLE)).to_arrow(["output", "step", "time"]).sort_by("time").to_pylist()
        last = {row["output"]: row["step"] for row in rows}
        return sorted([TABLE, *(name for name, step in last.items() if step != "drop")])

    def uri(self, name: str) -> str:
        """Return the folder or address of a table."""
        return str(Path(self.path) / name) if self.is_local else f"{self.path.rstrip('/')}/{name}"

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """Open a table at a raw version of the format, by default its newest, which a vacuum may have made.

        Raises:
            UnknownNameError: If there is no such table.
            DataError: If there is no such version.
        """
        if name != TABLE and not self.is_local and name not in self.names():
            raise UnknownNameError("table", name, filter(is_table, self.names()))
        with delta.failures(name):
            opened = delta.open_delta(self.uri(name), version, self.options) if is_stored(name) else None
        if opened is None:
            raise UnknownNameError("table", name, self.names() if "." in name else filter(is_table, self.names()))
        return opened

    def versions(self, name: str) -> list[Version]:
        """Return every version of a table that changed rows, oldest first.

        Cost: reads the table's log once for each version; no data.
        """
        entries = delta.history(self.open(name))
        readable = delta.readable_versions(entries)
        found = []
        for entry in entries:
            if not delta.is_vacuum(entry):
                number = int(str(entry["version"]))
                origin = delta.metadata_of(entry).get("origin")
                step = Origin.from_json(origin).step if origin else ""
                rows = int(self.open(name, number).count())
                found.append(
                    Version(number, delta.commit_time(entry), rows, str(entry["operation"]), step, number in readable)
                )
        return found

    def remove(self, name: str) -> None:
        """Remove a table with all its versions and, in a folder, its indexes.

        Raises:
            UnknownNameError: If an object store has no such table.
        """
        if self.is_local:
            for folder in [Path(self.uri(name)), *index_root(self.path).glob(f"{name}@*")]:
                # Out of sight in one step, then deleted at leisure.
                aside = folder.with_name(f"_dropped-{uuid.uuid4().hex[:8]}")
                folder.rename(aside)
                shutil.rmtree(aside)
            return
        opened = self.open(name)
        with delta.failures(name):
            opened.delete()
            delta.vacuum(opened, {int(opened.version())})
