"""What a stream learner remembers: past rows in a budget of bytes, coded, reduced class by class when room runs out.

Numbers are kept as codes of a few bits, so the same bytes hold several times the rows. When the budget is full, rows
are merged and reduced (`prepare.coreset`): every class keeps its share, each kept row stands for those that went, and
the cost of all reduces together bounds how far what is kept is from everything that was ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from stepwell.core import Draw, Ids
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.state import Json, StateReader, StateWriter
from stepwell.kernels.codecs import Layout, decode_rows, encode_rows, pack_rows
from stepwell.prepare.compress import Distinct, EqualRank, Fitted, LloydMax, Plain, Uniform, layout_of
from stepwell.prepare.coreset import merge_reduce
from stepwell.prepare.select import Coverage, Herding, RandomRows
from stepwell.prepare.select.searches import Search

Float32 = npt.NDArray[np.float32]
Keep = Literal["coreset", "herding", "random", "reservoir"]
Coding = Literal["best", "equal-rank", "none"]
ROW_BYTES = 20
"""A row's label (4), weight (4), id (8) and time of arrival (4)."""
_ENOUGH = 8
"""Rows a level that a codebook of levels must be learnt from."""
_SMALL = 1024
"""A buffer up to this many rows is full after every reduce; a larger one is left an eighth of room, so that reduces
are rare."""


@dataclass(frozen=True, slots=True)
class BufferConfig:
    """How a buffer keeps rows.

    Args:
        size_bytes: Codes, codebooks, labels, weights, ids and times together.
        keep: `"coreset"` (equal class quotas, facility location), `"herding"` and `"random"` (the same quotas),
            or `"reservoir"` (each row of the stream alike: best in expectation if the stream does not drift).
        coding: `"best"` takes, column by column, the codec with the smallest error of the given width whose codebook
            pays; `"equal-rank"` is the paper's; `"none"` keeps float32.
        bits: Bits of a code.
        seed: For what is drawn.
    """

    size_bytes: int = 1 << 20
    keep: Keep = "coreset"
    coding: Coding = "best"
    bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size_bytes < 1:
            raise InvalidValueError("size_bytes", self.size_bytes, "at least 1")
        if self.keep not in get_args(Keep):
            raise InvalidValueError("keep", self.keep, "one of " + ", ".join(get_args(Keep)))
        if self.coding not in get_args(Coding):
            raise InvalidValueError("coding", self.coding, "one of " + ", ".join(get_args(Coding)))
        if self.bits not in (2, 4, 8):
            raise InvalidValueError("bits", self.bits, "2, 4 or 8")


@dataclass
class _Rows:
    packed: npt.NDArray[np.uint8]
    y: npt.NDArray[np.generic]
    weight: Float32
    row: Ids
    time: npt.NDArray[np.int32]

    def take(self, places: Ids) -> _Rows:
        return _Rows(self.packed[places], self.y[places], self.weight[places], self.row[places], self.time[places])

    def columns(self) -> tuple[npt.NDArray[np.generic], ...]:
        return self.packed, self.y, self.weight, self.row, self.time

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class ReplayBuffer:
    """Past rows of a stream in a budget of bytes.

    Guarantee: `nbytes` never exceeds the budget; each row keeps its id; with class quotas two classes with rows to
    spare differ by one row after a reduce; the weights of a class sum to the rows of it ever absorbed; `cover_bound`
    bounds the summed distance of all rows ever absorbed to what stands for them, in decoded units.

    Args:
        config: How rows are kept.

    Cost:
        `add` codes the new rows; a reduce is `merge_reduce` of everything held, after at least an eighth of the budget
        came in (small buffers: after every `add`). `sample` decodes the rows it returns.
    """

    config: BufferConfig = field(default_factory=BufferConfig)
    cover_bound: float = 0.0
    reduces: int = 0
    num_seen: int = 0
    codebook_version: int = 0

    def __post_init__(self) -> None:
        self._fitted: tuple[Fitted, ...] = ()
        self._layout: Layout | None = None
        self._rows: _Rows | None = None
        self._shape: tuple[int, ...] = ()
        self._error: npt.NDArray[np.float64] = np.zeros(0)
        self._adds, self._learnt = 0, 0

    def __len__(self) -> int:
        return 0 if self._rows is None else len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes held: codes, codebooks and what goes with each row."""
        return self._codebook_bytes + len(self) * self._row_bytes

    @property
    def capacity(self) -> int:
        """Rows that fit; 0 before the first ones came."""
        return 0 if self._layout is None else (self.config.size_bytes - self._codebook_bytes) // self._row_bytes

    @property
    def max_abs_error(self) -> npt.NDArray[np.float64]:
        """How far a number of each column can be from what came in: the errors of all its codings, summed."""
        return self._error

    @property
    def counts(self) -> dict[int, int]:
        """Rows held of each class."""
        if self._rows is None:
            return {}
        label, count = np.unique(self._rows.y, return_counts=True)
        return {int(a): int(b) for a, b in zip(label, count, strict=True)}

    @property
    def rows(self) -> Ids:
        """Ids of the rows held."""
        return np.empty(0, np.int64) if self._rows is None else self._rows.row

    @property
    def weights(self) -> Float32:
        """What each row held stands for."""
        return np.empty(0, np.float32) if self._rows is None else self._rows.weight

    @property
    def labels(self) -> npt.NDArray[np.generic]:
        """Labels of the rows held."""
        return np.empty(0, np.int32) if self._rows is None else self._rows.y

    def add(self, x: Float32, y: npt.NDArray[np.generic], weight: Float32, row: Ids) -> None:
        """Take rows in, and reduce if they do not fit.

        Args:
            x: Numbers `[B, ...]`, finite.
            y: Their labels: classes, or targets (one class of all then).
            weight: What each stands for.
            row: Their ids.

        Raises:
            InvalidValueError: If a row has another shape than those before, or the budget holds not even 1 row.
        """
        if not len(x):
            return
        flat = np.ascontiguousarray(x.reshape(len(x), -1), np.float32)
        self._adds += 1
        before, self.num_seen = self.num_seen, self.num_seen + len(flat)
        self._settle_codes(flat, x.shape[1:])
        layout = cast("Layout", self._layout)
        label = y.astype(np.float32 if y.dtype.kind == "f" else np.int32)
        time = np.full(len(flat), self._adds, np.int32)
        new = _Rows(self._encode(flat, layout), label, weight.astype(np.float32), row.astype(np.int64), time)
        if self.config.keep == "reservoir":
            self._reservoir(new, before)
            return
        room = self.capacity
        for begin in range(0, len(new), max(1, room)):  # never more than twice the budget in hand
            part = new.take(np.arange(begin, min(len(new), begin + room)))
            both = part if self._rows is None else _joined(self._rows, part)
            self._rows = both if len(both) <= room else self._reduced(both, layout)

    def _encode(self, flat: Float32, layout: Layout) -> npt.NDArray[np.uint8]:
        packed = pack_rows(encode_rows(flat, layout), layout)
        gap = np.abs(decode_rows(packed, layout).astype(np.float64) - flat).max(0, initial=0.0)
        self._error = np.maximum(self._error, self._carried + gap)
        return packed

    def _reduced(self, both: _Rows, layout: Layout) -> _Rows:
        keep, capacity = self.config.keep, self.capacity
        target = capacity if capacity <= _SMALL else capacity - capacity // 8
        searches: dict[str, Search] = {"herding": Herding(), "random": RandomRows(), "reservoir": RandomRows()}
        search = searches.get(keep, Coverage())
        alike = both.y.dtype.kind == "f" or keep == "reservoir"
        classes = np.zeros(len(both), np.int64) if alike else both.y
        left = merge_reduce(
            decode_rows(both.packed, layout), classes.astype(np.int64), both.weight.astype(np.float64), target, search
        )
        self.cover_bound += left.cost
        self.reduces += 1
        kept = both.take(left.index)
        kept.weight = left.weight.astype(np.float32)
        return kept

    def _reservoir(self, new: _Rows, before: int) -> None:
        """Keep each of the rows seen so far with the same chance (Vitter's algorithm R)."""
        held, room = self._rows, self.capacity
        first = min(len(new), max(0, room - (0 if held is None else len(held))))
        both = new.take(np.arange(first)) if held is None else _joined(held, new.take(np.arange(first)))
        places = np.arange(first, len(new))
        bits = Draw(self.config.seed, "reservoir").uniform(before + places, 1)[:, 0]
        spot = (bits * (before + places + 1)).astype(np.int64)
        target = np.arange(len(both) + len(places))
        target = target[: len(both)]
        for place, at in zip(places[spot < room], spot[spot < room], strict=True):
            target[at] = len(both) + place - first
        self._rows = _joined(both, new.take(places)).take(target) if len(places) else both
        self._rows.weight = np.full(len(self._rows), self.num_seen / len(self._rows), np.float32)

    def forget(self, share: float, recent: int) -> int:
        """Drop a share of the rows that came before the last `recent` calls of `add`, and return how many went.

        Of each class the rows stay that stand best for its others; what went is forgotten, its weight too.

        Args:
            share: Between 0, which drops nothing, and 1, which drops all of them.
            recent: Calls whose rows stay.
        """
        held = self._rows
        old = np.empty(0, np.int64) if held is None else np.flatnonzero(held.time <= self._adds - recent)
        stay = round((1 - share) * len(old))
        if held is None or stay == len(old):
            return 0
        kept = old[:0]
        if stay:
            part = held.take(old)
            classes = np.zeros(len(part), np.int64) if part.y.dtype.kind == "f" else part.y.astype(np.int64)
            x = decode_rows(part.packed, cast("Layout", self._layout))
            kept = old[merge_reduce(x, classes, part.weight.astype(np.float64), stay).index]
        places = np.sort(np.concatenate([kept, np.setdiff1d(np.arange(len(held)), old)]))
        self._rows = held.take(places)
        return len(held) - len(places)

    def sample(self, count: int, step: int) -> tuple[Float32, npt.NDArray[np.generic], Float32, Ids]:
        """Return rows drawn without repetition, all if there are no more: `x`, labels, weights, ids.

        Args:
            count: Rows at most.
            step: Number of the draw; the same number draws the same places.
        """
        held = cast("_Rows", self._rows)
        bits = Draw(self.config.seed, "replay", 1).bits(np.arange(len(held)) + np.int64(step) * (1 << 32), 1)[:, 0]
        count = min(count, len(held))
        places = np.sort(np.argpartition(bits, count - 1)[:count])
        x = decode_rows(held.packed, cast("Layout", self._layout), places).reshape(count, *self._shape)
        return x, held.y[places], held.weight[places], held.row[places]

    @property
    def _row_bytes(self) -> int:
        return (0 if self._layout is None else self._layout.row_bytes) + ROW_BYTES

    @property
    def _codebook_bytes(self) -> int:
        return sum(fitted.codebook_bytes for fitted in self._fitted)

    def _settle_codes(self, flat: Float32, shape: tuple[int, ...]) -> None:
        """Learn codebooks from the first rows; anew when values leave their range, or when few rows had to do."""
        if self._layout is None:
            self._shape, self._error = shape, np.zeros(flat.shape[1])
            self._carried = np.zeros(flat.shape[1])
            self._learn(flat)
            return
        if shape != self._shape:
            raise InvalidValueError("x", f"rows of shape {shape}", f"{self._shape}, as before")
        held = cast("_Rows", self._rows)
        (low, high), slack = self._range, self._slack
        outside = bool(((flat < low - slack) | (flat > high + slack)).any())
        grown = self._learnt < _ENOUGH * 2**self.config.bits and len(held) + len(flat) >= 2 * self._learnt
        if self.config.coding != "none" and (outside or grown):
            old = decode_rows(held.packed, self._layout)
            self._carried = self._error.copy()
            self._learn(np.concatenate([old, flat]))
            held.packed = self._encode(old, self._layout)
            if len(held) > self.capacity:
                self._rows = self._reduced(held, self._layout)
            self.codebook_version += 1

    def _learn(self, values: Float32) -> None:
        config, columns = self.config, values.shape[1]
        room = config.size_bytes // (8 * columns)
        self._fitted = tuple(_codec(column, config, room) for column in values.T)
        self._layout = layout_of(self._fitted)
        self._range = values.min(0), values.max(0)
        self._slack = (self._range[1] - self._range[0]) / (2**config.bits - 1)
        self._learnt = len(values)
        if self.capacity < 1:
            least = self._codebook_bytes + self._row_bytes
            raise InvalidValueError("size_bytes", config.size_bytes, f"at least {least}, to hold one row and codebooks")

    def save(self, writer: StateWriter) -> None:
        """Write the coded rows, the codebooks that they are coded by, and the counters."""
        writer.value(
            "counters",
            [self.cover_bound, self.reduces, self.num_seen, self.codebook_version, self._adds, len(self), self._learnt],
        )
        writer.value("shape", cast("Json", list(self._shape)))
        writer.value("codecs", [[f.name, f.bits, f.kind, f.low, f.step] for f in self._fitted])
        for number, fitted in enumerate(self._fitted):
            if len(fitted.levels):
                writer.tensor(f"levels/{number}", fitted.levels)
                writer.tensor(f"cuts/{number}", fitted.cuts)
        if self._layout is not None:
            writer.tensor("error", np.stack([self._error, self._carried]))
            writer.tensor("range", np.stack(self._range))
        if self._rows is not None:
            for name, column in zip(_NAMES, self._rows.columns(), strict=True):
                writer.tensor(name, column)

    def load(self, reader: StateReader) -> None:
        """Go on from what `save` wrote; the buffer was built with the same settings.

        Raises:
            CheckpointError: If the state has another number of rows than it says.
        """
        counters = cast("list[float]", reader.value("counters"))
        self.cover_bound = float(counters[0])
        self.reduces, self.num_seen, self.codebook_version, self._adds = (int(count) for count in counters[1:5])
        self._learnt = int(counters[6])
        self._shape = tuple(cast("list[int]", reader.value("shape")))
        fitted = list[Fitted]()
        for number, (name, bits, kind, low, step) in enumerate(cast("list[list[float]]", reader.value("codecs"))):
            tables = list[Float32]()
            if reader.has(f"levels/{number}"):
                tables = [reader.tensor(f"{part}/{number}").numpy() for part in ("cuts", "levels")]
            fitted.append(Fitted(str(name), int(bits), int(kind), float(low), float(step), *tables))
        self._fitted = tuple(fitted)
        self._layout = layout_of(fitted) if fitted else None
        if self._layout is not None:
            self._error, self._carried = reader.tensor("error").numpy()
            low, high = reader.tensor("range").numpy()
            self._range, self._slack = (low, high), (high - low) / (2**self.config.bits - 1)
        self._rows = None
        if reader.has("y"):
            self._rows = _rows(tuple(reader.tensor(name).numpy() for name in _NAMES))
        if len(self) != int(counters[5]):
            raise CheckpointError(f"The checkpoint's buffer has {len(self)} rows, expected {int(counters[5])}.")


_NAMES = ("packed", "y", "weight", "row", "time")


def _rows(columns: tuple[npt.NDArray[Any], ...]) -> _Rows:
    return _Rows(*columns)


def _joined(a: _Rows, b: _Rows) -> _Rows:
    return _rows(tuple(np.concatenate(pair) for pair in zip(a.columns(), b.columns(), strict=True)))


def _codec(values: Float32, config: BufferConfig, room: int) -> Fitted:
    """Return the codec of a column: of one width for all, so that rows keep their size whatever the stream does."""
    if config.coding == "none":
        return cast("Fitted", Plain().fit(values))
    if config.coding == "equal-rank":
        return cast("Fitted", EqualRank(config.bits).fit(values))
    uniform = cast("Fitted", Uniform(config.bits).fit(values))
    if 2 ** (config.bits + 3) > room or len(values) < _ENOUGH * 2**config.bits:
        return uniform
    exact = Distinct(2**config.bits).fit(values)
    if exact is not None and exact.bits == config.bits:
        return exact
    lloyd = cast("Fitted", LloydMax(config.bits).fit(values))
    return min((uniform, lloyd), key=lambda fitted: fitted.error(values).rmse)
