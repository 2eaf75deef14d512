"""Counter-based randomness: the same draw for the same (seed, purpose, epoch, row), wherever it is made.

A draw is a pure function of its coordinates (Philox4x32-10, Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011), so results do not depend on worker count, prefetch depth or resume point. The
key is (seed, purpose); the counter is (row, epoch, lane). NumPy, Numba and torch give the same bits.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import torch

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


@numba.njit(cache=True, inline="always")
def philox(key: int, row: int, lane: int) -> np.uint64:
    """Return 64 random bits for one counter; `row` and `lane` are 64-bit and unsigned in effect.

    For Numba code; `Draw.bits` is the same function over arrays.
    """
    c0 = np.uint64(row) & np.uint64(0xFFFFFFFF)
    c1 = np.uint64(row) >> np.uint64(32)
    c2 = np.uint64(lane) & np.uint64(0xFFFFFFFF)
    c3 = np.uint64(lane) >> np.uint64(32)
    k0 = np.uint64(key) & np.uint64(0xFFFFFFFF)
    k1 = np.uint64(key) >> np.uint64(32)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ k0,
            p1 & np.uint64(0xFFFFFFFF),
            (p0 >> np.uint64(32)) ^ c3 ^ k1,
            p0 & np.uint64(0xFFFFFFFF),
        )
        k0 = (k0 + np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF)
        k1 = (k1 + np.uint64(0xBB67AE85)) & np.uint64(0xFFFFFFFF)
    return (c1 << np.uint64(32)) | c0


@numba.njit(cache=True, inline="always")
def below(bits: np.uint64, bound: int) -> np.int64:
    """Map 64 random bits to `[0, bound)` by multiply and shift of the upper 32 bits (bound < 2**32)."""
    return np.int64(((bits >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@numba.njit(cache=True, nogil=True)
def _fill(key: np.uint64, rows: np.ndarray, lanes: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(rows)):
        for j in range(len(lanes)):
            out[i, j] = philox(key, rows[i], lanes[j])  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Draw:
    """A stream of draws for one (seed, purpose, epoch).

    Args:
        seed: The run's seed, any 32-bit integer.
        purpose: What the draws decide (`"negatives"`, `"shuffle"`); two purposes never share bits.
        epoch: The epoch, 0 to 2**16 - 1.

    Example:
        >>> Draw(seed=7, purpose="negatives").integers(np.array([0, 1]), 1, 1000).shape
        (2, 1)
    """

    seed: int
    purpose: str
    epoch: int = 0

    @property
    def key(self) -> int:
        """The 64-bit Philox key of (seed, purpose)."""
        return ((zlib.crc32(self.purpose.encode()) & _MASK) << 32) | (self.seed & _MASK)

    def lane(self, number: int) -> int:
        """Return the counter's upper half for draw `number` (< 2**48) of a row in this epoch."""
        return (self.epoch << 48) | number

    def bits(self, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.uint64]:
        """Return 64 random bits for each global row and each of `width` lanes: `[len(rows), width]`."""
        lanes = np.arange(width, dtype=np.uint64) + np.uint64(self.lane(0))
        out = np.empty((len(rows), width), np.uint64)
        _fill(np.uint64(self.key), np.ascontiguousarray(rows).astype(np.uint64), lanes, out)
        return out

    def integers(self, rows: npt.NDArray[np.int64], width: int, bound: int) -> npt.NDArray[np.int64]:
        """Return integers in `[0, bound)`, by multiply and shift of 32 random bits.

        Args:
            rows: Global rows, int64 `[B]`.
            width: Draws a row.
            bound: Above 0 and below 2**32; the larger, the less even, by at most `bound / 2**32`.

        Returns:
            int64 `[B, width]`.
        """
        high = self.bits(rows, width) >> np.uint64(32)
        return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)

    def uniform(self, rows: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float64]:
        """Return floats in `[0, 1)` with 53 random bits, `[len(rows), width]`."""
        return (self.bits(rows, width) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def torch_bits(self, rows: torch.Tensor, width: int) -> torch.Tensor:
        """Return the same bits as `bits`, computed on the device of `rows`, as int64 (two's complement)."""
        return _philox_torch(self.key, rows.long(), self.lane(0), width)


def _philox_torch(key: int, rows: torch.Tensor, lane: int, width: int) -> torch.Tensor:
    lanes = torch.arange(width, device=rows.device, dtype=torch.int64) + lane
    shape = (len(rows), width)
    c0 = (rows & _MASK)[:, None].expand(shape)
    c1 = ((rows >> 32) & _MASK)[:, None].expand(shape)
    c2 = (lanes & _MASK)[None].expand(shape)
    c3 = ((lanes >> 32) & _MASK)[None].expand(shape)
    k0, k1 = key & _MASK, key >> 32
    for _ in range(10):
        h0, l0 = _multiply(c0, _M0)
        h1, l1 = _multiply(c2, _M1)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return (c1 << 32) | c0


def _multiply(a: torch.Tensor, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the upper and lower 32 bits of a 32 x 32 bit product without 64-bit overflow."""
    low, high = a & 0xFFFF, a >> 16
    p = low * m
    q = high * m + (p >> 16)
    return q >> 16, ((q & 0xFFFF) << 16) | (p & 0xFFFF)
