"""A control group that holds all memory of one process, the page cache of the files it reads included."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of the memory controller.

    Args:
        folder: Where it is.
        peak_file: The name of the file that holds its peak.
    """

    folder: Path
    peak_file: str

    @property
    def peak_bytes(self) -> int:
        """The most memory that its processes and their cached pages took."""
        path = self.folder / self.peak_file
        return int(path.read_text()) if path.exists() else 0

    def run(self, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a command whose process joins the group before it begins."""
        join = ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *command]
        return subprocess.run(join, capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[Group]:
    """Yield a new group with a limit, and remove it.

    Raises:
        OSError: If no memory controller can be written here; it takes the rights of the root user.
    """
    old = (_ROOT / "memory" / "memory.limit_in_bytes").exists()
    folder = (_ROOT / "memory" if old else _ROOT) / f"stepwell-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        limit = folder / ("memory.limit_in_bytes" if old else "memory.max")
        limit.write_text(str(limit_bytes))
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise OSError(
            f"No memory limit can be enforced here ({error}): run as root with a memory controller."
        ) from error
    try:
        yield Group(folder, "memory.max_usage_in_bytes" if old else "memory.peak")
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # a process that was killed has not left yet
            time.sleep(0.1)
        else:
            return


def drop_cached(folder: Path) -> None:
    """Drop the pages of a folder's files from the page cache, so that nobody reads what another has paid for."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
