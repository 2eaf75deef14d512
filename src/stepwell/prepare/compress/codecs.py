"""Codecs of number columns: what a code of few bits means, learnt from values or from a sketch of them.

A fitted codec is small and frozen, states its own error and its own bytes, and never guesses: a value that its codes
cannot hold (a missing number, one outside a dictionary) is refused or shows in the error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.registry import Registry
from stepwell.kernels.codecs import FLOAT, LEVELS, LINE, WIDTHS

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint32]
ITERATIONS = 15
_HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""What each 16-bit float means; shared, so it is nobody's codebook."""


class Error(NamedTuple):
    """How far decoded values are from the originals.

    Args:
        max_abs: Largest distance.
        rmse: Root of the mean squared distance.
        mae: Mean distance.
    """

    max_abs: float
    rmse: float
    mae: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A codec with its codebook: encodes, decodes, and knows what it costs.

    Args:
        name: The codec's name.
        bits: Bits of a code.
        kind: What a code means to the kernel: a point of a line, a level, or a float.
        low: Value of code 0 on a line.
        step: Distance of two codes on a line.
        cuts: Borders between neighbouring levels, ascending.
        levels: Decoded value of each code.
    """

    name: str
    bits: int
    kind: int = LINE
    low: float = 0.0
    step: float = 1.0
    cuts: Float32 = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    levels: Float32 = field(default_factory=lambda: np.empty(0, np.float32), repr=False)

    def encode(self, values: npt.NDArray[np.generic]) -> Codes:
        """Return the code of each value, uint32 `[N]`; values beyond the codebook get the nearest code.

        Raises:
            DataError: If a number is missing and codes cannot say so.
        """
        if self.kind == FLOAT:
            return np.asarray(values, np.float32).copy().view(np.uint32)
        if self.name == "float16":
            with np.errstate(over="ignore"):
                return np.asarray(values, np.float16).view(np.uint16).astype(np.uint32)
        found = np.asarray(values, np.float64)
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found))[0])
            raise DataError(
                f"row {row}",
                "a number is missing or infinite",
                "finite numbers",
                "fill it first, or use float16 or plain",
            )
        if self.kind == LINE:
            place = np.rint((found - self.low) / self.step)
            return np.clip(place, 0, 2**self.bits - 1).astype(np.uint32)
        return np.searchsorted(self.cuts, found.astype(np.float32), side="right").astype(np.uint32)

    def decode(self, codes: Codes) -> Float32:
        """Return the value of each code, float32 `[N]`."""
        if self.kind == FLOAT:
            return np.asarray(codes, np.uint32).view(np.float32).copy()
        if self.kind == LINE:
            return (self.low + self.step * codes.astype(np.float64)).astype(np.float32)
        return self.levels[codes]

    def error(self, values: npt.NDArray[np.generic]) -> Error:
        """Return how far `decode(encode(values))` is from the values; 0 where both are missing."""
        exact = np.asarray(values, np.float64)
        gap = np.abs(self.decode(self.encode(values)).astype(np.float64) - exact)
        gap = np.where(np.isnan(exact), 0.0, gap)
        if not gap.size:
            return Error(0.0, 0.0, 0.0)
        return Error(float(gap.max()), float(np.sqrt((gap**2).mean())), float(gap.mean()))

    @property
    def codebook_bytes(self) -> int:
        """Bytes of what the codes mean: two numbers of a line, or cuts and levels."""
        if self.kind == FLOAT or self.name == "float16":
            return 0
        return 16 if self.kind == LINE else int(self.cuts.nbytes + self.levels.nbytes)


class Codec(Protocol):
    """A way to code numbers."""

    @property
    def name(self) -> str: ...

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Learn the codebook.

        Args:
            values: Finite numbers `[N]`, all of a column or a sketch of it.
            weight: How often each counts; once if None.

        Returns:
            The fitted codec, or None if it cannot hold such values.
        """


codecs: Registry[Codec] = Registry("codec")
"""Every codec and width by name (`"uniform-8"`); codecs of others join by the entry-point group `stepwell.codec`."""


@dataclass(frozen=True, slots=True)
class Plain:
    """The 32 bits of the float."""

    name: str = "plain"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Nothing to learn."""
        return Fitted(self.name, 32, FLOAT)


@dataclass(frozen=True, slots=True)
class Float16:
    """IEEE half precision: 11 significant bits, up to 65504; keeps missing numbers."""

    name: str = "float16"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Nothing to learn; None if a value is too large."""
        return None if np.abs(values).max(initial=0) > 65504 else Fitted(self.name, 16, LEVELS, levels=_HALVES)


@dataclass(frozen=True, slots=True)
class BitPack:
    """Integers as their distance to the smallest one, in as few bits as hold it: exact."""

    name: str = "bit-pack"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """None if values are no integers, or spread over more than 16 bits."""
        numbers = np.asarray(values, np.float64)
        if not len(numbers) or (numbers != np.rint(numbers)).any():
            return None
        low, high = float(numbers.min()), float(numbers.max())
        width = next((bits for bits in WIDTHS if high - low < 2**bits), 32)
        return Fitted(self.name, width, LINE, low, 1.0) if width <= 16 else None


@dataclass(frozen=True, slots=True)
class Distinct:
    """A dictionary of the distinct values: exact for the values it was fitted on.

    Args:
        most: Distinct values at most; more are no dictionary.
    """

    most: int = 256
    name: str = "dictionary"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """None if there are too many distinct values."""
        levels = np.unique(np.asarray(values, np.float32))
        if not 0 < len(levels) <= self.most:
            return None
        width = next(bits for bits in WIDTHS if len(levels) <= 2**bits)
        return Fitted(self.name, width, LEVELS, cuts=_between(levels), levels=levels)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Equal steps from the smallest to the largest value: the smallest possible largest error.

    Args:
        bits: Bits of a code.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        _check(self.bits)

    @property
    def name(self) -> str:
        """`uniform-<bits>`."""
        return f"uniform-{self.bits}"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Learn the two ends."""
        low, high = float(np.min(values)), float(np.max(values))
        return Fitted(self.name, self.bits, LINE, low, (high - low) / (2**self.bits - 1) or 1.0)


@dataclass(frozen=True, slots=True)
class EqualRank:
    """Cuts at equal ranks, decoded as the mean of what falls between: the paper's codec, good in rank.

    Args:
        bits: Bits of a code.

    References:
        Li, Shen, Chen, "Camel", SIGMOD 2022, buffer compression.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        _check(self.bits, most=8)

    @property
    def name(self) -> str:
        """`equal-rank-<bits>`."""
        return f"equal-rank-{self.bits}"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Learn cuts and means."""
        points, mass = _sorted(values, weight)
        return _levels(self.name, self.bits, points, mass, _rank_cuts(points, mass, 2**self.bits))


@dataclass(frozen=True, slots=True)
class LloydMax:
    """Levels that make the mean squared error locally smallest: never worse than equal ranks.

    Begun twice, at equal ranks and at the spacing that is best for many levels (levels as dense as the cube root of the
    values); the better end is kept.

    Args:
        bits: Bits of a code.

    References:
        Lloyd, "Least squares quantization in PCM", 1957/1982; Max, "Quantizing for minimum distortion", 1960.
        Panter, Dite, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels", 1951.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        _check(self.bits, most=8)

    @property
    def name(self) -> str:
        """`lloyd-max-<bits>`."""
        return f"lloyd-max-{self.bits}"

    def fit(self, values: npt.NDArray[np.generic], weight: Float64 | None = None) -> Fitted | None:
        """Alternate cuts halfway between levels with levels at the means between cuts."""
        points, mass = _sorted(values, weight)
        starts = [cuts(points, mass, 2**self.bits) for cuts in (_rank_cuts, _cube_root_cuts)]
        ends = [self._settle(points, mass, cuts) for cuts in starts]
        return min(ends, key=lambda end: end[1])[0]

    def _settle(self, points: Float64, mass: Float64, cuts: Float32) -> tuple[Fitted, float]:
        found = _levels(self.name, self.bits, points, mass, cuts)
        best, error = found, _squares(found, points, mass)
        for _ in range(ITERATIONS):
            found = _levels(self.name, self.bits, points, mass, _between(found.levels))
            now = _squares(found, points, mass)
            if now >= error:
                break
            best, error = found, now
        return best, error


def _check(bits: int, most: int = 16) -> None:
    if bits not in (1, 2, 4, 8, 16) or bits > most:
        raise InvalidValueError("bits", bits, f"1, 2, 4, 8{' or 16' if most == 16 else ''}")


def _sorted(values: npt.NDArray[np.generic], weight: Float64 | None) -> tuple[Float64, Float64]:
    points = np.asarray(values, np.float64).ravel()
    mass = np.ones(len(points)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(points, kind="stable")
    return points[order], mass[order]


def _rank_cuts(points: Float64, mass: Float64, count: int) -> Float32:
    """Return cuts that leave about the same mass in each of `count` parts; equal cuts are one."""
    rank = np.cumsum(mass) / mass.sum()
    place = np.searchsorted(rank, np.arange(1, count) / count, side="left") + 1
    inside = place[place < len(points)]
    return np.unique(points[inside].astype(np.float32))


def _cube_root_cuts(points: Float64, mass: Float64, count: int) -> Float32:
    """Return cuts whose density is about the cube root of that of the values, from ends of parts of equal mass."""
    ranks = np.cumsum(mass) / mass.sum()
    parts = min(len(points), 4 * count)
    ends = points[np.minimum(np.searchsorted(ranks, np.arange(parts + 1) / parts), len(points) - 1)]
    reach = np.concatenate([[0.0], np.cumsum(np.diff(ends) ** (2 / 3))])  # mass^(1/3) gap^(2/3), the masses being equal
    if not reach[-1] > 0:
        return np.empty(0, np.float32)
    return np.unique(np.interp(np.arange(1, count) / count * reach[-1], reach, ends).astype(np.float32))


def _levels(name: str, bits: int, points: Float64, mass: Float64, cuts: Float32) -> Fitted:
    """Return the codec of some cuts, its levels the means between them; parts without points are dropped."""
    code = np.searchsorted(cuts, points.astype(np.float32), side="right")
    total = np.bincount(code, weights=mass, minlength=len(cuts) + 1)
    sums = np.bincount(code, weights=mass * points, minlength=len(cuts) + 1)
    full = total > 0
    levels = (sums[full] / total[full]).astype(np.float32)
    kept = cuts if full.all() else _between(levels)
    return Fitted(name, bits, LEVELS, cuts=kept, levels=levels)


def _between(levels: Float32) -> Float32:
    return ((levels[1:].astype(np.float64) + levels[:-1]) / 2).astype(np.float32)


def _squares(found: Fitted, points: Float64, mass: Float64) -> float:
    gap = found.levels[np.searchsorted(found.cuts, points.astype(np.float32), side="right")] - points
    return float((mass * gap**2).sum())


_ALL: tuple[Codec, ...] = (
    Plain(),
    Float16(),
    BitPack(),
    Distinct(),
    *(Uniform(bits) for bits in (2, 4, 8, 16)),
    *(EqualRank(bits) for bits in (2, 4, 8)),
    *(LloydMax(bits) for bits in (2, 4, 8)),
)
for _codec in _ALL:
    codecs.register(_codec.name)(_codec)
