"""What this machine can do, measured once in about two seconds and kept beside the other caches.

Every rate is the median of a few short runs, so that one disturbed run does not decide. A profile belongs to an
architecture, a number of threads and a device; it is measured again when asked for, or when this version knows more
rates.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import queue
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch

from stepwell.core import Draw, Machine
from stepwell.core.files import whole_file
from stepwell.core.settings import settings
from stepwell.kernels import build_tcsr, gather_rows, recent_neighbors
from stepwell.kernels.attention import Clock, Places, attend

_RUN_S = 0.12
_FILE_BYTES = 32 << 20
_PAGE = 4096
_DEPTH = 16


def machine(*, refresh: bool = False) -> Machine:
    """Return the profile of this machine, measuring it if there is none yet for this thread count and device.

    Args:
        refresh: Measure again.
    """
    path = settings().home / profile_name()
    if path.exists() and not refresh:
        profile = _read(path)
        if profile is not None:
            return profile
    profile = calibrate()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        aside.write_text(json.dumps(asdict(profile)))
    return profile


def profile_name() -> str:
    """Return the name of the file with this machine's profile."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    parts = ["machine", platform.machine(), str(torch.get_num_threads()), *re.findall(r"\w+", device)]
    return "-".join(parts) + ".json"


def _read(path: Path) -> Machine | None:
    """Return a stored profile, or None if it is torn or of a version that measured other rates."""
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(values, dict) or set(values) != {field.name for field in fields(Machine)}:
        return None
    return Machine(**values)


def calibrate() -> Machine:
    """Measure bandwidths and rates, each as the median of a few short runs.

    Cost:
        About two seconds, and a file of 32 MiB for a moment.
    """
    rows = Draw(0, "calibrate").integers(np.arange(20_000), 1, 300_000)[:, 0]
    table = np.ones((300_000, 64), np.float32)
    gather = _median(lambda: gather_rows(table, rows))
    ends = Draw(1, "calibrate").integers(np.arange(100_000), 2, 5_000)
    ticks = np.arange(len(ends))
    index = build_tcsr(ends[:, 0], ends[:, 1], ticks, 5_000)
    nodes, before = ends[-6_000:, 0], ticks[-6_000:]
    sample = _median(lambda: recent_neighbors(*index, nodes, before, before, 10))
    sequential, random, lone = _disk()
    on_device, transfer = _device()
    eager, replay = step_costs("cuda") if torch.cuda.is_available() else (0.0, 0.0)
    return Machine(
        gather_bytes_per_s=rows.size * 64 * 4 / gather,
        read_bytes_per_s=sequential,
        flops_per_s=_product(6_000),
        queries_per_s=len(nodes) / sample,
        step_overhead_s=step_costs("cpu")[0],
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        random_reads_per_s=random,
        lone_reads_per_s=lone,
        narrow_flops_per_s=_product(60),
        slots_per_s=_attention(),
        wake_up_s=_wake_up(),
        device_gather_bytes_per_s=on_device,
        transfer_bytes_per_s=transfer,
        device_step_s=eager,
        replay_s=replay,
    )


def _product(rows: int, width: int = 100) -> float:
    """Return operations a second of a matrix product with `rows` rows, as a model's layer has them."""
    a, b = torch.randn(rows, 3 * width), torch.randn(3 * width, width)
    return 2 * rows * 3 * width**2 / _median(lambda: torch.mm(a, b).relu_())


def step_costs(device: str) -> tuple[float, float]:
    """Return the seconds of a training step whose arithmetic is nothing: eager, and replayed as a CUDA graph.

    What is left of the step is autograd, the optimiser and, on a device, launches. Where there are no graphs (the CPU,
    or a driver that records none), a replay saves nothing: both are the same.

    Args:
        device: Where it runs.
    """
    step = _small_step(device)
    done = torch.cuda.synchronize if device.startswith("cuda") else _nothing

    def timed(work: Callable[[], object]) -> float:
        def whole() -> None:
            work()
            done()

        return _median(whole)

    eager = timed(step)
    replay = _recorded(step, device)
    return eager, eager if replay is None else timed(replay)


def _nothing() -> None:
    """Wait for no device."""


def _small_step(device: str) -> Callable[[], object]:
    layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(10))).to(device)
    graphs = device.startswith("cuda")
    optimizer = torch.optim.Adam(layers.parameters(), fused=True, capturable=graphs)
    rows = torch.randn(8, 8, device=device)

    def step() -> None:
        optimizer.zero_grad()
        layers(rows).sum().backward()
        optimizer.step()

    return step


def _recorded(step: Callable[[], object], device: str) -> Callable[[], object] | None:
    """Return a replay of a step, or None where none can be recorded."""
    if not device.startswith("cuda"):
        return None
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    try:
        with torch.cuda.graph(graph, stream=stream):
            step()
    except RuntimeError:
        return None
    return graph.replay


def _attention(targets: int = 600, k: int = 10, width: int = 100) -> float:
    """Return neighbours a second that the attention kernel reads, forward and back."""
    place = torch.randint(0, targets, (targets, k), generator=torch.Generator().manual_seed(0))
    places = Places(place, torch.zeros_like(place), torch.ones(targets, k, dtype=torch.bool), torch.ones(targets, k))
    h, clock = torch.randn(targets, width, requires_grad=True), Clock(torch.rand(width), torch.rand(width))
    u = torch.randn(targets, 2, 2 * width, requires_grad=True)

    def work() -> None:
        sums, total = attend(u, h, clock, torch.zeros(1, 0), places, 0.1, None)
        (sums.sum() + total.sum()).backward()  # type: ignore[no-untyped-call]

    return targets * k / _median(work)


def _wake_up() -> float:
    """Return the seconds from handing a waiting thread its work until its answer is there."""
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    answered: queue.SimpleQueue[int] = queue.SimpleQueue()

    def serve() -> None:
        while asked.get():
            answered.put(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def once() -> None:
        asked.put(1)
        answered.get()

    taken = _median(once, runs=200)
    asked.put(0)
    thread.join()
    return taken


def _disk() -> tuple[float, float, float]:
    """Return bytes a second in order, pages a second at random, sixteen at once and one by one, past the page cache.

    The file lies where the profiles lie; a folder that cannot be written gives the profile's own guesses.
    """
    guess = Machine()
    try:
        settings().home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=settings().home, prefix=".reads-") as file:
            file.write(os.urandom(1 << 20) * (_FILE_BYTES >> 20))
            file.flush()
            os.fsync(file.fileno())
            number = file.fileno()
            return _sequential(number), _at_random(number, _DEPTH), _at_random(number, 1)
    except OSError:
        return guess.read_bytes_per_s, guess.random_reads_per_s, guess.lone_reads_per_s


def _forget_pages(descriptor: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sequential(descriptor: int) -> float:
    _forget_pages(descriptor)
    begin = time.perf_counter()
    for place in range(0, _FILE_BYTES, 4 << 20):
        os.pread(descriptor, 4 << 20, place)
    return _FILE_BYTES / (time.perf_counter() - begin)


def _at_random(descriptor: int, depth: int) -> float:
    """Return pages a second with `depth` reads under way, each on a thread of its own."""
    _forget_pages(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    num_pages = _FILE_BYTES // max(_PAGE, mmap.PAGESIZE)
    pages = np.random.default_rng(0).permutation(num_pages)[: depth * 64]

    def read(part: list[int]) -> None:
        for page in part:
            os.pread(descriptor, _PAGE, page * max(_PAGE, mmap.PAGESIZE))

    with ThreadPoolExecutor(depth) as pool:
        begin = time.perf_counter()
        list(pool.map(read, [pages[i::depth].tolist() for i in range(depth)]))
        return len(pages) / (time.perf_counter() - begin)


def _device() -> tuple[float, float]:
    """Return bytes a second gathered on the device and sent to it; zeros without a device."""
    if not torch.cuda.is_available():
        return 0.0, 0.0
    table = torch.ones(300_000, 64, device="cuda")
    rows = torch.randint(0, len(table), (200_000,), device="cuda")
    pinned = torch.ones(4 << 20).pin_memory()

    def gather() -> None:
        table[rows]
        torch.cuda.synchronize()

    def send() -> None:
        pinned.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    return rows.numel() * 64 * 4 / _median(gather), pinned.nbytes / _median(send)


def _median(work: Callable[[], object], runs: int = 15) -> float:
    """Return the median seconds of a call, of `runs` calls or as many as fit into the time for one rate."""
    work()
    seconds: list[float] = []
    end = time.perf_counter() + _RUN_S
    while len(seconds) < 3 or (len(seconds) < runs and time.perf_counter() < end):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
