"""The last step of a pipeline: arrays become tensors on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace

import numpy as np
import torch

from stepwell.core import Batch

Move = Callable[[torch.Tensor], torch.Tensor]


def to_tensors(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with every array of numbers, nested ones too, as a tensor on `device`.

    On the CPU nothing is copied, except read-only arrays, which torch cannot hold. For CUDA the arrays go through
    pinned memory, so that the copy overlaps with the model.
    """
    move = _cuda(device) if device.type == "cuda" else _there(device)
    return Batch(batch.slice, **{name: _convert(batch[name], move) for name in batch})


def _there(device: torch.device) -> Move:
    if device.type == "cpu":
        return lambda tensor: tensor
    return lambda tensor: tensor.to(device)


def _cuda(device: torch.device) -> Move:
    return lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory().to(device, non_blocking=True)


def _convert(value: object, move: Move) -> object:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return value
        whole = np.ascontiguousarray(value)
        return move(torch.from_numpy(whole if whole.flags.writeable else whole.copy()))
    if isinstance(value, torch.Tensor):
        return move(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_convert(item, move) for item in value)
    if isinstance(value, Mapping):
        return {name: _convert(item, move) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _convert(getattr(value, field.name), move) for field in fields(value)})
    return value
