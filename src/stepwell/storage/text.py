"""Text files of rows (CSV, TSV, edge lists), as a stream with exact types.

Text has no types, so a file is parsed twice: the first pass finds the type that every value of a column fits (integers
widen to floats, anything widens to text) and reports a torn line before a single row is used. Delimiter, header and
comment lines are told from the first lines, or given by `CsvFile`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.log import logger
from stepwell.storage.files import BLOCK_BYTES, Rows, first_line, suffix_of, unreadable

log = logger(__name__)

_WIDER = {"bool": pa.string(), "int64": pa.float64(), "null": pa.int64()}
_NUMBER = re.compile(rb"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


@dataclass(frozen=True)
class CsvFile:
    """A text file of rows, where the defaults do not guess right.

    Args:
        path: The file; `.gz`, `.zst` and `.bz2` are decompressed while reading.
        delimiter: One character, or `" "` for any run of blanks and tabs, or None to look at the first lines.
        header: Whether the first line names the columns; None: it does if one of its fields is no number. Columns
            without a name are called `c0`, `c1`, ...
        skip_lines: Lines to leave out at the top. Lines that start with `#` or `%` there are always left out.
        types: Types of columns by name that replace the guess.

    Raises:
        InvalidValueError: If the delimiter is not one character, or `skip_lines` is negative.
    """

    path: str | Path
    delimiter: str | None = None
    header: bool | None = None
    skip_lines: int = 0
    types: tuple[tuple[str, pa.DataType], ...] = ()

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise InvalidValueError("delimiter", self.delimiter, "one character")
        if self.skip_lines < 0:
            raise InvalidValueError("skip_lines", self.skip_lines, "at least 0")


@dataclass(frozen=True)
class _Layout:
    """How the text is cut: what `CsvFile` left open, settled by looking at the first lines."""

    delimiter: str
    blanks: bool
    skip_lines: int
    names: tuple[str, ...]


def open_csv(file: CsvFile) -> Rows:
    """Open a text file of rows.

    Cost: a file above 8 MiB is parsed twice; memory is a few blocks of 8 MiB.

    Raises:
        DataError: If the file is empty, torn, or a line has another number of fields (the line is named).
    """
    path = Path(file.path)
    layout = _look(path, file)
    types, num_rows = _settle_types(path, layout, dict(file.types))
    schema = pa.schema([(name, types[name]) for name in layout.names])
    return Rows(str(path), schema, lambda columns: _parse(path, layout, types, columns), num_rows)


def _look(path: Path, file: CsvFile) -> _Layout:
    lines = _first_lines(path, file.skip_lines + 1000)
    skip = file.skip_lines
    while skip < len(lines) and (not lines[skip].strip() or lines[skip].lstrip().startswith((b"#", b"%"))):
        skip += 1
    rows = [line for line in lines[skip:] if line.strip()]
    if not rows:
        raise DataError(str(path), "is empty", "at least one line of values", "check the export that made it")
    delimiter, blanks = _delimiter(path, file.delimiter, rows)
    cells = _cells(re.sub(rb"[ \t]+", b"\t", rows[0].strip()) if blanks else rows[0], delimiter)
    header = file.header if file.header is not None else not all(_NUMBER.match(cell) for cell in cells if cell)
    if not header:
        return _Layout(delimiter, blanks, skip, tuple(f"c{i}" for i in range(len(cells))))
    names = tuple(cell.decode("utf-8", "replace") for cell in cells)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}, line {skip + 1}", f"has the column name {twice[0]!r} twice", "distinct names", "rename one"
        )
    return _Layout(delimiter, blanks, skip + 1, names)


def _delimiter(path: Path, wanted: str | None, rows: list[bytes]) -> tuple[str, bool]:
    """Return the delimiter pyarrow shall see, and whether runs of blanks become it first."""
    if wanted is None:
        suffix = suffix_of(path)
        comma = b"," in rows[0] and suffix != ".tsv"
        wanted = "," if comma else "\t" if all(b"\t" in row and b" " not in row for row in rows[:20]) else " "
        if suffix in (".csv", ".tsv") and not comma:
            wanted = next(
                (mark for mark in ("\t", ";", "|") if mark.encode() in rows[0]), "," if suffix == ".csv" else "\t"
            )
    if wanted != " ":
        return wanted, False
    uneven = any(re.search(rb"[ \t]{2,}|\t|^[ \t]|[ \t]+\r?$", row) for row in rows)
    return ("\t", True) if uneven else (" ", False)


def _cells(line: bytes, delimiter: str) -> list[bytes]:
    text = line.decode("utf-8-sig", "replace").strip("\r\n")
    return [cell.strip().encode() for cell in next(csv.reader([text], delimiter=delimiter), [])]


def _first_lines(path: Path, count: int) -> list[bytes]:
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            head = stream.read(1 << 20)
    except OSError as error:
        raise unreadable(str(path), error, "text") from error
    lines: list[bytes] = head.splitlines()
    whole = lines[:-1] if len(head) == 1 << 20 and len(lines) > 1 else lines
    return whole[:count]


class _Blanks(io.RawIOBase):
    """Turns runs of blanks and tabs into one tab while reading, so that one parser serves all text."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream, self._rest, self._ready = stream, b"", b""

    def readable(self) -> bool:
        """Say that this can be read."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` with normalised text."""
        while not self._ready:
            chunk = self._stream.read(1 << 20)
            if not chunk and not self._rest:
                return 0
            text = self._rest + chunk
            cut = text.rfind(b"\n") + 1 if chunk else len(text)
            self._rest = text[cut:]
            tidy = re.sub(rb"(?m)^[ \t]+|[ \t\r]+$", b"", text[:cut])
            self._ready = re.sub(rb"[ \t]+", b"\t", tidy)
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _parse(
    path: Path, layout: _Layout, types: dict[str, pa.DataType], columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield parsed batches; Arrow's own errors become `DataError`, except failed conversions."""
    from pyarrow import csv as arrow_csv

    with pa.input_stream(str(path), compression="detect") as raw:
        stream: object = pa.PythonFile(_Blanks(raw), mode="r") if layout.blanks else raw
        try:
            reader = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(
                    block_size=BLOCK_BYTES,
                    skip_rows=layout.skip_lines,
                    column_names=list(layout.names),
                    use_threads=False,
                ),
                parse_options=arrow_csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(column_types=types, include_columns=columns or []),
            )
            yield from reader
        except (pa.ArrowInvalid, OSError) as error:
            if "conversion error" in str(error):
                raise
            raise _torn(path, layout, error) from error


def _torn(path: Path, layout: _Layout, error: Exception) -> DataError:
    text = first_line(error)
    if "Empty CSV" in text:
        return DataError(str(path), "has no rows", "at least one line of values", "check the export that made it")
    match = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): ?(.*)", text)
    if match is None:
        return unreadable(str(path), error, "CSV")
    line, wanted, got, content = match.groups()
    where = f"{path}, line {line}"
    problem = f"has {got} fields where the first line has {wanted} ({content[:60]!r})"
    fix = f"correct that line, or pass CsvFile(..., delimiter=...) if {layout.delimiter!r} is not the delimiter"
    return DataError(where, problem, f"{wanted} fields in every line", fix)


def _settle_types(
    path: Path, layout: _Layout, fixed: dict[str, pa.DataType]
) -> tuple[dict[str, pa.DataType], int | None]:
    """Find types that every value fits, by reading the file until none has to be widened."""
    types = dict(fixed)
    for _ in range(2 * len(layout.names) + 1):
        try:
            found, num_rows = _scan(path, layout, types)
        except pa.ArrowInvalid as error:
            name, value = _misfit(error, layout)
            if name in fixed:
                raise DataError(
                    f"{path}, column {name!r}",
                    f"has the value {value}",
                    f"{fixed[name]} values",
                    "correct it or drop the type",
                ) from error
            types[name] = _wider(types.get(name), error)
            log.info("%s: column %r holds %s, so it is read as %s", path, name, value, types[name])
            continue
        return {name: types.get(name, found[name]) for name in layout.names}, num_rows
    raise DataError(str(path), "has columns of no single type", "one type a column", "pass CsvFile(..., types=...)")


def _scan(path: Path, layout: _Layout, types: dict[str, pa.DataType]) -> tuple[dict[str, pa.DataType], int]:
    found: dict[str, pa.DataType] = {}
    num_rows = 0
    for batch in _parse(path, layout, types):
        found = found or {name: batch.schema.field(name).type for name in layout.names}
        num_rows += batch.num_rows
    if not num_rows:
        raise DataError(str(path), "has no rows", "at least one line of values", "check the export that made it")
    # Times of day have no type in a lake, and a column without values none at all: both stay text.
    texts = [name for name, kind in found.items() if pa.types.is_null(kind) or pa.types.is_time(kind)]
    return {name: pa.string() if name in texts else kind for name, kind in found.items()}, num_rows


def _misfit(error: pa.ArrowInvalid, layout: _Layout) -> tuple[str, str]:
    text = str(error)
    column = re.search(r"CSV column #(\d+)", text)
    value = re.search(r"invalid value (.*)", text)
    if column is None:
        raise error
    return layout.names[int(column.group(1))], value.group(1) if value else "of another type"


def _wider(current: pa.DataType | None, error: pa.ArrowInvalid) -> pa.DataType:
    match = re.search(r"conversion error to (\w+)", str(error))
    narrow = str(current) if current is not None else match.group(1) if match else "string"
    return _WIDER.get(narrow, pa.string())
