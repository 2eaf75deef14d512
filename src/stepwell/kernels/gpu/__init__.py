"""Kernels for an accelerator, in Triton: sampling, temporal attention, rows from pinned host memory.

Each is the twin of a kernel for the CPU, and gives what that one gives. Nothing here is imported before a tensor on a
device asks for it. With `TRITON_INTERPRET=1` in the environment before the first import, all of them take tensors on
the CPU and run in Triton's interpreter: slow, but the same program, which is how they are tested without a device.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec


@cache
def has_triton() -> bool:
    """Say whether Triton is installed; it comes with the CUDA builds of torch."""
    return find_spec("triton") is not None
