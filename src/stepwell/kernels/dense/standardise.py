"""One column of numbers, centred and scaled, into one column of a matrix."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


def standardise(values: npt.NDArray[np.generic], mean: float, deviation: float, out: npt.NDArray[np.float32]) -> None:
    """Write `(values - mean) / deviation` to `out`, 0 where that is not a number.

    The difference is taken in float64, so large values with a small spread keep their digits.

    Args:
        values: Numbers or booleans `[B]`, any stride.
        mean: Subtracted.
        deviation: Divided by, not 0.
        out: float32 `[B]`, any stride; filled in.

    Cost:
        About a nanosecond a value; one pass, no temporary.
    """
    numbers = values.astype(np.float32) if values.dtype.kind not in "biuf" or values.dtype.itemsize == 2 else values
    _standardise(numbers, mean, 1.0 / deviation, out)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True)
def _standardise(values, mean, scale, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        value = (np.float64(values[i]) - mean) * scale
        out[i] = np.float32(value) if value == value else np.float32(0.0)
