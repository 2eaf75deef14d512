"""Units of time: whole ticks of a declared unit, never a float.

A unit is a name ("s"), or a pair (source, stored) such as ("s", "ms") when the source's numbers count seconds with
fractions and the log shall count milliseconds. A time that is not a whole number of stored units is an error.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import cast

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import InvalidValueError, UnknownNameError

NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 604800 * 10**9,
}
"""Every unit in nanoseconds."""


class LostTimeError(InvalidValueError):
    """A time is not a whole number of the stored unit.

    Args:
        row: The first such row.
        value: Its time, in the source's unit.
        unit: The (source, stored) units.
        finer: A stored unit that loses nothing, or None.
    """

    def __init__(self, row: int, value: object, unit: tuple[str, str], finer: str | None) -> None:
        way = f'pass unit=("{unit[0]}", "{finer}")' if finer else "round the times first"
        super().__init__("time", value, f"a whole number of {unit[1]} (row {row} is not; {way} to keep it exact)")
        self.row, self.value, self.unit, self.finer = row, value, unit, finer


def parse_unit(unit: str | tuple[str, str]) -> tuple[str, str]:
    """Return (source, stored) units, or raise `UnknownNameError`."""
    pair = (unit, unit) if isinstance(unit, str) else tuple(unit)
    for name in pair:
        if name not in NANOSECONDS:
            raise UnknownNameError("time unit", name, NANOSECONDS)
    if len(pair) != 2:
        raise InvalidValueError("unit", unit, "a name or a pair (source, stored)")
    return pair[0], pair[1]


def seconds_of(unit: str | tuple[str, str]) -> float:
    """Return the length of the stored unit in seconds."""
    return NANOSECONDS[parse_unit(unit)[1]] / 10**9


def to_ticks(time: npt.NDArray[np.generic], unit: str | tuple[str, str], first_row: int = 0) -> npt.NDArray[np.int64]:
    """Return times as whole ticks of the stored unit, int64.

    Args:
        time: Integers, floats (in the source's unit) or datetimes.
        unit: See the module.
        first_row: The row number of `time[0]`, for messages.

    Raises:
        LostTimeError: If a time is not a whole number of ticks.
        InvalidValueError: If a time is missing, infinite, not a number, or beyond int64.

    Cost:
        O(E); integers in the stored unit are not copied.
    """
    source, stored = parse_unit(unit)
    if time.ndim != 1:
        raise InvalidValueError("time", list(time.shape), "a flat array")
    if time.dtype.kind == "M":
        step = np.datetime_data(cast("np.dtype[np.datetime64]", time.dtype))[0]
        step = step if step in NANOSECONDS else "s"
        time = time.astype(f"datetime64[{step}]")
        if np.isnat(time).any():
            raise InvalidValueError("time", None, f"present (row {first_row + int(np.isnat(time).argmax())})")
        source, time = step, time.astype(np.int64)
    if time.dtype.kind not in "iuf" and time.size:
        raise InvalidValueError("time", str(time.dtype), "numbers or datetimes")
    if time.dtype.kind == "f":
        bad = ~np.isfinite(time.astype(np.float64))
        if bad.any():
            row = int(bad.argmax())
            raise InvalidValueError("time", float(time[row]), f"a finite number (row {first_row + row})")
    return _scale(time, source, stored, first_row)


def _scale(time: npt.NDArray[np.generic], source: str, stored: str, first_row: int) -> npt.NDArray[np.int64]:
    ratio = Fraction(NANOSECONDS[source], NANOSECONDS[stored])
    if time.dtype.kind != "f":
        _check_range(time, ratio, first_row)
        whole = time.astype(np.int64, copy=False)
        if ratio == 1:
            return whole
        lost = whole % ratio.denominator != 0 if ratio.denominator > 1 else np.zeros(len(whole), dtype=bool)
        _check_lost(lost, time, (source, stored), first_row)
        return whole // ratio.denominator * ratio.numerator
    numbers = time.astype(np.float64)
    _check_range(numbers, ratio, first_row)
    whole = _round(numbers, ratio)
    _check_lost(~_same(whole, numbers, ratio), time, (source, stored), first_row)
    return whole


def _round(numbers: npt.NDArray[np.float64], ratio: Fraction) -> npt.NDArray[np.int64]:
    """Scale the whole and the fractional part apart, so a large time keeps its last digits."""
    whole = np.floor(numbers)
    if ratio.denominator > 1:
        return np.rint(numbers / float(1 / ratio)).astype(np.int64)
    return whole.astype(np.int64) * ratio.numerator + np.rint((numbers - whole) * ratio.numerator).astype(np.int64)


def _same(whole: npt.NDArray[np.int64], numbers: npt.NDArray[np.float64], ratio: Fraction) -> npt.NDArray[np.bool_]:
    """Say where the ticks, scaled back, are the very float that came in: its shortest decimal fits the unit."""
    quotient, rest = np.divmod(whole, ratio.numerator)
    back = (quotient + rest / ratio.numerator) * ratio.denominator
    return np.asarray(np.abs(back - numbers) <= np.spacing(np.abs(numbers)))


def _check_range(time: npt.NDArray[np.generic], ratio: Fraction, first_row: int) -> None:
    limit = (2**63 - 1) // max(1, ratio.numerator)
    if time.size and max(abs(int(time.min())), abs(int(time.max()))) > limit:
        row = int(np.abs(time.astype(np.float64)).argmax())
        raise InvalidValueError("time", time[row], f"within 64-bit ticks of the stored unit (row {first_row + row})")


def _check_lost(
    lost: npt.NDArray[np.bool_], time: npt.NDArray[np.generic], unit: tuple[str, str], first_row: int
) -> None:
    if not lost.any():
        return
    row = int(lost.argmax())
    finer = None
    for name in reversed(list(NANOSECONDS)):
        if NANOSECONDS[name] >= NANOSECONDS[unit[1]]:
            continue
        try:
            _scale(time, unit[0], name, 0)
        except InvalidValueError:
            continue
        finer = name
        break
    raise LostTimeError(first_row + row, time[row].item(), unit, finer)


_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def to_bytes(size: str | int, name: str = "budget") -> int:
    """Return a size such as "1GiB", "500 MB" or a number of bytes as bytes.

    Raises:
        InvalidValueError: If it is not positive or no size.
    """
    found = _BYTES.fullmatch(size) if isinstance(size, str) else None
    if found is not None:
        step = 1024 if found[3] else 1000
        size = int(float(found[1]) * step ** " kmgt".index(found[2].lower() or " "))
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise InvalidValueError(name, size, 'a positive size such as "1GiB" or a number of bytes')
    return size
