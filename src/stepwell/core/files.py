"""Files on disk: flushed, copied with their holes, and written so that they appear whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepwell.core.errors import CheckpointError

_CHUNK = 4 << 20


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path to write to; when the block ends well, what was written there takes the place of `path`.

    Readers see the old file or the whole new one. If the block raises, the old one stays and nothing is left behind.

    Args:
        path: The file; its folder exists.
        durable: Whether to flush it to disk first, so that a power cut too leaves the one or the other.
    """
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield aside
        if durable:
            sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, holes as holes, a few megabytes at a time.

    Raises:
        CheckpointError: If it cannot be read, or there is no room.
    """
    try:
        with source.open("rb", buffering=0) as old, target.open("wb", buffering=0) as new:
            size = os.fstat(old.fileno()).st_size
            new.truncate(size)
            end = 0
            while (begin := _next_data(old.fileno(), end)) < size:
                end = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
                for at in range(begin, end, _CHUNK):
                    part = os.pread(old.fileno(), min(_CHUNK, end - at), at)
                    if os.pwrite(new.fileno(), part, at) < min(_CHUNK, end - at):
                        raise OSError(errno.EIO, "a part was left out")
    except OSError as error:
        raise CheckpointError(f"{source} could not be copied to {target}: {error}. Make room, or mend it.") from error


def _next_data(file: int, at: int) -> int:
    """Return where data begin at or after a place; the end of the file if only a hole follows."""
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(file).st_size
