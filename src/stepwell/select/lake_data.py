"""Event logs and tables of a lake as the data of a study: cut by position, opened again in each worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from stepwell.core.batch import Batch, Ids, Slice
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.shapes import Stage
from stepwell.select.data import ByRows, Source, cut_evenly, shuffled
from stepwell.storage import EventLog, Table

Window = tuple[int, int]
_COLUMNS = ("src", "dst", "time", "label", "event_feature", "node_feature", "event_type", "node_type")


@dataclass(frozen=True)
class LogData:
    """An event log, cut in time and read in time order.

    Args:
        log: The events, or None where `files` hold its columns.
        parts: First and last position of each partition.
        slices: Those of each validation slice; they follow the partitions.
        files: Columns as files, for other processes.
        about: Number of nodes, unit, direction and name, to build the log again.
        index: Folder of the temporal index that all processes map; whoever needs it first builds it.
    """

    log: EventLog | None
    parts: tuple[Window, ...]
    slices: tuple[Window, ...]
    files: tuple[tuple[str, Path], ...] = ()
    about: tuple[int, float, bool, str] = (0, 1.0, False, "")
    index: Path | None = None
    opened: list[EventLog] = field(default_factory=list, compare=False, repr=False)

    @property
    def events(self) -> EventLog:
        """The log, opened at first use."""
        if self.log is not None:
            return self.log
        if not self.opened:
            from stepwell.storage import Snapshot, TemporalCSR

            columns = {name: np.load(file, mmap_mode="r") for name, file in self.files}
            nodes, seconds, directed, name = self.about
            made = Snapshot(num_nodes=nodes, seconds=seconds, directed=directed, name=name, **columns)
            if self.index is not None:
                ends = (made.src, made.dst, made.time)
                build = partial(TemporalCSR.build, self.index, *ends, nodes, directed=directed)
                made = replace(made, open_index=build)
            self.opened.append(EventLog.of(made))
        return self.opened[0]

    @property
    def in_time(self) -> bool:
        """Partitions follow each other in time."""
        return True

    @property
    def train_rows(self) -> Sequence[int]:
        """Events of each training partition."""
        return [end - begin for begin, end in self.parts]

    @property
    def slice_rows(self) -> Sequence[int]:
        """Events of each validation slice."""
        return [end - begin for begin, end in self.slices]

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        return self._batches(self.parts[partition], epoch, batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        return self._batches(self.slices[number], 0, batch_size)

    def _batches(self, window: Window, epoch: int, batch_size: int) -> Iterator[object]:
        for index, begin in enumerate(range(window[0], window[1], batch_size)):
            cut = Slice(epoch, index, begin, min(begin + batch_size, window[1]))
            batch = self.events.read(cut)
            yield batch.to("cpu")

    def shared(self, folder: Path) -> Source:
        snapshot, files = self.events.snapshot, []
        for name in _COLUMNS:
            column = getattr(snapshot, name)
            if column is not None:
                np.save(folder / f"{name}.npy", column)
                files.append((name, folder / f"{name}.npy"))
        about = (snapshot.num_nodes, snapshot.seconds, snapshot.directed, snapshot.name)
        offset = self.events.begin
        moved = [tuple((a + offset, b + offset) for a, b in windows) for windows in (self.parts, self.slices)]
        index = folder / "index"
        if snapshot.has_index is not None and snapshot.has_index() and isinstance(snapshot.index.event, np.memmap):
            index = Path(str(snapshot.index.event.filename)).parent
        return LogData(None, moved[0], moved[1], tuple(files), about, index)

    def describe(self) -> str:
        events = f"{sum(self.train_rows)} events, {len(self.parts)} partitions, {sum(self.slice_rows)} to validate"
        return f"{self.about[3] if self.log is None else self.log.name or 'log'}: {events}"


def cut_log(log: EventLog, validation: object, partitions: int, slices: int) -> LogData:
    """Cut a log into windows of equally many events; what is validated comes after what is trained on.

    Raises:
        InvalidValueError: If the validation is neither a share nor a later view of the same log.
        DataError: If there are too few events.
    """
    if isinstance(validation, EventLog):
        if validation.snapshot is not log.snapshot or validation.begin < log.end:
            raise InvalidValueError("validation", validation, f"a view of {log.name or 'the log'} behind {log.end}")
        whole, end, last = replace(log, end=validation.end), len(log), validation.end - log.begin
        first = validation.begin - log.begin
    elif isinstance(validation, float | int):
        whole, last = log, len(log)
        first = end = len(log) - max(1, round(len(log) * float(validation)))
    else:
        raise InvalidValueError("validation", type(validation).__name__, "a share or a later view of the log")
    if end < partitions or last - first < slices:
        raise DataError(log.name or "log", f"{end} and {last - first} events", "one in each part", "cut less")
    return LogData(whole, _windows(0, end, partitions), _windows(first, last, slices))


def _windows(begin: int, end: int, parts: int) -> tuple[Window, ...]:
    edges = [begin + (end - begin) * part // parts for part in range(parts + 1)]
    return tuple(pairwise(edges))


@dataclass(frozen=True)
class TableData(ByRows):
    """A table of a lake: each partition is read once a visit, through the stages, and shuffled in memory.

    Args:
        place: The lake's path, the table's name and version.
        parts: Rows of each partition.
        slices: Rows of each validation slice.
        seed: Of the shuffles.
        stages: Stages that need a batch alone, such as `Encode`.
        held: Lake, name and version of the table that is validated on.
    """

    place: tuple[str, str, int]
    parts: tuple[Ids, ...]
    slices: tuple[Ids, ...]
    seed: int
    stages: tuple[Stage, ...] = ()
    held: tuple[str, str, int] | None = None
    opened: dict[object, object] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "opened": {}}

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        whole = self._read(("train", partition), self.place, self.parts[partition])
        return _batches(whole, shuffled(self.seed, epoch, partition, len(whole)), batch_size, epoch)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        whole = self._read(("slice", number), self.held or self.place, self.slices[number])
        return _batches(whole, np.arange(len(whole)), batch_size, 0)

    def _read(self, key: tuple[str, int], place: tuple[str, str, int], rows: Ids) -> Batch:
        """Return all rows of a part; the last training partition and the last slice stay in memory."""
        kept = self.opened.get(key[0])
        if isinstance(kept, tuple) and kept[0] == key:
            batch: Batch = kept[1]
            return batch
        self.opened.pop(key[0], None)  # one part of a kind at a time, also while the next one is read
        kept = None
        if place not in self.opened:
            from stepwell.storage import Lake  # loads the library of the lake

            self.opened[place] = Lake(place[0]).table(place[1], place[2])
        table = self.opened[place]
        assert isinstance(table, Table)
        batch = table.read(Slice(0, 0, 0, len(rows), rows))
        for stage in self.stages:
            batch = stage(batch)
        batch = batch.to("cpu")
        self.opened[key[0]] = (key, batch)
        return batch

    def shared(self, folder: Path) -> Source:
        return self

    def describe(self) -> str:
        name, version = self.place[1:]
        return f"{name}@{version}: {sum(self.train_rows)} rows, {sum(self.slice_rows)} rows to validate"


def _batches(whole: Batch, order: Ids, batch_size: int, epoch: int) -> Iterator[object]:
    import torch

    for index, begin in enumerate(range(0, len(order), batch_size)):
        rows = torch.from_numpy(order[begin : begin + batch_size])
        fields = {}
        for name in whole:
            value = whole[name]
            per_row = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == len(whole)
            fields[name] = value[rows] if per_row else value  # type: ignore[index]
        yield Batch(Slice(epoch, index, begin, begin + len(rows)), **fields)


def cut_table(
    table: Table, validation: object, partitions: int, slices: int, seed: int, stages: Sequence[Stage] = ()
) -> TableData:
    """Cut a table's rows at random; every part goes through the stages when it is read.

    Raises:
        InvalidValueError: If the validation is neither a share nor a table.
        DataError: If there are too few rows.
    """
    place, rows = _place(table), np.arange(len(table))
    if isinstance(validation, Table):
        train, held, other = rows, np.arange(len(validation)), _place(validation)
    elif isinstance(validation, float | int):
        order = np.random.default_rng([seed, 0x401]).permutation(len(rows))
        count = max(1, round(len(rows) * float(validation)))
        train, held, other = np.sort(order[count:]), np.sort(order[:count]), None
    else:
        raise InvalidValueError("validation", type(validation).__name__, "a share or a table")
    if len(train) < partitions or len(held) < slices:
        raise DataError(table.name, f"{len(train)} and {len(held)} rows", "one in each part", "cut less")
    parts, held_parts = cut_evenly(train, partitions, seed), cut_evenly(held, slices, seed + 1)
    return TableData(place, parts, held_parts, seed, tuple(stages), other)


def _place(table: Table) -> tuple[str, str, int]:
    uri = str(table.delta.table_uri).removeprefix("file://").rstrip("/")
    return uri.removesuffix(f"/{table.name}"), table.name, table.version
