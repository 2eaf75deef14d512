"""An epoch over features that do not fit: generated data, and the contestants that differ only in how rows are fetched.

Run as `python -m benchmarks.peers.out_of_core CONTESTANT SAMPLER FOLDER ...` in a process of its own, so that a control
group can hold all its memory, the page cache included.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch

from benchmarks.training import adam
from stepwell.access import Pipeline, Recent, Uniform, UniformNegatives
from stepwell.buffer import LRU, Interval
from stepwell.buffer.tiers import Tier, TieredStore
from stepwell.core import Batch, Cost, Ids, Machine, Slice, Statistics
from stepwell.core.shapes import Accuracy, Source
from stepwell.nn import TGAT, TGATSettings
from stepwell.storage import EventLog
from stepwell.storage.index import TemporalCSR
from stepwell.storage.snapshot import Snapshot
from stepwell.storage.units import to_bytes
from stepwell.train import link_loss

WIDTH, K, SIZE = 172, 10, 600
ROW_BYTES = WIDTH * 4
CONTESTANTS = ("in memory", "stepwell", "mmap normal", "mmap random", "mmap willneed", "pread lru")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Batches of `SIZE` events out of equidistant blocks that span the log.

    Args:
        blocks: How many blocks.
        batches: Batches of a block.
        every: Only every so many-th batch, to bound what a slow contestant takes.
    """

    blocks: int
    batches: int
    every: int = 1

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield the slices; the last block ends with the log."""
        length = self.batches * SIZE
        starts = np.linspace(length, len(source), self.blocks).astype(np.int64) - length
        begins = [int(start) + i * SIZE for start in starts for i in range(self.batches)]
        for index, begin in enumerate(begins[:: self.every]):
            yield Slice(epoch, index, begin, begin + SIZE)


def generate(folder: Path, size_bytes: int, nodes: int = 100_000) -> int:
    """Write features, columns and the index of a generated stream; return the number of events.

    Users (four fifths of the nodes) and destinations have skewed degrees; of seven in ten events the destination is one
    of the user's eight favourites.
    """
    events, users = size_bytes // ROW_BYTES, nodes * 4 // 5
    rng = np.random.default_rng(0)
    part = 1 << 16
    header = np.lib.format.header_data_from_array_1_0(np.empty((0, WIDTH), np.float32)) | {"shape": (events, WIDTH)}
    with (folder / "feature.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, events, part):
            file.write(rng.random((min(part, events - begin), WIDTH), np.float32).data)
        os.fsync(file.fileno())
    src = (users * rng.random(events) ** 2).astype(np.int64)
    favourite = (src * 7919 + (8 * rng.random(events) ** 2).astype(np.int64) * 104_729) % (nodes - users)
    popular = ((nodes - users) * rng.random(events) ** 2).astype(np.int64)
    dst = users + np.where(rng.random(events) < 0.7, favourite, popular)
    for name, column in (("src", src.astype(np.int32)), ("dst", dst.astype(np.int32)), ("time", np.arange(events))):
        np.save(folder / f"{name}.npy", column)
    by_source, by_destination, when = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("src", "dst", "time")
    )
    TemporalCSR.build(folder / "index", by_source, by_destination, when, nodes, budget="1GiB")
    return events


def opened(folder: Path, *, resident: bool = False) -> EventLog:
    """Open the generated stream, everything memory-mapped.

    Args:
        folder: Where it is.
        resident: Read the features into memory instead.
    """
    src, dst, time_ = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("src", "dst", "time"))
    feature = np.load(folder / "feature.npy", mmap_mode=None if resident else "r")
    nodes = int(dst.max()) + 1

    def index() -> TemporalCSR:
        return TemporalCSR.build(folder / "index", src, dst, time_, nodes)

    return EventLog.of(Snapshot(src, dst, time_, nodes, event_feature=feature, open_index=index))


class Mapped:
    """Rows of a memory-mapped tensor, with one piece of advice to the kernel.

    Args:
        path: The feature file.
        advice: `"normal"`, `"random"`, or `"willneed"` (random, and the pages of each batch are asked for beforehand).
    """

    def __init__(self, path: Path, advice: str) -> None:
        self.advice, self.offset = advice, np.load(path, mmap_mode="r").offset
        with path.open("rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        if advice != "normal":
            self.memory.madvise(mmap.MADV_RANDOM)
        flat = torch.frombuffer(self.memory, dtype=torch.float32, offset=self.offset)
        self.tensor = flat.view(-1, WIDTH)

    def __call__(self, events: Ids) -> torch.Tensor:
        """Return the rows."""
        if self.advice == "willneed":
            first = (self.offset + np.sort(events) * ROW_BYTES) // mmap.PAGESIZE * mmap.PAGESIZE
            for place in np.unique(first).tolist():
                self.memory.madvise(mmap.MADV_WILLNEED, place, 2 * mmap.PAGESIZE)
        return self.tensor[torch.from_numpy(events)]


class Pread:
    """The file read by a pool of threads, one `pread` a row, in file order; a backing of a `TieredStore`.

    Args:
        path: The feature file.
        threads: How many threads.
    """

    def __init__(self, path: Path, threads: int = 16) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self.offset, self.threads = mapped.shape, mapped.dtype, mapped.offset, threads
        self.fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.pool = ThreadPoolExecutor(threads)

    def read(self, rows: Ids, out: np.ndarray, places: Ids) -> np.ndarray:
        """Copy rows to `out[places]`."""
        order = np.argsort(rows)
        flat = out.reshape(-1).view(np.uint8).data
        offsets, targets = self.offset + rows[order] * ROW_BYTES, places[order] * ROW_BYTES

        def some(part: np.ndarray) -> None:
            pread, fd = os.preadv, self.fd
            for offset, target in zip(offsets[part].tolist(), targets[part].tolist(), strict=True):
                pread(fd, (flat[target : target + ROW_BYTES],), offset)

        list(self.pool.map(some, np.array_split(np.arange(len(rows)), self.threads)))
        return out

    def write(self, rows: Ids, values: np.ndarray) -> None:
        """Nothing is written here."""
        raise NotImplementedError

    def flush(self) -> None:
        """Nothing is written here."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """The stage that stands in for `Gather`: `event_feature` of `events`, by a function, batch after batch."""

    rows: Mapped | TieredStore

    needs: ClassVar[frozenset[str]] = frozenset({"events"})
    gives: ClassVar[frozenset[str]] = frozenset({"event_feature"})
    reads: ClassVar[frozenset[str]] = frozenset({"placement"})
    writes: ClassVar[frozenset[str]] = frozenset({"placement"})
    accuracy: ClassVar[Accuracy] = "same"

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the features."""
        fetch = self.rows if isinstance(self.rows, Mapped) else self.rows.gather
        return batch.give(event_feature=fetch(np.ascontiguousarray(cast("Ids", batch.array("events")))))

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Say nothing."""
        return Cost()


def pipeline(log: EventLog, contestant: str, sampler: str, blocks: Blocks, room: str, feature: Path) -> Pipeline:
    """Return the contestant's batches; they are equal but for where the features come from."""
    chosen = Recent(K) if sampler == "recent" else Uniform(K)
    if contestant == "stepwell":
        return Pipeline(log, blocks, negatives=UniformNegatives(), sampler=chosen, placement=Interval(room))
    if contestant == "in memory":
        return Pipeline(log, blocks, negatives=UniformNegatives(), sampler=chosen)
    if contestant.startswith("mmap"):
        rows: Mapped | TieredStore = Mapped(feature, contestant.split()[1])
    else:
        capacity = to_bytes(room, "room") // ROW_BYTES
        rows = TieredStore(Pread(feature), [Tier(capacity, LRU(room).begin(len(log), capacity))])
    return Pipeline(log, blocks, negatives=UniformNegatives(), sampler=chosen, stages=[Fetch(rows)])


def train(model: TGAT, batches: Iterator[Batch], stop_s: float = 0.0) -> tuple[list[float], float]:
    """Take one step a batch until all are done or the time is up; return when each was done, and the last loss."""
    optimizer, done, loss = adam(model), list[float](), torch.zeros(())
    begin = time.perf_counter()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = link_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        done.append(time.perf_counter() - begin)
        if stop_s and done[-1] > stop_s:
            break
    return done, float(loss.detach())


def measured(contestant: str, sampler: str, folder: Path, blocks: Blocks, room: str, stop_s: float) -> dict[str, float]:
    """Run one epoch and return its figures; `batch_s` is what it takes a batch, planning included."""
    torch.set_num_threads(2)
    _warm_up(contestant, sampler)
    log = opened(folder, resident=contestant == "in memory")
    if contestant == "in memory":
        for column in _columns(log):
            np.sum(column)  # into the page cache
    torch.manual_seed(0)
    model = TGAT(log.num_nodes, WIDTH, 0, TGATSettings(hops=1, k=K, dropout=0.0))
    made = pipeline(log, contestant, sampler, blocks, room, folder / "feature.npy")
    before, begin, cpu = _read_bytes(), time.perf_counter(), time.process_time()
    done, loss = train(model, iter(made), stop_s)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    parts = {f"{name} s": cost.seconds or 0.0 for name, cost in made.measured.items()}
    plan = sum(value for name, value in parts.items() if name.startswith("Plan"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    half = len(done) // 2 if stop_s and done[-1] > stop_s else 0
    batch_s = (done[-1] - done[half - 1]) / (len(done) - half) if half else done[-1] / len(done)
    found = {"batch_s": batch_s, "wall_s": seconds, "cpu_s": cpu, "plan_s": plan, "batches": len(done), "loss": loss}
    return found | {"read_bytes": _read_bytes() - before, "peak_resident_bytes": peak} | parts


def _columns(log: EventLog) -> tuple[np.ndarray, ...]:
    index = log.index
    return log.src, log.dst, log.time, index.indptr, index.neighbor, index.event, index.time


def device_rates(path: Path) -> dict[str, float]:
    """Return the bytes a second of reads past the page cache: 1 MiB in order by 4 threads, 4 KiB at random by 32."""
    size, fd = path.stat().st_size, os.open(path, os.O_RDONLY | os.O_DIRECT)

    def rate(length: int, places: np.ndarray, threads: int) -> float:
        def some(part: np.ndarray) -> None:
            buffer = mmap.mmap(-1, length)
            for place in part.tolist():
                os.preadv(fd, [buffer], place)

        begin = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, np.array_split(places, threads)))
        return len(places) * length / (time.perf_counter() - begin)

    try:
        drawn = np.random.default_rng(0).integers(0, size // 4096 - 1, 100_000) * 4096
        in_order = np.arange(min(2048, size >> 20)) << 20
        return {"sequential bytes/s": rate(1 << 20, in_order, 4), "random 4 KiB bytes/s": rate(4096, drawn, 32)}
    finally:
        os.close(fd)


def _warm_up(contestant: str, sampler: str) -> None:
    """Load compiled code, on a stream too small to matter."""
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, 50, (2, 4 * SIZE))
    small = EventLog.from_arrays(src, 50 + dst, np.arange(len(src)), features=rng.random((len(src), WIDTH), np.float32))
    mine = contestant if contestant == "stepwell" else "in memory"
    train(
        TGAT(100, WIDTH, 0, TGATSettings(hops=1, k=K)),
        iter(pipeline(small, mine, sampler, Blocks(1, 4), "1MiB", Path())),
    )


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def main() -> None:
    """Run one contestant and print its figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("sampler", choices=("recent", "uniform"))
    parser.add_argument("folder", type=Path)
    for name in ("--blocks", "--batches", "--every"):
        parser.add_argument(name, type=int, default=1)
    parser.add_argument("--room", default="64MiB")
    parser.add_argument("--stop", type=float, default=0.0)
    chosen = parser.parse_args()
    blocks = Blocks(chosen.blocks, chosen.batches, chosen.every)
    print(json.dumps(measured(chosen.contestant, chosen.sampler, chosen.folder, blocks, chosen.room, chosen.stop)))


if __name__ == "__main__":
    main()
