"""Node state larger than host memory: rows in a file, the hot ones in a tier above it.

All that a model keeps of a node is one row of a scratch file, so that one read finds it. The rows that a batch asks for
become compact columns, on which the same kernels run as on the whole state. So values are the same, whatever the policy
and its budget.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from stepwell.buffer.lru import LRU
from stepwell.buffer.policy import Policy
from stepwell.buffer.tiers import Tier, TieredStore
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Batch, Ids
from stepwell.core.errors import CheckpointError, DataError
from stepwell.core.files import copy_file
from stepwell.core.state import StateReader, StateWriter
from stepwell.storage.row_reads import DiskRows
from stepwell.storage.units import to_bytes

Words = npt.NDArray[np.int64]
Columns = Mapping[str, tuple[type[np.generic], tuple[int, ...]]]
"""Of each column of a row its type and shape: int64 ones, then float32 ones, so that a row has no gaps."""
_CHUNK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class OutOfCore:
    """Where a model's node state (memory, mail) goes instead of host memory.

    Args:
        folder: Gets the scratch file `memory.rows`, which is gone when the model is. One model a folder.
        policy: Who stays in host memory, and in how many bytes. A policy with foresight keeps nobody until
            `StoredRows.foresee`.
    """

    folder: Path | str
    policy: Policy = LRU()  # noqa: RUF009 - frozen

    def open(self, num_nodes: int, columns: Columns) -> StoredRows:
        """Return the empty state of `num_nodes` nodes: all columns zero.

        Raises:
            DataError: If the file cannot be made, or another memory uses it.
        """
        return StoredRows(Path(self.folder) / "memory.rows", self.policy, num_nodes, columns)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What stored rows did since it was last emptied or planned anew, and the bytes it moved since it was opened.

    Args:
        hits: Distinct rows found in host memory.
        misses: Distinct rows asked of the file.
        tier_bytes: Bytes reserved in host memory.
        read_bytes: Bytes read of the file, gaps between near rows included.
        written_bytes: Bytes written to it.
    """

    hits: int
    misses: int
    tier_bytes: int
    read_bytes: int
    written_bytes: int


@runtime_checkable
class Movable(Protocol):
    """A part of a model whose node state can go out of core."""

    stored: StoredRows | None

    @property
    def row_bytes(self) -> int:
        """Bytes of a node's row in a store."""

    @property
    def core_bytes(self) -> int:
        """Bytes that leave host memory with it; 0 once they have."""

    def move(self, store: OutOfCore) -> None:
        """Move the state out of core, as it stands."""

    def trace(self, batches: Iterable[Batch]) -> Trace:
        """Return which rows an epoch's batches will read and change, beginning with the empty state."""


class StoredRows:
    """The rows of all nodes, in a file and a tier.

    The rows of the latest `fetch` stay at hand: changes are made there and go to the store, once, before others are
    fetched.

    Guarantee: the tier's rows take at most the policy's bytes; besides them a batch's rows, and about 32 bytes a node
    for bookkeeping.

    Args:
        path: The scratch file; made anew.
        policy: Who stays in the tier.
        num_rows: Nodes, ids `0..num_rows-1`.
        columns: What a row has.

    Raises:
        DataError: If the file cannot be made, or another memory uses it; later if it cannot be read or written.

    Cost:
        A row takes the bytes of its columns, up to a multiple of 8. A fetch reads each missing row once. Files have
        holes where nothing was written, so an empty state takes no room on the disk.
    """

    def __init__(self, path: Path, policy: Policy, num_rows: int, columns: Columns) -> None:
        kinds = [(name, kind, shape) for name, (kind, shape) in columns.items()]
        self._columns, self._record = columns, np.dtype(kinds, align=True)
        self.path, self.num_rows, self.row_bytes = path, num_rows, self._record.itemsize
        self._file = _Scratch(path, num_rows, self.row_bytes // 8)
        self.policy, self._trace = policy, cast("Trace | None", None)
        self._capacity = min(num_rows, to_bytes(policy.memory, "memory") // self.row_bytes)
        self._store = TieredStore(self._file, [self._tier()])
        self._ids: Ids = np.zeros(0, np.int64)
        self._let_go()

    def __deepcopy__(self, memo: dict[int, object]) -> StoredRows:
        """Return the same rows in a scratch file of their own, beside this one's."""
        path = self.path.with_name(f"{self.path.stem}-{uuid.uuid4().hex[:8]}{self.path.suffix}")
        twin = StoredRows(path, self.policy, self.num_rows, self._columns)
        self._settle()
        self._store.flush()
        twin._file.take(self.path)
        memo[id(self)] = twin
        return twin

    @property
    def traffic(self) -> Traffic:
        """What happened so far."""
        tier, read = self._store.counts[0], self._file.rows.counts.size_bytes
        return Traffic(tier.hits, tier.misses, tier.size_bytes, read, self._file.written_bytes)

    @property
    def ids(self) -> Ids:
        """Whose rows are at hand, ascending."""
        return self._ids

    def fetch(self, ids: Ids) -> None:
        """Have the rows of ascending, distinct ids at hand instead of those before; one batch for the policy."""
        if self._changed.any() or not np.array_equal(ids, self._ids):
            self._fetch(ids)

    def column(self, name: str) -> torch.Tensor:
        """Return a column of the rows at hand, `[S, ...]` in host memory; a view: see `edit`."""
        return torch.from_numpy(self._fields[name])

    def edit(self, ids: Ids) -> Ids:
        """Return the places of distinct ids among the rows at hand, where the caller now changes columns.

        If not all of them are at hand, they are fetched, and are alone at hand then.
        """
        place = np.searchsorted(self._ids, ids)
        if len(ids) > len(self._ids) or not np.array_equal(self._ids[np.minimum(place, len(self._ids) - 1)], ids):
            self._fetch(np.sort(ids))
            place = np.searchsorted(self._ids, ids)
        self._changed[place] = True
        return place

    def change(self, nodes: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """Change columns of some rows, `[N, ...]` each by name; a node may repeat with equal values."""
        ids, first = np.unique(nodes.cpu().numpy(), return_index=True)
        place = self.edit(ids)
        for name, value in values.items():
            self._fields[name][place] = value.detach().cpu().numpy()[first]

    def forget(self) -> None:
        """Make all rows zero: a new, empty file. Nothing is written back."""
        self._let_go()
        self._file.clear()
        del self._store
        self._store = TieredStore(self._file, [self._tier()])

    def foresee(self, trace: Trace) -> None:
        """Plan this and later epochs by what their batches touch, see `Movable.trace`; contents stay.

        A wrong trace costs reads, never correctness.
        """
        self._trace = trace
        self._settle()
        self._store.begin([self._tier()])

    def snapshot(self) -> Mapping[str, torch.Tensor]:
        """Return a deep copy of the columns: views of a copy of the file that has no name and goes with the last view.

        Cost:
            The bytes of the rows ever written, on the disk.
        """
        self._settle()
        self._store.flush()
        path = self._file.path.with_suffix(".copy")
        try:
            copy_file(self._file.path, path)
            # Private pages: a view may be written to, and the copy stays as it is.
            copied = np.memmap(path, self._record, "c", shape=(self.num_rows,))
        finally:
            path.unlink(missing_ok=True)
        return {name: torch.from_numpy(np.asarray(copied[name])) for name in self._columns}

    def restore(self, columns: Mapping[str, torch.Tensor]) -> None:
        """Return to columns of all nodes, as `snapshot` returns them; from those of a memory in core as well.

        Cost:
            One pass, a few megabytes at a time; rows that are zero are not written.
        """
        self.forget()
        size = max(1, _CHUNK_BYTES // self.row_bytes)
        for begin in range(0, self.num_rows, size):
            rows = np.zeros(min(size, self.num_rows - begin), self._record)
            for name in self._columns:
                rows[name] = columns[name][begin : begin + size].cpu().numpy()
            words = rows.view(np.int64).reshape(len(rows), -1)
            used = np.flatnonzero(words.any(1))
            self._file.write(begin + used, words[used])

    def save(self, writer: StateWriter) -> None:
        """Record the file itself; no tensor of all rows is made."""
        self._settle()
        self._store.flush()
        writer.value("row", str(self._record.descr))
        writer.file("rows", self._file.path)

    def load(self, reader: StateReader) -> None:
        """Return to a recorded file.

        Raises:
            CheckpointError: If it has rows of another shape, or other nodes.
        """
        path = reader.file("rows")
        size, needed = path.stat().st_size, self.num_rows * self.row_bytes
        if reader.value("row") != str(self._record.descr) or size != needed:
            raise CheckpointError(
                f"The checkpoint's memory has rows {reader.value('row')} in {size} bytes, expected "
                f"{self._record.descr} in {needed}. Use the model it was made with."
            )
        self.forget()
        self._file.take(path)

    def _tier(self) -> Tier:
        if self.policy.foresight and self._trace is None:
            return Tier(0, LRU().begin(self.num_rows, 0))
        return Tier(self._capacity, self.policy.begin(self.num_rows, self._capacity, self._trace))

    def _fetch(self, ids: Ids) -> None:
        self._settle()
        self._rows = cast("Words", self._store.rows(ids))
        self._fields = self._rows.view(self._record).reshape(-1)
        self._ids, self._changed = ids, np.zeros(len(ids), np.bool_)

    def _settle(self) -> None:
        """Write what was changed at hand to the store."""
        if self._changed.any():
            self._store.write(self._ids[self._changed], self._rows[self._changed])
            self._changed[:] = False

    def _let_go(self) -> None:
        self._rows = np.zeros((0, self.row_bytes // 8), np.int64)
        self._fields = self._rows.view(self._record).reshape(-1)
        self._ids, self._changed = np.zeros(0, np.int64), np.zeros(0, np.bool_)


class _Scratch:
    """A backing whose file begins as one hole, and may become one again. It need not outlive the process."""

    def __init__(self, path: Path, num_rows: int, words: int) -> None:
        self.path, self.shape, self.dtype = path, (num_rows, words), np.dtype(np.int64)
        self.written_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.clear()
            except OSError:
                os.close(self._fd)
                raise
        except BlockingIOError as error:
            raise DataError(str(path), "another memory uses it", "one model a folder", "choose another.") from error
        except OSError as error:
            problem = f"it cannot be made ({error.strerror})"
            raise DataError(str(path), problem, "a folder with room", "choose another.") from error
        self.rows = DiskRows(path, self.dtype, self.shape, writable=True)
        weakref.finalize(self, _remove, path, self._fd)

    def read(self, rows: Ids, out: npt.NDArray[np.generic], places: Ids) -> npt.NDArray[np.generic]:
        return self.rows.read(rows, out, places)

    def write(self, rows: Ids, values: npt.NDArray[np.generic]) -> None:
        self.rows.write(rows, values)
        self.written_bytes += values.nbytes

    def flush(self) -> None:
        """Leave it to the page cache: a checkpoint syncs its own copy."""

    def clear(self) -> None:
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.shape[0] * self.shape[1] * 8)

    def take(self, path: Path) -> None:
        """Become a copy of another file; readers keep the file, so it is written over."""
        copy_file(path, self.path)


def _remove(path: Path, fd: int) -> None:
    path.unlink(missing_ok=True)
    os.close(fd)
