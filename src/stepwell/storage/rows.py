"""Rows of a table in any order, out of core: the derived index behind every dense pipeline.

A lake's Parquet files are columnar, compressed and cut into row groups: fine to scan, hopeless to shuffle. The
row index keeps the same values as memory-mapped arrays, written once: scalar columns of one type side by side in a
matrix (a row is one contiguous read), lists of one length as a matrix of their own, strings with few
distinct values as codes, other strings and binaries as offsets and bytes. It is derived data: it can be deleted
and is built again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import DataError, UnknownNameError
from stepwell.core.plan import Statistics
from stepwell.kernels import gather_rows
from stepwell.storage.arena import Arena
from stepwell.storage.columns import Codes, Dictionary, Ragged

FORMAT = 1
HEADER_BYTES = 128
"""Length of the `.npy` header: NumPy pads it so that the row count can be written last."""
Kind = Literal["scalar", "matrix", "codes", "ragged"]
Value: TypeAlias = "npt.NDArray[np.generic] | Codes | Ragged"


@dataclass(frozen=True, slots=True)
class RowColumn:
    """Where one column of a row index lies.

    Args:
        name: The column.
        kind: `scalar` (one place of a shared matrix), `matrix` (`[N, width]` of its own), `codes` or `ragged`.
        file: Its array file; for `ragged` the stem of `.offset.npy` and `.bin`.
        place: Its column in a shared matrix.
        text: Whether a ragged column holds UTF-8 text.
        values: What the codes mean.
        missing: Whether some values are missing; `<name>_valid` then says which are there.
    """

    name: str
    kind: Kind
    file: str
    place: int = 0
    text: bool = False
    values: tuple[str, ...] = ()
    missing: bool = False


@dataclass(frozen=True, slots=True)
class RowManifest:
    """What a row index holds; `manifest.json` beside its files.

    Args:
        rows: Number of rows.
        columns: The columns, in the table's order.
        files: Bytes and sha256 of each file's data (the `.npy` header not counted).
        format: Version of this layout.
    """

    rows: int
    columns: tuple[RowColumn, ...]
    files: dict[str, tuple[int, str]]
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write `manifest.json`."""
        (folder / "manifest.json").write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> RowManifest:
        """Read `manifest.json`.

        Raises:
            DataError: If it is missing, torn or of another format.
        """
        try:
            found = json.loads((folder / "manifest.json").read_text())
            if found["format"] != FORMAT:
                raise KeyError(f"format {found['format']}")
            columns = tuple(RowColumn(**{**c, "values": tuple(c["values"])}) for c in found["columns"])
            return cls(int(found["rows"]), columns, {k: (int(b), str(h)) for k, (b, h) in found["files"].items()})
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                str(folder),
                f"this is no row index ({error})",
                f"a folder with a manifest of format {FORMAT}",
                "delete the folder; it is built again from the table",
            ) from error


class TableRows:
    """Random access to the rows of one table version; a `Source` for `Pipeline`.

    Files are opened as memory maps: the process holds no copy, and how much stays in memory is the operating
    system's page cache, not this object. Reading is thread-safe.

    Args:
        folder: A row index made by `build_rows`.
        columns: Which columns to read; all if None.

    Raises:
        DataError: If the folder is no whole row index.
        UnknownNameError: If a column does not exist.

    Cost:
        `read` makes one random access a row and file; scalars of one type share a file.
    """

    def __init__(self, folder: Path, columns: tuple[str, ...] | None = None) -> None:
        self.folder = folder
        self.manifest = RowManifest.read(folder)
        known = {column.name: column for column in self.manifest.columns}
        for name in columns or ():
            if name not in known:
                raise UnknownNameError("column", name, known)
        self._columns = tuple(known[name] for name in (columns or known))
        self._check_sizes()
        self._arrays: dict[str, npt.NDArray[np.generic]] = {}
        self._dictionaries = {c.name: Dictionary(c.values) for c in self._columns if c.kind == "codes"}
        for column in self._columns:
            self._open(column)

    def _check_sizes(self) -> None:
        for file, (size, _) in self.manifest.files.items():
            path = self.folder / file
            if not path.exists() or path.stat().st_size != size + (HEADER_BYTES if file.endswith(".npy") else 0):
                raise DataError(
                    str(path),
                    "the file is missing, cut short or too long",
                    f"{size} bytes of data",
                    "delete the folder; it is built again",
                )

    def _open(self, column: RowColumn) -> None:
        for file in _files_of(column):
            if file in self._arrays:
                continue
            path = self.folder / file
            if file.endswith(".bin"):
                empty = path.stat().st_size == 0
                self._arrays[file] = np.zeros(0, np.uint8) if empty else np.memmap(path, np.uint8, "r")
            elif self.manifest.rows == 0:
                self._arrays[file] = np.load(path)
            else:
                self._arrays[file] = np.load(path, mmap_mode="r")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `read` gives."""
        return tuple(column.name for column in self._columns)

    @property
    def by_row(self) -> Literal[True]:
        """A row is the same whichever rows are read with it."""
        return True

    def __len__(self) -> int:
        return self.manifest.rows

    def select(self, columns: tuple[str, ...]) -> TableRows:
        """Return the same rows with fewer columns; the others are not read at all."""
        return TableRows(self.folder, columns)

    def read(self, slice: Slice) -> Batch:
        """Return the rows of a slice, one field a column, in the slice's order."""
        rows = slice.rows if slice.rows is not None else np.arange(slice.begin, slice.end, dtype=np.int64)
        return Batch(slice, **self.take(rows))

    def take(self, rows: Ids) -> dict[str, Value]:
        """Return the given rows, column by column; rows may repeat."""
        blocks: dict[str, npt.NDArray[np.generic]] = {}
        found: dict[str, Value] = {}
        for column in self._columns:
            if column.kind == "ragged":
                offset, data = (self._arrays[file] for file in _files_of(column)[:2])
                source = Ragged(cast("Ids", offset), cast("npt.NDArray[np.uint8]", data), column.text)
                found[column.name] = source.take(rows)
            else:
                if column.file not in blocks:
                    blocks[column.file] = _gather(self._arrays[column.file], rows)
                block = blocks[column.file]
                if column.kind == "codes":
                    code = cast("npt.NDArray[np.int32]", block)
                    found[column.name] = Codes(code, self._dictionaries[column.name])
                else:
                    found[column.name] = block if column.kind == "matrix" else block[:, column.place]
            if column.missing:
                found[f"{column.name}_valid"] = gather_rows(self._arrays[valid_file(column.name)], rows)
        return found

    def dictionary(self, column: str) -> Dictionary | None:
        """Return what the codes of a string column mean, or None if it is not kept as codes."""
        return self._dictionaries.get(column)

    def statistics(self) -> Statistics:
        """Return the number of rows and the bytes of one."""
        files = {file for column in self._columns for file in _files_of(column)}
        total = sum(self.manifest.files[file][0] for file in files)
        return Statistics(num_rows=len(self), row_bytes=total // max(1, len(self)))

    def verify(self) -> None:
        """Read every file and compare it with its recorded sha256.

        Raises:
            DataError: If a file was changed or damaged.
        """
        for file, (size, expected) in self.manifest.files.items():
            digest = hashlib.sha256()
            with (self.folder / file).open("rb") as handle:
                handle.seek(-size, 2)
                while part := handle.read(1 << 20):
                    digest.update(part)
            if digest.hexdigest() != expected:
                raise DataError(
                    str(self.folder / file), "the checksum differs", expected, "delete the folder; it is built again"
                )


_arena = Arena()


def _gather(table: npt.NDArray[np.generic], rows: Ids) -> npt.NDArray[np.generic]:
    """Gather rows into memory of the arena."""
    return gather_rows(table, rows, _arena.empty((len(rows), *table.shape[1:]), table.dtype))


def valid_file(column: str) -> str:
    """Return the file that says which values of a column are there."""
    return f"{column_stem(column)}.valid.npy"


def _files_of(column: RowColumn) -> list[str]:
    own = [f"{column.file}.offset.npy", f"{column.file}.bin"] if column.kind == "ragged" else [column.file]
    return [*own, valid_file(column.name)] if column.missing else own


def column_stem(name: str) -> str:
    """Return a file name for a column name: itself if harmless, else with a hash of it."""
    if name.isidentifier() and name.isascii():
        return f"column-{name}"
    return f"column-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
