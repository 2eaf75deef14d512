"""Derived arrays: memory-mapped `.npy` files under a checksummed manifest, which can be deleted at any time.

A folder is written aside, flushed and renamed, so it exists whole or not at all; space is reserved before a page is
mapped, so a full disk is an error and never a crash. Opening checks shapes and sizes; `verify=True` also hashes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import DataError
from stepwell.core.files import sync
from stepwell.core.log import logger
from stepwell.core.settings import settings
from stepwell.core.state import Json

FORMAT = 1
"""Version of the folder's layout."""
MANIFEST = "manifest.json"
_LOCK = "lock"

Arrays: TypeAlias = "dict[str, npt.NDArray[np.generic]]"

T = TypeVar("T", bound=np.generic)

log = logger(__name__)


class ArrayWriter:
    """Creates memory-mapped arrays in a folder that is not yet visible to anybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, name: str, shape: tuple[int, ...], dtype: type[T] | np.dtype[T]) -> npt.NDArray[T]:
        """Return a zeroed array `<name>.npy`; raises `OSError` if the disk has no room for it."""
        path = self.folder / f"{name}.npy"
        array: npt.NDArray[T] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        with path.open("rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        return array

    def save(self, name: str, values: npt.NDArray[np.generic]) -> None:
        """Write an array that is in memory already."""
        self.create(name, values.shape, values.dtype)[...] = values


def index_root(lake: str) -> Path:
    """Return where what is derived from a lake belongs: inside it, or under the home folder for a remote one.

    Args:
        lake: The lake's folder or address.
    """
    local = lake.removeprefix("file://")
    if "://" not in local:
        return Path(local) / "_index"
    return settings().home / "index" / hashlib.sha256(lake.rstrip("/").encode()).hexdigest()[:16]


def folder_of(root: Path, kind: str, parameters: Mapping[str, Json]) -> Path:
    """Return where arrays of a kind belong: `<root>/<kind>-<hash of the parameters>`."""
    text = json.dumps([FORMAT, dict(parameters)], sort_keys=True)
    return root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def open_or_build(folder: Path, build: Callable[[ArrayWriter], None]) -> Arrays:
    """Open a folder of arrays; build it first if it is not there or not whole."""
    if (folder / MANIFEST).exists():
        try:
            return open_arrays(folder)
        except DataError as error:
            log.warning("%s; it is built again", error)
            shutil.rmtree(folder, ignore_errors=True)
    write_arrays(folder, build)
    return open_arrays(folder)


def write_arrays(folder: Path, build: Callable[[ArrayWriter], None]) -> None:
    """Let `build` create arrays and make them visible as `folder` in one step.

    If another process finished the same folder first, that one stays.

    Cost: what `build` does, one read of every file for its checksum, one flush.
    """
    with scratch_folder(folder.parent, f".{folder.name}.") as aside:
        _fill_and_rename(aside, folder, build)


def _fill_and_rename(aside: Path, folder: Path, build: Callable[[ArrayWriter], None]) -> None:
    try:
        build(ArrayWriter(aside))
        paths = sorted(aside.glob("*.npy"))
        with ThreadPoolExecutor(2) as pool:
            files: dict[str, Json] = dict(zip([path.name for path in paths], pool.map(_describe, paths), strict=True))
        (aside / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
        put_in_place(aside, folder, MANIFEST)
    except OSError as error:
        raise_if_full(str(folder), error)
        raise


def put_in_place(aside: Path, folder: Path, last: str) -> None:
    """Flush what is in a scratch folder and make it `folder`, whole; if another process was first, leave that one.

    Args:
        aside: From `scratch_folder`, beside `folder`.
        folder: Where it belongs.
        last: A file that a whole folder has.
    """
    for path in (*aside.iterdir(), aside):
        sync(path)
    (aside / _LOCK).unlink()
    try:
        aside.replace(folder)
    except OSError:
        if not (folder / last).exists():
            raise
    sync(folder.parent)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Give a fresh folder that goes when the block ends, and sweep away what killed processes left behind.

    A folder in use holds a lock that the kernel drops with its process, so a dead one is told from a living one.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.glob(f"{prefix}*"):
        _sweep(other)
    folder, lock = _claimed(parent, prefix)
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _claimed(parent: Path, prefix: str) -> tuple[Path, TextIO]:
    """Make a folder and hold its lock; try again if it was swept away between the two."""
    while True:
        folder = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        with suppress(FileNotFoundError):
            lock = (folder / _LOCK).open("w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / _LOCK).exists():
                return folder, lock
            lock.close()


def _sweep(folder: Path) -> None:
    """Remove a folder whose lock nobody holds, or that has none: its maker died before it had one, or while tidying.

    A maker's first file is its lock, so a folder that holds others and no lock is nobody's.
    """
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except FileNotFoundError:
        try:
            folder.rmdir()
        except OSError:
            if not (folder / _LOCK).exists():
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return


def raise_if_full(where: str, error: OSError) -> None:
    """Raise `DiskFullError` if that is what an error of the system means."""
    from stepwell.storage.delta import DiskFullError

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and not isinstance(error, DiskFullError):
        raise DiskFullError(where, error) from error


def _describe(path: Path) -> dict[str, Json]:
    array = np.load(path, mmap_mode="r")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": _digest(path)}


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def open_arrays(folder: Path, *, verify: bool = False) -> Arrays:
    """Map the arrays of a folder, read-only.

    Args:
        folder: The folder.
        verify: Whether to compare checksums; reads every byte.

    Raises:
        DataError: If the manifest or a file is missing, short, of another type, or (with `verify`) changed.
    """
    way = "delete the folder; it is built again from the tables"
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(str(folder), f"has no readable manifest ({error})", "a whole index", way) from error
    arrays: Arrays = {}
    for name, expected in files.items():
        path = folder / name
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DataError(str(path), f"cannot be mapped ({error})", "a whole .npy file", way) from error
        if [array.dtype.str, list(array.shape)] != [expected["dtype"], expected["shape"]]:
            raise DataError(
                str(path), f"is {array.dtype.str} {list(array.shape)}", f"{expected['dtype']} {expected['shape']}", way
            )
        if verify and _digest(path) != expected["sha256"]:
            raise DataError(str(path), "does not match its checksum", "the bytes that were written", way)
        arrays[path.stem] = array
    return arrays
