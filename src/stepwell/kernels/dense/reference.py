"""The slow twins of the dense kernels: one row at a time, obviously right, the oracle of their tests."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stepwell.core.batch import Ids

_WHOLE = (1 << 64) - 1


def permute_reference(n: int, keys: npt.NDArray[np.uint64], place: int) -> int:
    """State, with Python's integers, which value stands at one place."""
    bits = max(2, (n - 1).bit_length())
    low_bits = bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << (bits - low_bits)) - 1
    x = place
    while True:
        high, low = x >> low_bits, x & low_mask
        for first, second in zip(keys[::2].tolist(), keys[1::2].tolist(), strict=True):
            high ^= _mix(low ^ first) & high_mask
            low ^= _mix(high ^ second) & low_mask
        x = (high << low_bits) | low
        if x < n:
            return x


def _mix(x: int) -> int:
    x = (x * 0x9E3779B97F4A7C15) & _WHOLE
    return x ^ (x >> 32)


def hash_tokens_reference(texts: Sequence[str], size: int, length: int) -> Ids:
    """State, one text at a time, what `hash_tokens` must give."""
    out = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        found = re.findall(rb"[a-z0-9\x80-\xff]+", text.encode().translate(_LOWER))
        for place, token in enumerate(found[:length]):
            value = 0xCBF29CE484222325
            for byte in token:
                value = ((value ^ byte) * 0x100000001B3) & _WHOLE
            out[row, place] = 1 + value % (size - 1)
    return out


_LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))


def gather_spans_reference(offset: Ids, data: npt.NDArray[np.uint8], rows: Ids) -> list[bytes]:
    """State, one row at a time, which bytes `gather_spans` must give."""
    return [data[offset[row] : offset[row + 1]].tobytes() for row in rows]


def decode_png_reference(raw: bytes, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """State, pixel by pixel, what an 8-bit grey or RGB PNG without interlacing holds."""
    at, packed = 8, b""
    while at < len(raw):
        (size,) = struct.unpack_from(">I", raw, at)
        if raw[at + 4 : at + 8] == b"IDAT":
            packed += raw[at + 8 : at + 8 + size]
        at += 12 + size
    back = shape[2] if len(shape) == 3 else 1
    width = shape[1] * back
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape[0], width + 1)
    out = np.zeros((shape[0] + 1, width + back), np.int64)
    for y, line in enumerate(lines.tolist()):
        for x, value in enumerate(line[1:]):
            left, up, corner = int(out[y + 1, x]), int(out[y, x + back]), int(out[y, x])
            near = _nearest(left, up, corner)
            out[y + 1, x + back] = (value + (0, left, up, (left + up) // 2, near)[line[0]]) & 255
    return out[1:, back:].astype(np.uint8).reshape(shape)


def _nearest(left: int, up: int, corner: int) -> int:
    """Return Paeth's predictor; ties go to the left, then to the upper pixel."""
    return min((left, up, corner), key=lambda value: abs(left + up - corner - value))


def standardise_reference(values: npt.NDArray[np.generic], mean: float, deviation: float) -> npt.NDArray[np.float32]:
    """State, for a whole column, what `standardise` must write."""
    return np.nan_to_num((values.astype(np.float64) - mean) / deviation, nan=0.0).astype(np.float32)
