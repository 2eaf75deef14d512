"""Node memory larger than host memory: rows in a file, the hot ones in a tier above it.

A node's memory, its times and its pending feature are one row of a scratch file. Only *whom* its pending message names
stays in host memory, 8 bytes a node, so that one read finds all that a forward pass needs: the asked nodes and the
partners of their messages. These rows become compact tensors, on which the same kernels run as on the whole memory. So
values are the same, whatever the policy and its budget.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.buffer.lru import LRU
from stepwell.buffer.policy import Policy
from stepwell.buffer.tiers import Tier, TieredStore
from stepwell.buffer.trace import Trace
from stepwell.core.batch import Batch, Ids
from stepwell.core.errors import CheckpointError, DataError
from stepwell.core.state import StateReader, StateWriter, copy_file
from stepwell.storage.row_reads import DiskRows
from stepwell.storage.units import to_bytes

Words = npt.NDArray[np.int64]
_FIELDS = ("memory", "last_update", "pending_time", "pending_feature")
_CHUNK_BYTES = 4 << 20


class NodeState(NamedTuple):
    """Columns of node state, of all nodes or of some; `pending_partner` counts rows of the same columns.

    Args:
        memory: float32 `[S, D]`.
        last_update: int64 `[S]`.
        pending_time: int64 `[S]`.
        pending_partner: int64 `[S]`, -1 without a pending message.
        pending_feature: float32 `[S, F]`.
    """

    memory: torch.Tensor
    last_update: torch.Tensor
    pending_time: torch.Tensor
    pending_partner: torch.Tensor
    pending_feature: torch.Tensor


@dataclass(frozen=True, slots=True)
class OutOfCore:
    """Where a model's node memory goes instead of host memory.

    Args:
        folder: Gets the scratch file `memory.rows`, which is gone when the model is. One model a folder.
        policy: Who stays in host memory, and in how many bytes. A policy with foresight keeps nobody until
            `StoredMemory.foresee`.
    """

    folder: Path | str
    policy: Policy = LRU()  # noqa: RUF009 - frozen

    def open(self, num_nodes: int, dim: int, event_dim: int) -> StoredMemory:
        """Return the empty memory of `num_nodes` nodes.

        Raises:
            DataError: If the file cannot be made, or another memory uses it.
        """
        return StoredMemory(Path(self.folder) / "memory.rows", self.policy, num_nodes, dim, event_dim)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a stored memory did since it was last emptied or planned anew, and the bytes it moved since it was opened.

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


class StoredMemory:
    """The rows of all nodes, in a file and a tier.

    The rows of the latest `gather` stay at hand: changes are made there and go to the store, once, before others are
    fetched.

    Guarantee: the tier's rows take at most the policy's bytes; besides them a batch's rows, and about 40 bytes a node
    for partners and bookkeeping.

    Args:
        path: The scratch file; made anew.
        policy: Who stays in the tier.
        num_nodes: Nodes, ids `0..num_nodes-1`.
        dim: Width of the memory.
        event_dim: Width of the pending features.

    Raises:
        DataError: If the file cannot be made, or another memory uses it; later if it cannot be read or written.

    Cost:
        A row takes `4 (D + F) + 16` bytes, up to a multiple of 8. A gather sorts its ids and reads each missing row
        once. Files have holes where nothing was written, so an empty memory takes no room on the disk.
    """

    def __init__(self, path: Path, policy: Policy, num_nodes: int, dim: int, event_dim: int) -> None:
        kinds = [("last_update", np.int64), ("pending_time", np.int64)]
        wide = [("memory", np.float32, (dim,)), ("pending_feature", np.float32, (event_dim,))]
        self._record = np.dtype([*kinds, *wide], align=True)
        self.path, self.num_nodes, self.row_bytes = path, num_nodes, self._record.itemsize
        self._file = _Scratch(path, num_nodes, self.row_bytes // 8)
        self.policy, self._trace = policy, cast("Trace | None", None)
        self._capacity = min(num_nodes, to_bytes(policy.memory, "memory") // self.row_bytes)
        self._store = TieredStore(self._file, [self._tier()])
        self._ids: Ids = np.zeros(0, np.int64)
        self._let_go()

    def __deepcopy__(self, memo: dict[int, object]) -> StoredMemory:
        """Return a memory of the same rows in a scratch file of its own, beside this one's."""
        path = self.path.with_name(f"{self.path.stem}-{uuid.uuid4().hex[:8]}{self.path.suffix}")
        width = self._fields.dtype
        dim, event_dim = (width[name].shape[0] for name in ("memory", "pending_feature"))
        twin = StoredMemory(path, self.policy, self.num_nodes, dim, event_dim)
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

    def gather(self, nodes: torch.Tensor, pending_partner: torch.Tensor) -> tuple[NodeState, torch.Tensor]:
        """Return the columns of some rows, and each node's place among them.

        Args:
            nodes: Distinct nodes, int64 `[N]`.
            pending_partner: Of all nodes, int64.

        Returns:
            The columns of the nodes and their partners; the nodes' rows, int64 `[N]`.
        """
        near = pending_partner[nodes].cpu().numpy()
        busy = near >= 0
        ids, place = np.unique(np.concatenate([nodes.cpu().numpy(), near[busy]]), return_inverse=True)
        if self._changed.any() or not np.array_equal(ids, self._ids):  # a batch anew: the policy counts batches
            self._fetch(ids)
        row, partner = place[: len(nodes)], np.full(len(self._ids), -1)
        partner[row[busy]] = place[len(nodes) :]
        held = {name: torch.from_numpy(self._fields[name]).to(nodes.device) for name in _FIELDS}
        on = (torch.from_numpy(part).to(nodes.device) for part in (partner, row))
        return NodeState(pending_partner=next(on), **held), next(on)

    def change(self, nodes: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """Change columns of some rows, `[N, ...]` each by name; a node may repeat with equal values."""
        ids, first = np.unique(nodes.cpu().numpy(), return_index=True)
        place = np.searchsorted(self._ids, ids)
        if len(ids) > len(self._ids) or not np.array_equal(self._ids[np.minimum(place, len(self._ids) - 1)], ids):
            self._fetch(ids)
            place = np.arange(len(ids))
        for name, value in values.items():
            self._fields[name][place] = value.detach().cpu().numpy()[first]
        self._changed[place] = True

    def forget(self) -> None:
        """Make all rows zero: a new, empty file. Nothing is written back."""
        self._let_go()
        self._file.clear()
        del self._store
        self._store = TieredStore(self._file, [self._tier()])

    def foresee(self, trace: Trace) -> None:
        """Plan this and later epochs by what their batches touch, see `trace_memory`; contents stay.

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
            copied = np.memmap(path, self._record, "c", shape=(self.num_nodes,))
        finally:
            path.unlink(missing_ok=True)
        return {name: torch.from_numpy(np.asarray(copied[name])) for name in _FIELDS}

    def restore(self, columns: Mapping[str, torch.Tensor]) -> None:
        """Return to columns of all nodes, as `snapshot` returns them; from those of a memory in core as well.

        Cost:
            One pass, a few megabytes at a time; rows that are zero are not written.
        """
        self.forget()
        size = max(1, _CHUNK_BYTES // self.row_bytes)
        for begin in range(0, self.num_nodes, size):
            rows = np.zeros(min(size, self.num_nodes - begin), self._record)
            for name in _FIELDS:
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
        size, needed = path.stat().st_size, self.num_nodes * self.row_bytes
        if reader.value("row") != str(self._record.descr) or size != needed:
            raise CheckpointError(
                f"The checkpoint's memory has rows {reader.value('row')} in {size} bytes, expected "
                f"{self._record.descr} in {needed}. Use the model it was made with."
            )
        self.forget()
        self._file.take(path)

    def _tier(self) -> Tier:
        if self.policy.foresight and self._trace is None:
            return Tier(0, LRU().begin(self.num_nodes, 0))
        return Tier(self._capacity, self.policy.begin(self.num_nodes, self._capacity, self._trace))

    def _fetch(self, ids: Ids) -> None:
        """Have the rows of ascending ids at hand instead of those before."""
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


def trace_memory(batches: Iterable[Batch], num_nodes: int, row_bytes: int, pending_partner: Ids | None = None) -> Trace:
    """Return which rows of a stored memory each batch will touch and rewrite.

    A batch reads its `nodes` and the partners of their pending messages, which follow from the batches before.

    Args:
        batches: An epoch's batches with `nodes`, `src` and `dst`, in order.
        num_nodes: Nodes.
        row_bytes: `StoredMemory.row_bytes`.
        pending_partner: Whom each node's message names before the first batch, int64 `[N]`; nobody if None.
    """
    parts: list[Ids] = []
    writes: list[npt.NDArray[np.bool_]] = []
    partner = np.full(num_nodes, -1) if pending_partner is None else pending_partner.copy()
    for ids, ends in _touched(batches, partner):
        parts.append(ids)
        writes.append(np.isin(ids, ends))
    trace = Trace.of(parts, num_nodes, row_bytes)
    written = np.concatenate([np.zeros(0, np.bool_), *writes])
    return Trace(trace.ids, trace.indptr, num_nodes, row_bytes, writes=written)


def _touched(batches: Iterable[Batch], partner: Ids) -> Iterator[tuple[Ids, Ids]]:
    for batch in batches:
        nodes, src, dst = (np.asarray(batch.array(name), np.int64) for name in ("nodes", "src", "dst"))
        near = partner[nodes]
        ends = np.stack([src, dst], 1).ravel()
        yield np.unique(np.concatenate([nodes, near[near >= 0]])), ends
        # Of equal indices the last assignment wins, as in `NodeMemory.post`.
        partner[ends] = np.stack([dst, src], 1).ravel()
