"""Loaders of dense data side by side: one contestant, one data set, one process, one line of JSON.

`python -m benchmarks.peers.dense FOLDER CONTESTANT` iterates epochs of shuffled batches until the time is over, after a
warm-up, and prints rows, seconds and memory. `--limit` is enforced by the operating system (`RLIMIT_DATA`: private
writable memory of each process, interpreter and libraries included; file pages, mapped or cached, are not part of it).
Every contestant yields the same torch tensors of a batch, from files in the form that it reads best:

* `stepwell`: a lake table; `stepwell-uncached` (adult, images) prepares every row in every epoch
* `torch`: `DataLoader` over a map-style data set with batched `__getitems__`, its own shuffle; with `-2` two
  persistent worker processes
* `torch-index`: the same arrays by a hand-written sampler of index tensors and `batch_size=None`, so that nothing is
  left for the loader to do
* `datasets`: Hugging Face, map-style, `shuffle` and `iter`, in torch or numpy format; `-buffer`: its streaming form
  with a shuffle buffer of 10,000 rows
* `webdataset`: tar shards with one sample a row, a shuffle buffer of 10,000 rows, batched in the pipeline
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

Epoch = Callable[[int], Iterator[object]]
BUFFER = 10_000


def main() -> None:
    """Run one contestant and print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("contestant")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache first, and no warm-up")
    chosen = parser.parse_args()
    if chosen.limit:
        resource.setrlimit(resource.RLIMIT_DATA, (chosen.limit, chosen.limit))
    try:
        figures = run(chosen.folder, chosen.contestant, chosen.batch, chosen.seconds, cold=chosen.cold)
    except (MemoryError, RuntimeError, OSError) as error:
        if not chosen.limit:
            raise
        figures = {"failed": f"{type(error).__name__}: {str(error)[:120]}"}
    print(json.dumps(figures))


def run(folder: Path, contestant: str, batch: int, seconds: float, *, cold: bool) -> dict[str, float | str]:
    """Warm up for a third of the time, then time epochs.

    A whole epoch counts whole. Of one that is cut off by the clock, the wait for its first batch (a shuffle of all
    rows) counts by the share of the epoch that was reached.
    """
    name, _, workers = contestant.rpartition("-")
    name, num_workers = (name, int(workers)) if workers.isdigit() else (contestant, 0)
    epoch = CONTESTANTS[name](folder, batch, num_workers)
    total = len(np.load(folder / "label.npy", mmap_mode="r"))
    if cold:
        drop_from_page_cache(folder)
    else:
        _iterate(epoch, 0, seconds / 3, total)
    rows, wall, cpu, number, first_s = 0, 0.0, 0.0, 1, 0.0
    while wall < seconds:
        turn = _iterate(epoch, number, seconds - wall, total)
        first_s = turn.first_s if number == 1 else first_s
        rows, wall, cpu, number = rows + turn.rows, wall + turn.wall_s, cpu + turn.cpu_s, number + 1
    return {
        "rows_per_s": rows / wall, "rows_per_cpu_s": rows / cpu if cpu else 0.0, "first_batch_s": first_s,
        "private_bytes": _private_bytes(),
    }  # fmt: skip


class Turn(NamedTuple):
    """What one epoch, or the part of it that the clock allowed, took."""

    rows: int
    wall_s: float
    cpu_s: float
    first_s: float


def _iterate(epoch: Epoch, number: int, seconds: float, total: int) -> Turn:
    cpu, begin = _cpu_seconds(), time.perf_counter()
    batches, rows, first, first_rows, whole = epoch(number), 0, begin, 0, True
    first_cpu = cpu
    for count, batch in enumerate(batches):
        rows += len(batch)  # type: ignore[arg-type]
        if count == 0:
            first, first_rows, first_cpu = time.perf_counter(), rows, _cpu_seconds()
        elif count % 8 == 0 and time.perf_counter() - first > seconds:
            whole = False
            break
    end, used = time.perf_counter(), _cpu_seconds()
    close = getattr(batches, "close", None)
    if close is not None:
        close()
    if whole:
        return Turn(rows, end - begin, used - cpu, first - begin)
    share = rows / total
    wall_s, cpu_s = end - first + share * (first - begin), used - first_cpu + share * (first_cpu - cpu)
    return Turn(rows - first_rows, wall_s, cpu_s, first - begin)


def drop_from_page_cache(folder: Path) -> None:
    """Write dirty pages back and forget the files' pages."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _cpu_seconds() -> float:
    return time.process_time() + _children_seconds()


def _children_seconds() -> float:
    """Return the CPU seconds of live worker processes and of those waited for."""
    done = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = done.ru_utime + done.ru_stime
    for child in multiprocessing.active_children():
        try:
            ticks = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _private_bytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("VmData")), 0.0)


class Rows:
    """A batch of a peer, with a length."""

    def __init__(self, parts: tuple[torch.Tensor, ...]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])


# -- Stepwell ----------------------------------------------------------------------------------------------------------


def stepwell(folder: Path, batch: int, workers: int, *, cached: bool = True) -> Epoch:
    """A lake table through the pipeline."""
    import stepwell as sw

    table = sw.open(folder / "lake").table("rows")
    kind = (folder / "kind").read_text()
    source, stages = table, []
    if kind == "adult":
        stages = [sw.Encode.fit(table, label="income")]
    elif kind == "images":
        stages = [sw.DecodeImage("image", (28, 28))]
    if stages and cached:
        source, stages = sw.CachedRows(table, stages, budget_bytes=256 << 20), []
        whole = sw.Pipeline(source, sw.FixedBatches(4096))
        for _ in whole:
            pass
    pipeline = sw.Pipeline(source, sw.Shuffled(batch), stages=stages)
    return pipeline.epoch


def stepwell_uncached(folder: Path, batch: int, workers: int) -> Epoch:
    """The same, every row prepared in every epoch."""
    return stepwell(folder, batch, workers, cached=False)


# -- torch -------------------------------------------------------------------------------------------------------------


def _arrays(folder: Path) -> tuple[np.ndarray, ...]:
    """Return the prepared arrays: in memory if small, mapped if not."""
    names = json.loads((folder / "arrays.json").read_text())
    mode = "r" if sum((folder / f"{name}.npy").stat().st_size for name in names) > 1 << 28 else None
    arrays = [np.load(folder / f"{name}.npy", mmap_mode=mode) for name in names]
    return tuple(arrays)


def _fetch(folder: Path) -> tuple[int, Callable[[torch.Tensor], Rows]]:
    """Return the number of rows and a function from row numbers to a batch."""
    import torch

    if (folder / "kind").read_text() != "images":
        arrays = _arrays(folder)
        # `ndarray.take` is the fastest gather: a fifth of the time of `tensor[rows]`, two thirds of `index_select`.
        return len(arrays[0]), lambda rows: Rows(tuple(torch.from_numpy(a.take(rows.numpy(), 0)) for a in arrays))
    offset, label = np.load(folder / "offset.npy"), torch.from_numpy(np.load(folder / "label.npy"))
    data = (folder / "image.bin").read_bytes()

    def images(rows: torch.Tensor) -> Rows:
        return Rows((decode_with_pillow([data[offset[i] : offset[i + 1]] for i in rows.tolist()]), label[rows]))

    return len(label), images


def decode_with_pillow(files: list[bytes]) -> torch.Tensor:
    """Decode PNG files with Pillow, as every peer does."""
    import torch
    from PIL import Image

    out = np.empty((len(files), 28, 28), np.uint8)
    for place, file in enumerate(files):
        out[place] = np.asarray(Image.open(io.BytesIO(file)))
    return torch.from_numpy(out)


class MapStyle:
    """A map-style data set whose batches are fetched at once."""

    def __init__(self, folder: Path) -> None:
        self.size, self.fetch = _fetch(folder)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, rows: torch.Tensor) -> Rows:
        return self.fetch(rows)

    def __getitems__(self, rows: list[int]) -> Rows:
        import torch

        return self.fetch(torch.tensor(rows))


class IndexTensors:
    """A sampler of whole batches: one permutation, cut into tensors."""

    def __init__(self, size: int, batch: int) -> None:
        self.size, self.batch = size, batch

    def __len__(self) -> int:
        return -(-self.size // self.batch)

    def __iter__(self) -> Iterator[torch.Tensor]:
        import torch

        return iter(torch.randperm(self.size).split(self.batch))


def _same(batch: Rows) -> Rows:
    return batch


def torch_loader(folder: Path, batch: int, workers: int) -> Epoch:
    """`DataLoader` with its own shuffle."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        MapStyle(folder), batch, shuffle=True, collate_fn=_same, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda number: iter(loader)


def torch_index(folder: Path, batch: int, workers: int) -> Epoch:
    """`DataLoader` that only hands index tensors to a hand-written gather."""
    from torch.utils.data import DataLoader

    rows = MapStyle(folder)
    loader = DataLoader(
        rows,
        batch_size=None,
        sampler=IndexTensors(len(rows), batch),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return lambda number: iter(loader)


# -- Hugging Face datasets ---------------------------------------------------------------------------------------------


def _hugging_face(folder: Path, batch: int, form: str) -> Epoch:
    from datasets import load_from_disk
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    images = (folder / "kind").read_text() == "images"
    rows = load_from_disk(str(folder / "arrow")).with_format(None if images else form)
    names = [name for name in rows.column_names if name != "label"]

    def epoch(number: int) -> Iterator[Rows]:
        for part in rows.shuffle(seed=number, keep_in_memory=True).iter(batch):
            yield _rows(part, names, images=images)

    return epoch


def _rows(part: dict[str, object], names: list[str], *, images: bool) -> Rows:
    import torch

    if images:
        return Rows((decode_with_pillow(part["image"]), torch.tensor(part["label"])))  # type: ignore[arg-type]
    return Rows(tuple(torch.as_tensor(np.asarray(part[name])) for name in [*names, "label"]))


def datasets_torch(folder: Path, batch: int, workers: int) -> Epoch:
    """Map-style, torch format."""
    return _hugging_face(folder, batch, "torch")


def datasets_numpy(folder: Path, batch: int, workers: int) -> Epoch:
    """Map-style, numpy format."""
    return _hugging_face(folder, batch, "numpy")


def datasets_buffer(folder: Path, batch: int, workers: int) -> Epoch:
    """Streaming form: shards in random order and a shuffle buffer; not an exact shuffle."""
    from datasets import load_from_disk

    images = (folder / "kind").read_text() == "images"
    rows = load_from_disk(str(folder / "arrow")).to_iterable_dataset(num_shards=16)
    rows = rows.with_format(None if images else "numpy")
    names = [name for name in rows.column_names if name != "label"]
    shuffled = rows.shuffle(seed=0, buffer_size=BUFFER)

    def epoch(number: int) -> Iterator[Rows]:
        shuffled.set_epoch(number)
        for part in shuffled.iter(batch):
            yield _rows(part, names, images=images)

    return epoch


# -- webdataset --------------------------------------------------------------------------------------------------------


def _sample_row(sample: dict[str, bytes]) -> tuple[bytes, int]:
    return sample["bin"], int(sample["cls"])


class Collate:
    """Bytes of samples to one tensor a field."""

    def __init__(self, folder: Path) -> None:
        self.images = (folder / "kind").read_text() == "images"
        self.widths: list[tuple[str, int]] = json.loads((folder / "widths.json").read_text())

    def __call__(self, samples: list[tuple[bytes, int]]) -> Rows:
        import torch

        label = torch.tensor([label for _, label in samples])
        if self.images:
            return Rows((decode_with_pillow([raw for raw, _ in samples]), label))
        flat = np.frombuffer(b"".join(raw for raw, _ in samples), np.uint8).reshape(len(samples), -1)
        parts, at = [], 0
        for dtype, width in self.widths:
            size = width * np.dtype(dtype).itemsize
            parts.append(torch.from_numpy(np.ascontiguousarray(flat[:, at : at + size]).view(dtype)))
            at += size
        return Rows((*parts, label))


def webdataset(folder: Path, batch: int, workers: int) -> Epoch:
    """Tar shards with one sample a row."""
    import webdataset as wds

    shards = sorted(map(str, (folder / "shards").glob("*.tar")))
    rows = wds.WebDataset(shards, shardshuffle=len(shards), nodesplitter=wds.split_by_node, seed=0, empty_check=False)
    rows = rows.shuffle(BUFFER, initial=BUFFER // 10).map(_sample_row)
    pipeline = rows.batched(batch, collation_fn=Collate(folder))
    if workers == 0:
        return lambda number: iter(pipeline)
    loader = wds.WebLoader(pipeline, batch_size=None, num_workers=workers, persistent_workers=True)
    return lambda number: iter(loader)


CONTESTANTS: dict[str, Callable[[Path, int, int], Epoch]] = {
    "stepwell": stepwell,
    "stepwell-uncached": stepwell_uncached,
    "torch": torch_loader,
    "torch-index": torch_index,
    "datasets-torch": datasets_torch,
    "datasets-numpy": datasets_numpy,
    "datasets-buffer": datasets_buffer,
    "webdataset": webdataset,
}


def measure_once(
    folder: Path, contestant: str, *, batch: int, seconds: float, limit: int = 0, cold: bool = False
) -> dict[str, float | str]:
    """Run one contestant in a process of its own and return its figures."""
    command = [sys.executable, "-m", "benchmarks.peers.dense", str(folder), contestant]
    command += ["--seconds", str(seconds), "--batch", str(batch), "--limit", str(limit), *(["--cold"] if cold else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:160]}
    found: dict[str, float | str] = json.loads(lines[-1])
    return found


if __name__ == "__main__":
    main()
