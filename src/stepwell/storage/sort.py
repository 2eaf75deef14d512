"""The second step of an ingest: keys become dense ids, and events are put in order of time, within a memory limit.

Both are one SQL job over the spill files; the engine spills to the scratch folder beyond its limit. Known nodes keep
their ids; new keys are numbered behind them, space by space, sorted inside a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.storage.derived import ArrayWriter
from stepwell.storage.files import BATCH_ROWS, Rows
from stepwell.storage.spill import Spill

if TYPE_CHECKING:
    import duckdb
    from pyarrow.dataset import Dataset

_LEAST = 64 << 20
_INT32: np.dtype[np.generic] = np.dtype(np.int32)
_INT64: np.dtype[np.generic] = np.dtype(np.int64)


@dataclass(frozen=True)
class Events:
    """Events in order of (time, arrival), memory-mapped.

    Args:
        event_id: Permanent ids, int64 `[E]`.
        src: int32 `[E]`.
        dst: int32 `[E]`.
        time: int64 `[E]`.
        label: `[E]`, or None.
        event_type: int16 `[E]`, or None.
    """

    event_id: npt.NDArray[np.int64]
    src: npt.NDArray[np.int32]
    dst: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    label: npt.NDArray[np.generic] | None = None
    event_type: npt.NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.src)

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the columns that are there, by the names of the log's table."""
        found: dict[str, npt.NDArray[np.generic] | None] = {
            "event_id": self.event_id,
            "src": self.src,
            "dst": self.dst,
            "time": self.time,
            "label": self.label,
            "type": self.event_type,
        }
        return {name: column for name, column in found.items() if column is not None}

    @classmethod
    def of(cls, columns: dict[str, npt.NDArray[np.generic]]) -> Events:
        """Return events from columns as `columns` gives them."""
        renamed = {"event_type" if name == "type" else name: column for name, column in columns.items()}
        return cls(**renamed)  # type: ignore[arg-type]


class Sorter:
    """One job: register what is known, number the nodes, stream nodes and events.

    Args:
        connection: A DuckDB connection with a memory limit and a scratch folder.
        text: Whether keys are text.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, text: bool) -> None:
        self._sql = connection
        self._key = pa.string() if text else pa.int64()
        key = "varchar" if text else "bigint"
        self._run(f"create table nodes (node bigint, type smallint, key {key})")
        self._run(f"create table keys (type smallint, key {key})")
        self._old = 0

    def know(self, nodes: Dataset) -> None:
        """Take over the nodes (node, type, key) of an earlier version."""
        self._sql.register("known", nodes)
        self._run("insert into nodes select node, type, key from known")
        self._old = self.num_nodes

    def add_keys(self, file: Path, column: str, space: int) -> None:
        """Take in the keys of one column of a Parquet file."""
        self._run(f"insert into keys select distinct {space}, {column} from read_parquet(?)", [str(file)])

    def number(self) -> int:
        """Number the new keys and return N."""
        self._run(
            "insert into nodes select $old + row_number() over (order by type, key) - 1, type, key "
            "from (select distinct type, key from keys) k anti join nodes n on n.type = k.type and n.key = k.key",
            {"old": self._old},
        )
        if self.num_nodes > np.iinfo(np.int32).max:
            raise InvalidValueError("number of nodes", self.num_nodes, f"at most {np.iinfo(np.int32).max}")
        return self.num_nodes

    @property
    def num_nodes(self) -> int:
        """How many nodes are numbered."""
        return int(str(self._run("select count(*) from nodes")[0][0]))

    def new_nodes(self, where: str, spaces: tuple[str, ...]) -> Rows:
        """Return the new nodes as rows (node, type, space, key)."""
        schema = pa.schema([("node", pa.int64()), ("type", pa.int16()), ("space", pa.string()), ("key", self._key)])
        names = pa.array(spaces)

        def start(columns: list[str]) -> Iterator[pa.RecordBatch]:
            query = f"select node, type, key from nodes where node >= {self._old} order by node"
            for batch in self._stream(query):
                parts = {name: batch.column(name) for name in batch.schema.names}
                parts["space"] = names.take(parts["type"])
                yield pa.record_batch([parts[name] for name in schema.names], schema=schema).select(columns)

        return Rows(f"nodes of {where}", schema, start)

    def events(self, spill: Spill, spaces: tuple[int, int], first_id: int, writer: ArrayWriter) -> Events:
        """Write the spilled events in order, with dense ids, and return them.

        Args:
            spill: The first pass.
            spaces: Codes of the spaces of source and destination.
            first_id: Permanent id of the first row.
            writer: Where the arrays go.

        Cost: two hash joins and one sort, external beyond the memory limit.
        """
        import pyarrow.parquet as pq

        extra = [name for name in pq.read_schema(spill.events).names if name in ("label", "type")]
        dtypes: dict[str, np.dtype[np.generic]] = {"event_id": _INT64, "time": _INT64, "src": _INT32, "dst": _INT32}
        dtypes["type"] = np.dtype(np.int16)
        if "label" in extra:
            dtypes["label"] = np.dtype(pq.read_schema(spill.events).field("label").type.to_pandas_dtype())
        names = ["event_id", "src", "dst", "time", *extra]
        arrays = {name: writer.create(name, (spill.num_events,), dtypes[name]) for name in names}
        query = (
            f"select e.row + {first_id} as event_id, s.node as src, d.node as dst, e.time"
            + "".join(f", e.{name}" for name in extra)
            + f" from read_parquet('{str(spill.events).replace(chr(39), chr(39) * 2)}') e"
            f" join nodes s on s.type = {spaces[0]} and s.key = e.src"
            f" join nodes d on d.type = {spaces[1]} and d.key = e.dst order by e.time, e.row"
        )
        place = 0
        for batch in self._stream(query):
            for name, array in arrays.items():
                array[place : place + batch.num_rows] = batch.column(name).to_numpy(zero_copy_only=False)
            place += batch.num_rows
        return Events.of(arrays)

    def node_of(self, file: Path) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the nodes of a Parquet file's (row, type, key), in its order."""
        query = (
            f"select n.node from read_parquet('{str(file).replace(chr(39), chr(39) * 2)}') f"
            " join nodes n on n.type = f.type and n.key = f.key order by f.row"
        )
        for batch in self._stream(query):
            yield batch.column("node").to_numpy()

    def repeated(self, file: Path) -> str | None:
        """Return a key that stands twice in a Parquet file's (type, key), or None."""
        query = "select key from read_parquet(?) group by type, key having count(*) > 1 order by key limit 1"
        found = self._run(query, [str(file)])
        return repr(found[0][0]) if found else None

    def _run(self, query: str, values: object = None) -> list[tuple[object, ...]]:
        """Run a statement to its end; an unread result would keep the connection busy."""
        found: list[tuple[object, ...]] = self._sql.execute(query, values).fetchall()
        return found

    def _stream(self, query: str) -> Iterator[pa.RecordBatch]:
        yield from self._sql.sql(query).to_arrow_reader(BATCH_ROWS)


@contextmanager
def sorter(folder: Path, budget_bytes: int, *, text: bool) -> Iterator[Sorter]:
    """Open a sorting job whose memory is limited to half the budget, the rest being batches in flight.

    Raises:
        InvalidValueError: If the budget is too small for this input.
        DiskFullError: If the scratch folder's disk is full.
    """
    import duckdb

    from stepwell.storage.delta import DiskFullError

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{max(budget_bytes // 2, _LEAST) // 1024}KiB",
        "temp_directory": str(folder / "sort"),
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(str(folder / "work.duckdb"), config=settings)
    try:
        yield Sorter(connection, text=text)
    except duckdb.OutOfMemoryException as error:
        raise InvalidValueError(
            "budget", budget_bytes, f"larger for this input ({str(error).splitlines()[0]})"
        ) from error
    except duckdb.Error as error:
        if any(text in str(error) for text in ("No space left", "File too large", "quota")):
            raise DiskFullError(str(folder), error) from error
        raise DataError(
            str(folder), f"sorting failed ({str(error).splitlines()[0]})", "readable spill files", "run it again"
        ) from error
    finally:
        connection.close()
