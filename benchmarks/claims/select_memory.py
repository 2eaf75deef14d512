"""What a worker of a study reads and keeps: its own partitions once an epoch, and one of them at a time."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.harness import Claim, Result
from benchmarks.private_memory import status
from stepwell.core.batch import Batch, Slice
from stepwell.select import Metric, StudySettings, Trainee, cut, search
from stepwell.select.data import Source
from stepwell.select.space import Params

WIDTH, CONFIGS, EPOCHS, WORKERS = 62, 8, 3, 2
ROW_BYTES = 4 * WIDTH + 8
_WHAT = (
    f"{CONFIGS} configurations, {EPOCHS} epochs, {WORKERS} workers with a partition each, a table of a lake of {WIDTH} "
    "float32 and a label a row, 256 MiB in all"
)
CLAIMS = [
    Claim(
        "select_bytes_read",
        f"{_WHAT}: bytes of rows that a worker reads from the table to train on, over those of its partitions times "
        "epochs, the worse worker",
        1.05,
        "x",
        "<=",
    ),
    Claim(
        "select_memory",
        f"{_WHAT}: peak private memory of a worker, beyond that on a table of 4 MiB, over one partition and "
        "two states, the worse worker",
        1.05,
        "x",
        "<=",
    ),
]


@dataclass(frozen=True)
class Watched:
    """A source that notes, in each process, the bytes read for each visit and the peak of private memory.

    Args:
        source: The source.
        notes: Folder for one file a process.
    """

    source: Source
    notes: Path
    watch: list[_Watch] = field(default_factory=list, compare=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "watch": []}

    @property
    def in_time(self) -> bool:
        """As the source."""
        return self.source.in_time

    @property
    def train_rows(self) -> Sequence[int]:
        """As the source."""
        return self.source.train_rows

    @property
    def slice_rows(self) -> Sequence[int]:
        """As the source."""
        return self.source.slice_rows

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        return self._noted(lambda: self.source.train(partition, epoch, batch_size), "train", partition)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        return self._noted(lambda: self.source.slice(number, batch_size), "slice", number)

    def _noted(self, visit: Callable[[], Iterator[object]], kind: str, number: int) -> Iterator[object]:
        if not self.watch:
            self.watch.append(_Watch(self.notes / f"{os.getpid()}.json"))
        watch = self.watch[0]
        before = watch.read
        yield from visit()
        watch.note(kind, number, watch.read - before)

    def shared(self, folder: Path) -> Source:
        return Watched(self.source.shared(folder), self.notes)

    def describe(self) -> str:
        return self.source.describe()


class _Watch:
    """Samples a process's private memory every 2 ms and keeps the peak and the visits in a file."""

    def __init__(self, path: Path) -> None:
        self._path, self._base, self._peak, self._visits = path, _private(), 0, list[tuple[str, int, int]]()
        self.read = 0
        _count_reads(self)
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, _private() - self._base)
            time.sleep(0.002)

    def note(self, kind: str, number: int, read: int) -> None:
        self._visits.append((kind, number, read))
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps({"peak": self._peak, "visits": self._visits}))
        aside.replace(self._path)


def _private() -> int:
    return status("RssAnon") + status("RssShmem")


def _count_reads(watch: _Watch) -> None:
    """Let every read of a lake's table in this process add the bytes of its rows: mapped files leave no other trace."""
    from stepwell.storage import Table

    read = Table.read

    def counted(table: Table, slice: Slice) -> Batch:
        watch.read += len(slice) * ROW_BYTES
        return read(table, slice)

    setattr(Table, "read", counted)  # noqa: B010 - a method of a class that is not ours to change for good


def build(params: Params) -> Trainee:
    """Build a linear model with Adam."""
    model = torch.nn.Linear(WIDTH, 2)
    return Trainee(model, torch.optim.Adam(model.parameters(), lr=float(params["lr"] or 0)))


def step(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return the loss of a batch of the table."""
    assert isinstance(batch, Batch)
    return torch.nn.functional.cross_entropy(model(_inputs(batch)), batch["y"])  # type: ignore[arg-type]


def score(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return which rows are right."""
    assert isinstance(batch, Batch)
    right: torch.Tensor = model(_inputs(batch)).argmax(1) == batch["y"]
    return right.float()


def _inputs(batch: Batch) -> torch.Tensor:
    found = batch["x"]
    assert isinstance(found, torch.Tensor)
    return found


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Run the study with workers that note what they read and keep; `quick` on a quarter of the table."""
    size = (64 if quick else 256) << 20
    small, own = _noted(4 << 20, WORKERS), _noted(size, WORKERS)
    two_each = _noted(size, 2 * WORKERS)
    fixed = max(note.peak for note in small.notes)
    read, kept = dict[str, dict[str, float | str]](), dict[str, dict[str, float | str]]()
    for label, run in (("", own), ("two partitions a worker, ", two_each)):
        for number, note in enumerate(run.notes):
            taken, fair = sum(visit[2] for visit in note.visits), EPOCHS * ROW_BYTES * note.rows(run.rows)
            read[f"{label}worker {number}"] = {
                **{"read_mib": taken / 2**20, "partitions_times_epochs_mib": fair / 2**20, "ratio": taken / fair},
                **{"visits": len(note.visits), "visits_that_read": sum(visit[2] > 0 for visit in note.visits)},
            }
            room, peak = ROW_BYTES * max(run.rows) + 2 * run.state, note.peak - fixed
            kept[f"{label}worker {number}"] = {
                **{"peak_mib": peak / 2**20, "partition_and_two_states_mib": room / 2**20, "ratio": peak / room},
                "peak_on_4_mib": fixed / 2**20,
            }
    worst = [max(float(found[f"worker {n}"]["ratio"]) for n in range(len(own.notes))) for found in (read, kept)]
    quality: dict[str, float | str] = {"best accuracy": own.best, "state_kib": own.state / 1024}
    why = "a validation slice and the order of the rows lie beside the partition"
    return [
        Result("select_bytes_read", worst[0], read, quality, (0,)),
        Result("select_memory", worst[1], kept, quality, (0,), why),
    ]


@dataclass(frozen=True)
class _Note:
    """What one worker noted: the peak of its memory, and (partition, bytes read) of each visit that trained."""

    peak: int
    visits: list[tuple[str, int, int]]

    def rows(self, rows: Sequence[int]) -> int:
        """Return the rows of the partitions that it visited."""
        return sum(rows[part] for part in {visit[1] for visit in self.visits})


@dataclass(frozen=True)
class _Run:
    """What a study's workers noted, the rows of its partitions, bytes of a state, and its best accuracy."""

    notes: list[_Note]
    rows: Sequence[int]
    state: int
    best: float


def _noted(size: int, partitions: int) -> _Run:
    import stepwell as sw

    rows = size // ROW_BYTES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        x = np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)
        columns = pa.FixedSizeListArray.from_arrays(x.reshape(-1), WIDTH)
        table = sw.open(folder / "lake").write("rows", pa.table({"x": columns, "y": (x[:, 0] > 0).astype(np.int64)}))
        _ = table.row_index  # what a lake builds once for every reader
        source = cut(table, 0.005, partitions=partitions, slices=1)
        del x, columns
        (folder / "notes").mkdir()
        study = search(
            {"lr": [0.001 * (1 + number) for number in range(CONFIGS)]},
            Watched(source, folder / "notes"),
            build,
            step=step,
            metric=Metric("right", score, "max", (0.0, 1.0)),
            epochs=EPOCHS,
            workers=WORKERS,
            folder=folder / "study",
            settings=StudySettings(partitions=partitions, lanes=1, batch_size=1024, early=False),
        )
        notes = []
        for path in (folder / "notes").glob("*.json"):
            found = json.loads(path.read_text())
            notes.append(_Note(found["peak"], [tuple(visit) for visit in found["visits"] if visit[0] == "train"]))
        state = max(one.size_bytes for one in study.configs)
        return _Run(notes, source.train_rows, state, float(study.ranked()[0].value or 0.0))
