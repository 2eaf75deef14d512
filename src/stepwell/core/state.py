"""Saved state: tensors as safetensors, large files as they are, the rest as JSON, in one folder written atomically.

Never pickle.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from stepwell.core.errors import CheckpointError
from stepwell.core.files import copy_file, sync

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


class StateWriter:
    """Collects named tensors, files and JSON values, nested by `child`; `write_state` makes them a folder."""

    def __init__(self, prefix: str = "", root: StateWriter | None = None, folder: Path | None = None) -> None:
        self._prefix = prefix
        self._root = root or self
        if root is None:
            self.tensors: dict[str, torch.Tensor] = {}
            self.values: dict[str, Json] = {}
            self._folder = folder

    def tensor(self, name: str, value: torch.Tensor | np.ndarray) -> None:
        """Record a tensor or array under `name` (copied now, so later changes do not show)."""
        tensor = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
        self._root.tensors[self._prefix + name] = tensor.detach().cpu().contiguous().clone()

    def value(self, name: str, value: Json) -> None:
        """Record a JSON value under `name`."""
        self._root.values[self._prefix + name] = value

    def file(self, name: str, path: Path) -> None:
        """Record a file under `name`: copied now, past the memory of the process; holes stay holes."""
        copy_file(path, self._root._place() / _file_name(self._prefix + name))

    def _place(self) -> Path:
        """Return where files go: the folder that is written, or one that lives as long as the writer."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="stepwell-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def child(self, name: str) -> StateWriter:
        """Return a writer whose names stand below `name`."""
        return StateWriter(f"{self._prefix}{name}/", self._root)

    def reader(self) -> StateReader:
        """Return what was recorded, without writing it."""
        return StateReader(self._root.tensors, self._root.values, folder=self._root._folder, owner=self._root)


class StateReader:
    """Gives back what a `StateWriter` recorded."""

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        values: dict[str, Json],
        prefix: str = "",
        folder: Path | None = None,
        owner: object = None,
    ) -> None:
        self._tensors, self._values, self._prefix = tensors, values, prefix
        self._folder, self._owner = folder, owner

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor recorded under `name`."""
        try:
            return self._tensors[self._prefix + name]
        except KeyError:
            raise CheckpointError(
                f"The checkpoint has no tensor {self._prefix + name!r}; was it made by another model?"
            ) from None

    def value(self, name: str) -> Json:
        """Return the JSON value recorded under `name`."""
        try:
            return self._values[self._prefix + name]
        except KeyError:
            raise CheckpointError(
                f"The checkpoint has no value {self._prefix + name!r}; was it made by another version?"
            ) from None

    def file(self, name: str) -> Path:
        """Return the file recorded under `name`; it must not be changed."""
        path = None if self._folder is None else self._folder / _file_name(self._prefix + name)
        if path is None or not path.is_file():
            raise CheckpointError(f"The checkpoint has no file {self._prefix + name!r}; was it made by another model?")
        return path

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors below this reader, by their names from here."""
        cut = len(self._prefix)
        return {name[cut:]: value for name, value in self._tensors.items() if name.startswith(self._prefix)}

    def has(self, name: str) -> bool:
        """Say whether a tensor or value of that name, or anything below it, was recorded."""
        full = self._prefix + name
        names = [*self._tensors, *self._values]
        return any(known == full or known.startswith(full + "/") for known in names)

    def child(self, name: str) -> StateReader:
        """Return a reader of the names below `name`."""
        return StateReader(self._tensors, self._values, f"{self._prefix}{name}/", self._folder, self._owner)


def write_state(folder: Path, record: Callable[[StateWriter], None]) -> None:
    """Write a state folder so that readers see the old one or the whole new one, never a part.

    The new folder is written aside and fsynced, then swapped in by rename; a crash between the two renames of a
    replacement leaves the previous state as `<folder>.old`, which `read_state` finds.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    aside.mkdir()
    try:
        writer = StateWriter(folder=aside)
        record(writer)
        save_file(writer.tensors, aside / "tensors.safetensors")
        (aside / "values.json").write_text(json.dumps(writer.values))
        for path in (*aside.iterdir(), aside):
            sync(path)
        _swap(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _swap(aside: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(aside, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def read_state(folder: Path) -> StateReader:
    """Read a state folder written by `write_state`.

    Raises:
        CheckpointError: If there is none, or it is not whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not folder.exists():
        folder = folder.with_name(folder.name + ".old")
    try:
        tensors = load_file(folder / "tensors.safetensors")
        values = json.loads((folder / "values.json").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"No checkpoint at {folder}: {error}. Train first, or pass another folder.") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"The checkpoint at {folder} is torn: {error}. Use an older one.") from error
    return StateReader(tensors, values, folder=folder)


def state_exists(folder: Path) -> bool:
    """Say whether `read_state` would find a state there."""
    return folder.exists() or folder.with_name(folder.name + ".old").exists()


def _file_name(name: str) -> str:
    return "file." + name.replace("/", ".")
