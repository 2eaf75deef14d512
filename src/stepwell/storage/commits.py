"""Commits: rows become a version of a table together with the record of where they come from.

A commit is checked against the table as it is, written in one step, and repeated in `_lineage`. The record is part of
the commit itself, so a process killed in between loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime

from stepwell.core.errors import DataError, StepwellError
from stepwell.core.log import logger
from stepwell.storage import delta
from stepwell.storage.delta import ConflictError, Mode
from stepwell.storage.files import Rows
from stepwell.storage.lineage import SCHEMA, TABLE, Lineage, Origin
from stepwell.storage.place import Place
from stepwell.storage.schema import compare_schemas, conversions, storable
from stepwell.storage.table import Table

log = logger(__name__)


def commit_rows(
    place: Place,
    name: str,
    source: Rows,
    mode: Mode,
    origin: Origin,
    *,
    metadata: Mapping[str, str] | None = None,
    expected: int | None = None,
) -> int:
    """Commit rows as a version of a table and return its number.

    Args:
        place: Where the tables lie.
        name: The table.
        source: The rows, in any types of Arrow; those that Delta has not are converted without loss.
        mode: `"replace"` all rows, `"append"`, or `"error"` if the table exists.
        origin: How the rows were made.
        metadata: More text for the commit.
        expected: The version the table must still have, -1 for none; None leaves it open.

    Raises:
        DataError: If a value does not fit, the columns differ on append, or the table exists and must not.
        ConflictError: If another writer was faster.
        DiskFullError: If there is no room.

    Cost:
        One pass over the rows; memory is bounded.
    """
    rows = storable(source)
    converted = conversions(source.where, source.schema)
    if converted:
        log.info("%s: stored with other types than %s", name, converted)
    mode, raw = _settle(place, name, rows, mode, expected)
    texts = {**(metadata or {}), "origin": origin.to_json()}
    if converted:
        texts["types"] = json.dumps(converted)
    version = delta.commit(place.uri(name), name, rows, mode, texts, place.options, raw)
    note(place, Lineage(name, version, origin, datetime.now(UTC)))
    return version


def note(place: Place, lineage: Lineage) -> None:
    """Repeat an origin in `_lineage`; a failure is only logged, since the commit itself has it."""
    rows = Rows(TABLE, SCHEMA, lambda columns: iter([lineage.to_row().select(columns)]))
    try:
        delta.commit(place.uri(TABLE), TABLE, rows, "append", {}, place.options, None)
    except StepwellError as error:
        log.warning("The lineage table lacks %s: %s", lineage, error)


def _settle(place: Place, name: str, rows: Rows, mode: Mode, expected: int | None) -> tuple[Mode, int | None]:
    """Check the write against the table as it is; return the mode and raw version to commit with."""
    exists = name in place.names()
    if mode == "error" and exists:
        raise DataError(name, "exists already", "a new name", "choose another name, or mode='replace' or 'append'")
    if expected is not None and (delta.newest_version(place.open(name)) if exists else -1) != expected:
        raise ConflictError(name)
    if not exists:
        return ("error" if place.is_local else "replace"), None
    opened = place.open(name)
    if mode == "append":
        compare_schemas(rows.where, Table(name, opened).schema, rows.schema)
    return mode, (int(opened.version()) if expected is not None else None)
