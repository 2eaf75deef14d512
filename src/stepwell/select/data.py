"""The data of a study, cut once: partitions to train on, slices to validate on.

Arrays are cut at random, evenly by label where there is one; event logs in time, and visited in time order. Within an
epoch each partition's rows are shuffled by (seed, epoch, partition) alone, so every configuration sees the same batches
of a partition and every worker makes the same ones. Validation slices are random parts, the same for all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.batch import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.shapes import Stage

Arrays: TypeAlias = "torch.Tensor | npt.NDArray[np.generic]"
Fields: TypeAlias = "Arrays | Sequence[Arrays] | Mapping[str, Arrays]"
MOST_CLASSES = 1000


@runtime_checkable
class Source(Protocol):
    """Where batches come from; picklable, or turned into something picklable by `shared`."""

    @property
    def in_time(self) -> bool:
        """Whether partitions follow each other in time."""

    @property
    def train_rows(self) -> Sequence[int]:
        """Rows of each training partition."""

    @property
    def slice_rows(self) -> Sequence[int]:
        """Rows of each validation slice."""

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a partition in one epoch."""

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a validation slice, always in the same order."""

    def shared(self, folder: Path) -> Source:
        """Return the same source such that other processes can map it; files go to `folder`."""

    def describe(self) -> str:
        """Return what it is, in a few words that differ if the data differ."""


class ByRows:
    """What sources have in common whose partitions and slices are rows in no order."""

    parts: tuple[Ids, ...]
    slices: tuple[Ids, ...]

    @property
    def in_time(self) -> bool:
        """Rows have no order."""
        return False

    @property
    def train_rows(self) -> Sequence[int]:
        """Rows of each training partition."""
        return [len(part) for part in self.parts]

    @property
    def slice_rows(self) -> Sequence[int]:
        """Rows of each validation slice."""
        return [len(part) for part in self.slices]


@dataclass(frozen=True)
class ArrayData(ByRows):
    """Arrays of equal length.

    Args:
        arrays: The fields.
        names: Their names, if batches are mappings; batches are tuples otherwise.
        parts: Rows of each partition.
        slices: Rows of each validation slice.
        seed: Of the shuffles.
        loose: Whether a batch is the one array itself.
    """

    arrays: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    parts: tuple[Ids, ...]
    slices: tuple[Ids, ...]
    seed: int
    loose: bool = False

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        rows = self.parts[partition]
        order = shuffled(self.seed, epoch, partition, len(rows))
        return self._batches(rows[order], batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        return self._batches(self.slices[number], batch_size)

    def _batches(self, rows: Ids, batch_size: int) -> Iterator[object]:
        index = torch.from_numpy(rows)
        for begin in range(0, len(rows), batch_size):
            some = index[begin : begin + batch_size]
            yield self._form([array[some] for array in self.arrays])

    def _form(self, fields: list[torch.Tensor]) -> object:
        if self.names:
            return dict(zip(self.names, fields, strict=True))
        return fields[0] if self.loose else tuple(fields)

    def shared(self, folder: Path) -> Source:
        return SharedArrays(tuple(_write(folder, i, array) for i, array in enumerate(self.arrays)), self)

    def describe(self) -> str:
        shapes = [f"{list(array.shape)} {str(array.dtype).removeprefix('torch.')}" for array in self.arrays]
        return f"{', '.join(shapes)}; {len(self.parts)} partitions, {sum(self.slice_rows)} rows to validate"


@dataclass(frozen=True)
class SharedArrays:
    """The same arrays as maps of files, opened where they are used.

    Args:
        files: One `.npy` an array.
        like: What they are arrays of; pickled without its arrays.
    """

    files: tuple[Path, ...]
    like: ArrayData
    opened: list[ArrayData] = field(default_factory=list, compare=False, repr=False)

    def __getstate__(self) -> tuple[tuple[Path, ...], ArrayData]:
        return self.files, replace(self.like, arrays=())

    def __setstate__(self, state: tuple[tuple[Path, ...], ArrayData]) -> None:
        for name, value in zip(("files", "like", "opened"), (*state, []), strict=True):
            object.__setattr__(self, name, value)

    @property
    def _here(self) -> ArrayData:
        if not self.opened:
            maps = tuple(torch.from_numpy(np.load(file, mmap_mode="c")) for file in self.files)
            self.opened.append(replace(self.like, arrays=maps))
        return self.opened[0]

    @property
    def in_time(self) -> bool:
        """Rows have no order."""
        return False

    @property
    def train_rows(self) -> Sequence[int]:
        """Rows of each training partition."""
        return self.like.train_rows

    @property
    def slice_rows(self) -> Sequence[int]:
        """Rows of each validation slice."""
        return self.like.slice_rows

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        return self._here.train(partition, epoch, batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        return self._here.slice(number, batch_size)

    def shared(self, folder: Path) -> Source:
        return self

    def describe(self) -> str:
        return self.like.describe()


@dataclass(frozen=True)
class DatasetData(ByRows):
    """A map-style torch data set: rows are fetched one by one and collated, as its `DataLoader` would.

    Args:
        rows: The data set: `len` and `[i]`; random transforms stay random, under the configuration's generators.
        parts: Rows of each partition.
        held: The data set to validate on.
        slices: Its rows in each slice.
        seed: Of the shuffles.
    """

    rows: torch.utils.data.Dataset[object]
    parts: tuple[Ids, ...]
    held: torch.utils.data.Dataset[object]
    slices: tuple[Ids, ...]
    seed: int

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        rows = self.parts[partition]
        return _collated(self.rows, rows[shuffled(self.seed, epoch, partition, len(rows))], batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        return _collated(self.held, self.slices[number], batch_size)

    def shared(self, folder: Path) -> Source:
        return self

    def describe(self) -> str:
        sizes = f"{sum(self.train_rows)} rows, {len(self.parts)} partitions, {sum(self.slice_rows)} rows to validate"
        return f"{type(self.rows).__name__}: {sizes}"


def _collated(rows: torch.utils.data.Dataset[object], order: Ids, batch_size: int) -> Iterator[object]:
    from torch.utils.data import default_collate

    for begin in range(0, len(order), batch_size):
        yield default_collate([rows[int(i)] for i in order[begin : begin + batch_size]])


def shuffled(seed: int, epoch: int, partition: int, rows: int) -> Ids:
    """Return the order of a partition's rows in one epoch."""
    return np.random.default_rng([seed, epoch, partition, 0x5F]).permutation(rows)


def cut_evenly(rows: Ids, parts: int, seed: int, labels: npt.NDArray[np.generic] | None = None) -> tuple[Ids, ...]:
    """Cut rows into random parts whose sizes differ by at most one, and so do the counts of each label.

    Args:
        rows: The rows.
        parts: How many parts.
        seed: Of the cut.
        labels: The label of each of `rows`, or None.
    """
    order = np.random.default_rng([seed, 0xC07]).permutation(len(rows))
    if labels is not None:
        order = order[np.argsort(labels[order], kind="stable")]
    mixed = [order[part::parts] for part in range(parts)]
    return tuple(rows[np.sort(part)] for part in mixed)


def cut(
    data: object,
    validation: object = 0.2,
    *,
    partitions: int = 4,
    slices: int = 4,
    seed: int = 0,
    label: str = "",
    stages: Sequence[Stage] = (),
) -> Source:
    """Cut data into partitions and validation slices.

    Args:
        data: Arrays (one, several or a mapping of them), a torch data set, an event log, a lake's table, or a source.
        validation: The same kind of data, or the share of `data` to hold out: rows at random, events at the end.
        partitions: Partitions to train on.
        slices: Parts to validate on.
        seed: Of cut and shuffles.
        label: The field by which arrays are cut evenly; the last one if it is whole numbers.
        stages: What each batch of a table goes through, such as `Encode`.

    Raises:
        InvalidValueError: If a number is out of range or the data are of no known kind.
    """
    from stepwell.select.lake_data import cut_log, cut_table
    from stepwell.storage import EventLog, Table

    for name, value in (("partitions", partitions), ("slices", slices)):
        if value < 1:
            raise InvalidValueError(name, value, "at least 1")
    if isinstance(validation, float | int) and not 0 < validation < 1:
        raise InvalidValueError("validation", validation, "data, or a share above 0 and below 1")
    if isinstance(data, Source):
        return data
    if isinstance(data, EventLog):
        return cut_log(data, validation, partitions, slices)
    if isinstance(data, Table):
        return cut_table(data, validation, partitions, slices, seed, stages)
    if isinstance(data, torch.utils.data.TensorDataset):
        held = validation.tensors if isinstance(validation, torch.utils.data.TensorDataset) else validation
        return _cut_arrays(data.tensors, held, partitions, slices, seed, label)
    if isinstance(data, torch.utils.data.Dataset):
        return _cut_dataset(data, validation, partitions, slices, seed)
    return _cut_arrays(data, validation, partitions, slices, seed, label)


def _cut_arrays(data: object, validation: object, partitions: int, slices: int, seed: int, label: str) -> ArrayData:
    arrays, names, loose = _fields("data", data)
    count = len(arrays[0])
    if isinstance(validation, float | int):
        labels = _labels(arrays, names, label)
        train, held = _hold_out(count, float(validation), seed)
    else:
        more, other, _ = _fields("validation", validation)
        if other != names or len(more) != len(arrays):
            raise DataError("validation", f"fields {other or len(more)}", f"{names or len(arrays)}", "pass both alike")
        arrays = tuple(torch.cat([a, b.to(a.dtype)]) for a, b in zip(arrays, more, strict=True))
        labels = _labels(arrays, names, label)
        train, held = np.arange(count), np.arange(count, len(arrays[0]))
    if len(train) < partitions or len(held) < slices:
        raise DataError(
            "data", f"{len(train)} rows to train, {len(held)} to validate", "a row in each part", "cut less"
        )
    parts = cut_evenly(train, partitions, seed, None if labels is None else labels[train])
    return ArrayData(arrays, names, parts, cut_evenly(held, slices, seed + 1), seed, loose)


def _cut_dataset(
    data: torch.utils.data.Dataset[object], validation: object, partitions: int, slices: int, seed: int
) -> DatasetData:
    count = len(data)  # type: ignore[arg-type]
    if isinstance(validation, float | int):
        train, held = _hold_out(count, float(validation), seed)
        other = data
    elif isinstance(validation, torch.utils.data.Dataset):
        train, held, other = np.arange(count), np.arange(len(validation)), validation  # type: ignore[arg-type]
    else:
        raise InvalidValueError("validation", type(validation).__name__, "a data set or a share")
    return DatasetData(data, cut_evenly(train, partitions, seed), other, cut_evenly(held, slices, seed + 1), seed)


def _hold_out(count: int, share: float, seed: int) -> tuple[Ids, Ids]:
    order = np.random.default_rng([seed, 0x401]).permutation(count)
    held = max(1, round(count * share))
    return np.sort(order[held:]), np.sort(order[:held])


def _fields(where: str, data: object) -> tuple[tuple[torch.Tensor, ...], tuple[str, ...], bool]:
    """Return arrays, their names, and whether there is one alone."""
    if isinstance(data, Mapping):
        names, given = tuple(str(name) for name in data), list(data.values())
    elif isinstance(data, tuple | list):
        names, given = (), list(data)
    else:
        names, given = (), [data]
    if not given or not all(isinstance(one, torch.Tensor | np.ndarray) for one in given):
        allowed = "arrays or tensors, a torch data set, an EventLog, a Table of a lake, or a Source"
        raise InvalidValueError(where, type(data).__name__, allowed)
    arrays = tuple(one if isinstance(one, torch.Tensor) else torch.from_numpy(_owned(one)) for one in given)
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise DataError(where, f"arrays of {sorted(lengths)} rows", "equal lengths", "pass one row an example")
    return arrays, names, not names and not isinstance(data, tuple | list)


def _owned(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    return np.require(array, requirements=("C", "W"))


def _labels(arrays: tuple[torch.Tensor, ...], names: tuple[str, ...], label: str) -> npt.NDArray[np.generic] | None:
    if label and label not in names:
        raise InvalidValueError("label", label, f"one of {', '.join(names) or 'no names'}")
    chosen = arrays[names.index(label)] if label else arrays[-1]
    if len(arrays) < 2 or chosen.ndim != 1 or chosen.is_floating_point():
        return None
    found = chosen.numpy()
    return found if len(np.unique(found)) <= MOST_CLASSES else None


def _write(folder: Path, number: int, array: torch.Tensor) -> Path:
    file = folder / f"{number}.npy"
    np.save(file, array.numpy())
    return file


def shared_folder(size_bytes: int) -> tempfile.TemporaryDirectory[str]:
    """Return a folder for maps that several processes share: in memory where there is room, else on disk."""
    import shutil

    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > 2 * size_bytes + (64 << 20)
    return tempfile.TemporaryDirectory(prefix="stepwell-", dir=memory if fits else None, ignore_cleanup_errors=True)
