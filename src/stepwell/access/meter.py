"""What each stage of a pipeline took: rows, bytes, seconds and calls, counted from any thread."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch

from stepwell.core import Batch, Cost
from stepwell.storage import Codes, Ragged


class Meter:
    """Counters by the name of a plan node; one epoch at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs: dict[str, Cost] = {}

    def clear(self) -> None:
        """Start a new epoch."""
        with self._lock:
            self._costs = {}

    def add(self, name: str, before: Batch | None, after: Batch, seconds: float, calls: int = 1) -> None:
        """Count one call that stands for `calls` batches: the fields that `after` has anew, and their time."""
        rows, size_bytes = 0, 0
        for field in after:
            value = after[field]
            if before is None or field not in before or before[field] is not value:
                length, size = measure(value)
                rows, size_bytes = max(rows, length), size_bytes + size
        self.note(name, Cost(rows=rows or len(after), size_bytes=size_bytes, seconds=seconds, calls=calls))

    def note(self, name: str, cost: Cost) -> None:
        """Count a cost as it is."""
        with self._lock:
            self._costs[name] = self._costs.get(name, Cost()) + cost

    def costs(self) -> dict[str, Cost]:
        """Return the counters so far."""
        with self._lock:
            return dict(self._costs)


def measure(value: object) -> tuple[int, int]:
    """Return (rows, bytes) of the arrays inside a field: the longest first dimension, and the sum of bytes."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return (len(value) if value.ndim else 0), value.nbytes
    parts: list[object] = []
    if isinstance(value, tuple):
        parts = list(value)
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name) for field in fields(value)]
    rows, size_bytes = 0, 0
    for part in parts:
        length, size = measure(part)
        rows, size_bytes = max(rows, length), size_bytes + size
    return (len(value) if isinstance(value, Codes | Ragged) else rows), size_bytes
