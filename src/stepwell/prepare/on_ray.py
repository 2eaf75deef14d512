"""The same steps on Ray Data: batches are worked on by Ray's workers, and come back in their order to be checked here.

What a step gives does not depend on where it ran, so a result made here is found by a run on Ray, and the other way
round. Steps that see more than one row, and SQL, run here in either case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import MissingExtraError
from stepwell.prepare.step import INPUT, Fitted, Rows, Step

_GIVEN, _OUT, _PARENTS, _QUARANTINE, _NOTE = "given", "out", "parents", "quarantine", "note."


def batches_on_ray(
    step: Step, path: Path, rows: int, tables: Mapping[str, pa.Table], fitted: Fitted
) -> Iterator[tuple[pa.Table, Rows]]:
    """Yield batches of a Parquet file and what a step makes of each, in the file's order.

    Args:
        step: A step that sees one row at a time.
        path: The file; workers read it themselves, so they must see its folder.
        rows: Rows a batch.
        tables: The step's other tables.
        fitted: What it learnt.

    Raises:
        MissingExtraError: If Ray is not installed.

    Cost:
        Results travel to this process once, as Arrow streams.
    """
    try:
        ray, ray_data = import_module("ray"), import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError("a preparation with on='ray'", "ray", "ray") from error
    ray_data.DataContext.get_current().execution_options.preserve_order = True
    shared = ray.put((step, dict(tables), fitted))

    def work(batch: pa.Table) -> pa.Table:
        own, others, learnt = ray.get(shared)
        return _packed(batch, own.apply({INPUT: batch, **others}, learnt))

    data = ray_data.read_parquet(str(path)).map_batches(work, batch_size=rows, batch_format="pyarrow")
    for packed in data.iter_batches(batch_size=None, batch_format="pyarrow"):
        for names, streams in zip(
            packed.column("names").to_pylist(), packed.column("streams").to_pylist(), strict=True
        ):
            yield _unpacked(dict(zip(names, streams, strict=True)))


def _packed(batch: pa.Table, rows: Rows) -> pa.Table:
    """Return all tables of one batch as one row."""
    parts = {_GIVEN: batch, _OUT: rows.out}
    parts |= {_PARENTS: rows.parents} if rows.parents is not None else {}
    parts |= {_QUARANTINE: rows.quarantine} if rows.quarantine is not None else {}
    parts |= {_NOTE + name: table for name, table in rows.notes.items()}
    streams = [_stream(table) for table in parts.values()]
    kinds = {"names": pa.list_(pa.string()), "streams": pa.list_(pa.large_binary())}
    return pa.table({"names": [list(parts)], "streams": [streams]}, schema=pa.schema(list(kinds.items())))


def _unpacked(streams: Mapping[str, bytes]) -> tuple[pa.Table, Rows]:
    parts = {name: pa.ipc.open_stream(stream).read_all() for name, stream in streams.items()}
    notes = {name.removeprefix(_NOTE): table for name, table in parts.items() if name.startswith(_NOTE)}
    return parts[_GIVEN], Rows(parts[_OUT], parts.get(_PARENTS), parts.get(_QUARANTINE), notes)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found
