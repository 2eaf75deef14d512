"""Cosine, sine, sigmoid and hyperbolic tangent that vectorise inside a Numba loop.

Numba calls the C library once a number; torch's vectorised functions want whole arrays in memory. These are short
polynomials without branches. Absolute error below 7e-7; angles are reduced in double precision, so an argument of
1e7 is as exact as its own rounding to float32.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_TURN = 2 * math.pi
_PER_TURN = 1 / _TURN
_ONE, _TWO = np.float32(1), np.float32(2)
_S3, _S5, _S7, _S9, _S11 = (np.float32((-1) ** i / math.factorial(2 * i + 1)) for i in range(1, 6))
_C2, _C4, _C6, _C8, _C10, _C12 = (np.float32((-1) ** i / math.factorial(2 * i)) for i in range(1, 7))
_E2, _E3, _E4, _E5, _E6, _E7, _E8 = (1 / math.factorial(i) for i in range(2, 9))


@njit(inline="always")
def _half_angle(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return half of the angle, reduced to `[-pi / 2, pi / 2]`."""
    wide = np.float64(x)
    return np.float32(0.5 * (wide - np.floor(wide * _PER_TURN + 0.5) * _TURN))


@njit(inline="always")
def _half_sine(y):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    q = y * y
    return y + y * q * (_S3 + q * (_S5 + q * (_S7 + q * (_S9 + q * _S11))))


@njit(inline="always")
def cosine(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return `cos(x)` of a float32."""
    s = _half_sine(_half_angle(x))
    return _ONE - _TWO * s * s


@njit(inline="always")
def sine(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return `sin(x)` of a float32."""
    y = _half_angle(x)
    q = y * y
    c = _ONE + q * (_C2 + q * (_C4 + q * (_C6 + q * (_C8 + q * (_C10 + q * _C12)))))
    return _TWO * _half_sine(y) * c


@njit(inline="always")
def _exponential(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return `exp(x)` of a float32, which is kept in `[-80, 80]`: a power series at `x / 256`, squared eight times."""
    r = np.float64(min(max(x, np.float32(-80.0)), np.float32(80.0))) * (1 / 256)
    p = 1 + r * (1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * (_E6 + r * (_E7 + r * _E8)))))))
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return np.float32(p)


@njit(inline="always")
def sigmoid(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return `1 / (1 + exp(-x))` of a float32."""
    return _ONE / (_ONE + _exponential(-x))


@njit(inline="always")
def tangent(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return `tanh(x)` of a float32."""
    return _ONE - _TWO / (_ONE + _exponential(_TWO * x))
