"""Rows of a table in pinned host memory, read by the device itself: no gather on the host, no copy in between.

A pinned page is mapped into the device's address space, so a kernel reads just the rows it wants, each one once, at
the rate of the bus. That pays where rows are wide (a read over the bus moves 32 bytes at least) and asked for once.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.gpu.grid import power_of_two, start

_WIDEST = 256  # words of a row that a program reads at once
_TILE = 1024
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def gather_pinned(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return `table[rows]` on the device of `rows`, with zeros where a row lies outside the table.

    The twin of `kernels.gather_rows`, which raises where a row is below -1 or above the last; here nothing waits for
    the device, so nobody looks.

    Args:
        table: Any dtype of whole bytes, `[N, ...]`, contiguous, in pinned host memory (`tensor.pin_memory()`) or on
            the device.
        rows: int64 `[S]`, contiguous, on the device; repeats are fine.

    Raises:
        InvalidValueError: If the table is strided, or neither pinned nor on the device.

    Cost:
        One launch; S rows over the bus; allocates only the result.
    """
    if not table.is_contiguous():
        raise InvalidValueError("table", tuple(table.stride()), "contiguous")
    if rows.is_cuda and not (table.is_cuda or table.is_pinned()):
        raise InvalidValueError("table", str(table.device), "in pinned host memory, see tensor.pin_memory()")
    out = torch.empty(len(rows), *table.shape[1:], dtype=table.dtype, device=rows.device)
    size = math.prod(table.shape[1:]) * table.element_size()
    if out.numel():
        word = next(width for width in _WORDS if size % width == 0)
        source, target = (t.view(-1).view(_WORDS[word]) for t in (table, out))
        tile = min(power_of_two(size // word), _WIDEST)
        many = _TILE // tile
        numbers = (len(rows), len(table), size // word)
        start(_gather, triton.cdiv(len(rows), many), out, source, rows, target, *numbers, ROWS=many, TILE=tile)
    return out


# Below this line stands Triton code, typed by Triton.
# ruff: noqa: ANN001, ANN202


@triton.jit
def _gather(source, rows, target, num_asked, num_rows, width, ROWS: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    asked = i < num_asked
    row = tl.load(rows + i, mask=asked, other=-1)
    found = asked & (row >= 0) & (row < num_rows)
    first = 0
    while first < width:
        column = first + tl.arange(0, TILE)
        inside = (column < width)[None, :]
        word = tl.load(source + row[:, None] * width + column[None, :], mask=found[:, None] & inside, other=0)
        tl.store(target + i[:, None] * width + column[None, :], word, mask=asked[:, None] & inside)
        first += TILE
