"""How a kernel is started on an accelerator: on the device of its tensors, in Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

import torch
from triton.runtime import JITFunction

from stepwell.core.errors import InvalidValueError


class Kernel(Protocol):
    """A function under `triton.jit`."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]: ...


def start(kernel: Kernel, programs: int, where: torch.Tensor, *args: object, **constants: object) -> None:
    """Run `programs` instances of a kernel on the device of `where`.

    Args:
        kernel: The kernel.
        programs: How many; none is no launch.
        where: A tensor of the result.
        args: Its tensors and numbers.
        constants: Its compile-time constants, and Triton's options.

    Raises:
        InvalidValueError: If the tensor is on the CPU and the kernel is not interpreted.
    """
    if not where.is_cuda and isinstance(kernel, JITFunction):
        raise InvalidValueError("device", str(where.device), "'cuda', or 'cpu' with TRITON_INTERPRET=1")
    if programs:
        with torch.cuda.device(where.device) if where.is_cuda else nullcontext():
            kernel[(programs,)](*args, **constants, enable_fp_fusion=True)


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`, at least 1: the width of a tile."""
    return 1 << max(number - 1, 0).bit_length()
