"""The outputs of a frozen prefix, computed once and stored: many heads train on the features of one body.

Each partition's features are one file, written atomically by the worker that needs it first, and mapped by all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from stepwell.core.errors import InvalidValueError
from stepwell.core.files import whole_file
from stepwell.select.data import ArrayData, SharedArrays, Source, shuffled


def prefix_key(prefix: torch.nn.Module) -> str:
    """Return a name that two prefixes share exactly if structure and weights are equal."""
    digest = hashlib.sha256(str(prefix).encode())
    for name, tensor in sorted(prefix.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Features:
    """Batches whose first field went through a frozen prefix.

    Args:
        source: The arrays.
        prefix: The module; it is in evaluation mode, and its outputs have one row an example.
        folder: Where features are stored.
        batch_size: Rows that go through at once.

    Raises:
        InvalidValueError: If the source is not one of arrays, which alone can be indexed by row.
    """

    source: Source
    prefix: torch.nn.Module
    folder: Path
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not isinstance(self.source, ArrayData | SharedArrays):
            raise InvalidValueError("data", type(self.source).__name__, "arrays, if a trainee has a frozen prefix")

    def train(self, partition: int, epoch: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a partition, in the order of its source."""
        rows = self._arrays.parts[partition]
        order = shuffled(self._arrays.seed, epoch, partition, len(rows))
        return self._batches(f"train-{partition}", rows, order, batch_size)

    def slice(self, number: int, batch_size: int) -> Iterator[object]:
        """Yield the batches of a validation slice."""
        rows = self._arrays.slices[number]
        return self._batches(f"slice-{number}", rows, np.arange(len(rows)), batch_size)

    @property
    def _arrays(self) -> ArrayData:
        return self.source if isinstance(self.source, ArrayData) else cast("SharedArrays", self.source)._here

    def _batches(self, name: str, rows: np.ndarray, order: np.ndarray, batch_size: int) -> Iterator[object]:
        features, arrays = self._features(name, rows), self._arrays
        for begin in range(0, len(order), batch_size):
            some = order[begin : begin + batch_size]
            picked = torch.from_numpy(rows[some])
            rest = [array[picked] for array in arrays.arrays[1:]]
            yield arrays._form([torch.from_numpy(features[some]), *rest])

    def _features(self, name: str, rows: np.ndarray) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            first = self._arrays.arrays[0]
            was = self.prefix.training
            self.prefix.eval()
            with torch.no_grad():
                starts = range(0, len(rows), self.batch_size)
                picked = (first[torch.from_numpy(rows[begin : begin + self.batch_size])] for begin in starts)
                parts = [self.prefix(some).numpy() for some in picked]
            self.prefix.train(was)
            with whole_file(path, durable=True) as aside:
                np.save(aside, np.concatenate(parts))
        found: np.ndarray = np.load(path, mmap_mode="r")
        return found
