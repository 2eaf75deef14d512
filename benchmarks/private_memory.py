"""What a process keeps for itself: its private memory over time, and a limit that the kernel enforces."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def status(name: str) -> int:
    """Return an entry of the process's status, such as `RssAnon` or `VmData`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


class Peak:
    """Watches private resident memory on a thread, every 10 ms; `bytes` is its peak above that at the start."""

    def __enter__(self) -> Peak:
        self._base, self.bytes, self._done = status("RssAnon"), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, status("RssAnon") - self._base)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@contextmanager
def limited(num_bytes: int | None) -> Iterator[Peak]:
    """Let the block allocate that many bytes more and no more, whether it uses them or not; None is no limit."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if num_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + num_bytes, before[1]))
    try:
        with Peak() as peak:
            yield peak
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
