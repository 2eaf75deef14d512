"""Files into the lake with row ids and origins: which file, and which row of it, every row comes from."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError
from stepwell.core.log import logger
from stepwell.prepare.fingerprint import fingerprint
from stepwell.prepare.row_ids import distinct_ids, key_ids
from stepwell.prepare.step import ROW
from stepwell.storage import Lake, Table, open_source
from stepwell.storage.files import Rows as LakeRows
from stepwell.storage.lineage import Input, Origin
from stepwell.storage.sources import Source

log = logger(__name__)

ORIGINS = pa.schema([(ROW, pa.int64()), ("file", pa.string()), ("place", pa.int64())])


def ingest(lake: Lake, name: str, source: Source | Sequence[Source], key: str | Sequence[str] = ()) -> Table:
    """Write sources as a table with `_row`, and beside it `<name>.origins`: `_row`, `file`, `place` (from 0).

    Ingesting the same sources again makes no new version if they are files that have not changed; a row keeps its id
    as long as its key stays, whatever file it comes in.

    Args:
        lake: The lake.
        name: The table.
        source: Anything `open_source` reads, or several of one schema; a path may hold `*`.
        key: Columns that tell rows apart; none: the whole row.

    Raises:
        DataError: If a source is bad, or two differ in their columns.
        ConflictError, DiskFullError: As `Lake.write`.

    Cost:
        Two passes over the sources; 16 bytes of memory a row.
    """
    sources = _expanded(source)
    columns = (key,) if isinstance(key, str) and key else tuple(key)
    seen = _look_of(sources, columns)
    if seen and name in lake and lake.metadata(name).get("ingest") == seen:
        log.info("%s was made from these very files; it is opened", name)
        return lake.table(name)
    rows = [open_source(one) for one in sources]
    for one in rows[1:]:
        if not one.schema.equals(rows[0].schema):
            problem = f"has other columns than {rows[0].where} ({one.schema.names})"
            raise DataError(one.where, problem, ", ".join(rows[0].schema.names), "ingest it as a table of its own")
    ids, counts = _ids(rows, name, columns)
    names = [ROW, *rows[0].schema.names]
    schema = pa.schema([pa.field(ROW, pa.int64()), *rows[0].schema])
    origins = f"{name}.origins"
    made = lake.commit_table(origins, LakeRows(origins, ORIGINS, lambda wanted: _origins(rows, ids, counts, wanted)))
    whole = LakeRows(rows[0].where, schema, lambda wanted: _numbered(rows, ids, names, wanted), len(ids))
    metadata = {"tables": json.dumps({origins: made}), **({"ingest": seen} if seen else {})}
    origin = Origin("ingest", tuple(Input(one.where) for one in rows), {"key": list(columns)})
    return lake.table(name, lake.commit_table(name, whole, "replace", metadata, origin=origin))


def _ids(rows: Sequence[LakeRows], name: str, key: tuple[str, ...]) -> tuple[npt.NDArray[np.int64], list[int]]:
    parts, counts = [], []
    for one in rows:
        found = [key_ids(name, batch.columns) for batch in one.select(list(key) or one.schema.names).batches()]
        parts += found
        counts.append(sum(map(len, found)))
    ids = np.concatenate([*parts, np.empty(0, np.int64)])
    return distinct_ids(ids, lambda: (batch.columns for one in rows for batch in one.batches()), name), counts


def _numbered(
    rows: Sequence[LakeRows], ids: npt.NDArray[np.int64], names: list[str], wanted: list[str]
) -> Iterator[pa.RecordBatch]:
    begin = 0
    for one in rows:
        for batch in one.batches():
            own = pa.array(ids[begin : begin + len(batch)])
            begin += len(batch)
            yield pa.RecordBatch.from_arrays([own, *batch.columns], names=names).select(wanted)


def _origins(
    rows: Sequence[LakeRows], ids: npt.NDArray[np.int64], counts: list[int], wanted: list[str]
) -> Iterator[pa.RecordBatch]:
    begin = 0
    for one, count in zip(rows, counts, strict=True):
        for first in range(0, count, 65_536):
            size = min(65_536, count - first)
            place = np.arange(first, first + size)
            file = pa.array([one.where]).take(pa.array(np.zeros(size, np.int64)))
            columns = [pa.array(ids[begin + first : begin + first + size]), file, pa.array(place)]
            yield pa.RecordBatch.from_arrays(columns, schema=ORIGINS).select(wanted)
        begin += count


def _expanded(source: Source | Sequence[Source]) -> list[Source]:
    if isinstance(source, list | tuple):
        return [one for part in source for one in _expanded(part)]
    if isinstance(source, str | Path) and glob.has_magic(str(source)) and not Path(source).exists():
        found: list[Source] = [*sorted(glob.glob(str(source), recursive=True))]  # noqa: PTH207 - a pattern, not a path
        return found or [source]
    return [source]


def _look_of(sources: Sequence[Source], key: tuple[str, ...]) -> str:
    """Describe files and how they are read; empty for anything that is no file."""
    look: list[object] = [list(key)]
    for one in sources:
        path = getattr(one, "path", one)
        if not isinstance(path, str | Path) or not Path(path).is_file():
            return ""
        state = Path(path).stat()
        look.append([str(Path(path).absolute()), state.st_size, state.st_mtime_ns, repr(one)])
    return fingerprint(look)
