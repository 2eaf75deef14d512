"""Negatives fixed in a file: what a benchmark ships so that everybody ranks against the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numba
import numpy as np

from stepwell.core import Batch, Draw, Ids
from stepwell.core.errors import DataError
from stepwell.storage import EventLog

_FIX = "write columns src, dst, time and negative as .npz or .parquet (a pickle can run code and is not read)."

_MATCH = "use the file of this split, in this log's numbering."


@dataclass(frozen=True)
class FileNegatives:
    """Negatives of each event looked up by (src, dst, time), the TGB form.

    Args:
        path: An `.npz` with `src`, `dst`, `time` int64 `[Q]` and `negative` int64 `[Q, C]` (-1 where padded), or a
            `.parquet` with the same columns, `negative` being lists, which may differ in length. Ids are the log's.

    Raises:
        DataError: If the file is missing, of another form, or lacks an event that a batch asks for.

    Cost:
        O(Q log Q) once; O(B (log Q + C)) a batch.

    References:
        Huang et al., "Temporal graph benchmark for machine learning on temporal graphs", NeurIPS 2023, section 4.1.
    """

    path: Path
    _keys: Ids = field(init=False, repr=False, compare=False)
    _negative: Ids = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        path = Path(self.path)
        object.__setattr__(self, "path", path)
        src, dst, time, negative = _read(path)
        if not len(src) == len(dst) == len(time) == len(negative):
            raise DataError(str(path), "columns differ in length", "one row an event in all four columns", _FIX)
        order = np.lexsort((dst, src, time))
        object.__setattr__(self, "_keys", np.stack([time[order], src[order], dst[order]]))
        object.__setattr__(self, "_negative", negative[order])

    @property
    def width(self) -> int:
        """Negatives an event, the longest list."""
        return int(self._negative.shape[1])

    def draw(self, log: EventLog, batch: Batch, draw: Draw) -> Ids:
        """Return the file's negatives, int64 `[B, C]`, -1 where padded; nothing is drawn."""
        asked = np.stack([cast("Ids", batch.array(name)) for name in ("time", "src", "dst")])
        rows: Ids = find_triples(self._keys, asked)
        if len(rows) and rows.min() < 0:
            time, src, dst = asked[:, int(rows.argmin())].tolist()
            problem = f"no negatives for the event src={src}, dst={dst}, time={time}"
            raise DataError(str(self.path), problem, "a row for every event asked for", _MATCH)
        return self._negative[rows]


def _read(path: Path) -> tuple[Ids, Ids, Ids, Ids]:
    if not path.is_file():
        raise DataError(str(path), "there is no such file", "an .npz or .parquet file", _FIX)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            missing = {"src", "dst", "time", "negative"} - set(file)
            if missing:
                raise DataError(str(path), f"no column {sorted(missing)}", "src, dst, time, negative", _FIX)
            src, dst, time, negative = (file[name].astype(np.int64) for name in ("src", "dst", "time", "negative"))
        return src, dst, time, _matrix(path, negative)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise DataError(str(path), f"the ending is {path.suffix!r}", ".npz or .parquet", _FIX)


def _read_parquet(path: Path) -> tuple[Ids, Ids, Ids, Ids]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    missing = {"src", "dst", "time", "negative"} - set(table.column_names)
    if missing:
        raise DataError(str(path), f"no column {sorted(missing)}", "src, dst, time, negative", _FIX)
    lists = table["negative"].combine_chunks()
    lengths = np.asarray(lists.value_lengths().fill_null(0)).astype(np.int64)
    flat = np.asarray(lists.flatten()).astype(np.int64)
    negative = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int64)
    negative[np.arange(negative.shape[1]) < lengths[:, None]] = flat
    columns = [table[name].to_numpy().astype(np.int64) for name in ("src", "dst", "time")]
    return columns[0], columns[1], columns[2], negative


def _matrix(path: Path, negative: Ids) -> Ids:
    if negative.ndim != 2:
        raise DataError(str(path), f"`negative` has shape {list(negative.shape)}", "[Q, C]", _FIX)
    return negative


@numba.njit(cache=True, nogil=True)
def find_triples(keys: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the place of each column of `asked` `[3, B]` among the sorted columns of `keys` `[3, Q]`, or -1."""
    rows = np.full(asked.shape[1], -1, np.int64)
    for i in range(asked.shape[1]):
        low, high = 0, keys.shape[1]
        while low < high:
            middle = (low + high) // 2
            less = False
            for part in range(3):
                if keys[part, middle] != asked[part, i]:
                    less = keys[part, middle] < asked[part, i]
                    break
            if less:
                low = middle + 1
            else:
                high = middle
        if low < keys.shape[1]:
            same = True
            for part in range(3):
                same = same and keys[part, low] == asked[part, i]
            if same:
                rows[i] = low
    return rows
