"""What models read from a batch: rows, ages, features, with their types."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from stepwell.core.batch import Batch, Ids, Level
from stepwell.kernels.attention import Places


def column(value: object) -> torch.Tensor:
    """Return a level's array as the tensor that it is after the pipeline (NumPy arrays are shared, not copied)."""
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def ids_of(batch: Batch, name: str) -> Ids:
    """Return a field of nodes, events or times as kernels read it: int64, contiguous, in host memory."""
    return np.ascontiguousarray(batch.array(name), dtype=np.int64)


def seconds_of(batch: Batch) -> float:
    """Return the length of the log's time unit in seconds; 1 if the batch does not say."""
    return cast("float", batch["seconds"]) if "seconds" in batch else 1.0


def places_of(level: Level, seconds: float, dt: torch.Tensor | None = None) -> Places:
    """Return where a level's neighbours stand; `dt` in the log's unit replaces query time minus event time."""
    age = column(level.hood.dt) if dt is None else dt
    return Places(
        column(level.neighbor_row), column(level.event_row), column(level.hood.mask), age.to(torch.float32) * seconds
    )


def features_of(batch: Batch, name: str, dim: int, like: torch.Tensor) -> torch.Tensor:
    """Return a feature field `[rows, dim]`, or one of no columns if the model reads none."""
    return batch.tensor(name) if dim else like.new_zeros(1, 0)
