"""What "the same" means in every suite: equal types, shapes and bits, at any depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

import numpy as np
import torch

from stepwell.core import Batch


def assert_same_bits(got: object, wanted: object, where: str = "value") -> None:
    """Fail unless two values are equal bit by bit: arrays, tensors, batches, dataclasses and containers of them.

    Args:
        got: What was computed.
        wanted: What it must equal; NaNs equal themselves.
        where: The value's name in the message.

    Raises:
        AssertionError: At the first difference, with its place.

    Cost:
        O(size of both).
    """
    if isinstance(got, np.ndarray) and isinstance(wanted, np.ndarray):
        _same_array(got, wanted, where)
        return
    assert type(got) is type(wanted), f"{where}: {type(got).__name__} is not {type(wanted).__name__}"
    if isinstance(got, torch.Tensor):
        _same_array(_array(got), _array(wanted), where)
        return
    mine, theirs = _parts(got), _parts(wanted)
    if mine is None or theirs is None:
        assert got == wanted or (got != got and wanted != wanted), f"{where}: {got!r} is not {wanted!r}"
        return
    assert list(mine) == list(theirs), f"{where}: has {list(mine)}, must have {list(theirs)}"
    for name, part in mine.items():
        assert_same_bits(part, theirs[name], f"{where}.{name}")


def _array(value: object) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def _same_array(got: np.ndarray, wanted: np.ndarray, where: str) -> None:
    assert got.dtype == wanted.dtype, f"{where}: dtype {got.dtype} is not {wanted.dtype}"
    assert got.shape == wanted.shape, f"{where}: shape {got.shape} is not {wanted.shape}"
    if got.tobytes() != wanted.tobytes():
        place = next(i for i in np.ndindex(got.shape) if got[i].tobytes() != wanted[i].tobytes())
        raise AssertionError(f"{where}{list(place)}: {got[place]} is not {wanted[place]}")


def _parts(value: object) -> dict[str, object] | None:
    """Return what a container holds by name, or None for a plain value."""
    if isinstance(value, Batch):
        return {"slice": value.slice, **{name: value[name] for name in sorted(value)}}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return {str(i): part for i, part in enumerate(value)}
    return None
