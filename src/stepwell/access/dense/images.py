"""Images from encoded bytes. Decoding is the floor of an image pipeline, so nothing else may stand on top of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepwell.access.dense.stage import RowStage, without
from stepwell.core.batch import Batch
from stepwell.core.errors import DataError, InvalidValueError, MissingExtraError
from stepwell.core.plan import Cost, Machine, Statistics
from stepwell.kernels.dense import decode_png
from stepwell.storage import Ragged

Pixels = npt.NDArray[np.uint8]
_PNG = np.frombuffer(b"\x89PNG\r\n\x1a\n", np.uint8)


@dataclass(frozen=True, slots=True)
class DecodeImage(RowStage):
    """Encoded images as pixels: uint8 `[B, *shape]` in the place of the column.

    Three ways, chosen for each batch by what the bytes are: raw bytes of the right length are viewed, not copied; 8-bit
    grey or RGB PNG without interlacing is decoded by a kernel that needs neither the interpreter lock nor a library;
    anything else (JPEG, other PNG) goes through Pillow on a pool of threads. All give the same pixels.

    Args:
        column: A binary column, or a fixed-size binary one.
        shape: `(H, W)` for grey or `(H, W, 3)` for RGB.
        name: The field to give; the column's own name if None.
        threads: Threads for Pillow.

    Raises:
        InvalidValueError: If the shape has another form.
        DataError: When called, if an image cannot be read or has another size; it names the row.
        MissingExtraError: When called, if Pillow is needed and absent.

    Cost:
        Raw: none. PNG of 28 x 28 grey: about 4 us on one thread. JPEG: Pillow's.
    """

    column: str
    shape: tuple[int, ...]
    name: str | None = None
    threads: int = 2

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 1 or (len(self.shape) == 3 and self.shape[2] != 3):
            raise InvalidValueError("shape", self.shape, "(height, width) or (height, width, 3), all positive")

    @property
    def needs(self) -> frozenset[str]:
        """The encoded column."""
        return frozenset((self.column,))

    @property
    def gives(self) -> frozenset[str]:
        """The pixel field."""
        return frozenset((self.name or self.column,))

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Every image once; the rate is that of the PNG kernel, 5 ns a pixel byte and thread."""
        size = stats.num_rows * int(np.prod(self.shape))
        return Cost(rows=stats.num_rows, size_bytes=size, seconds=size * 5e-9 / machine.threads)

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with pixels in the place of the bytes."""
        return without(batch, self.needs, {self.name or self.column: self._pixels(batch)})

    def _pixels(self, batch: Batch) -> Pixels:
        value = batch[self.column]
        size = int(np.prod(self.shape))
        if not isinstance(value, Ragged):
            pixels = batch.array(self.column)
            if pixels.dtype != np.uint8 or pixels[:1].size not in (0, size):
                raise DataError(
                    f"column {self.column!r}", f"rows of {pixels.dtype} {pixels.shape[1:]}",
                    f"{size} bytes for shape {self.shape}", "pass the images' true `shape`",
                )  # fmt: skip
            return pixels.reshape(len(pixels), *self.shape)  # type: ignore[return-value]
        if len(value.data) == size * len(value) and bool((np.diff(value.offset) == size).all()):
            return value.data.reshape(len(value), *self.shape)
        out = np.empty((len(value), *self.shape), np.uint8)
        left = np.arange(len(value))
        if all_png(value):
            left = np.flatnonzero(~decode_png(value.offset, value.data, out))
        if len(left):
            self._by_pillow(value, left, out, batch)
        return out

    def _by_pillow(self, value: Ragged, rows: npt.NDArray[np.int64], out: Pixels, batch: Batch) -> None:
        read = _pillow()

        def decode(row: int) -> None:
            raw = value.data[value.offset[row] : value.offset[row + 1]]
            try:
                pixels = read(raw.tobytes(), len(self.shape) == 2)
            except (OSError, ValueError) as error:
                raise self._unreadable(row, batch, f"the image cannot be read ({error})") from error
            if pixels.shape != self.shape:
                raise self._unreadable(row, batch, f"the image has shape {pixels.shape}")
            out[row] = pixels

        if len(rows) < 8 or self.threads < 2:
            for row in rows.tolist():
                decode(row)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(decode, rows.tolist()))

    def _unreadable(self, row: int, batch: Batch, problem: str) -> DataError:
        at = row if batch.slice.rows is None else int(batch.slice.rows[row])
        at += batch.slice.begin if batch.slice.rows is None else 0
        return DataError(
            f"column {self.column!r}, row {at}", problem, f"an image of shape {self.shape}",
            "mend or drop the row, resize the images, or pass another `shape`",
        )  # fmt: skip


def all_png(value: Ragged) -> bool:
    """Say whether every row begins as a PNG file."""
    begin = value.offset[:-1]
    if not len(begin) or int(np.diff(value.offset).min()) < len(_PNG):
        return False
    return bool((value.data[begin[:, None] + np.arange(len(_PNG))] == _PNG).all())


def _pillow() -> Callable[[bytes, bool], Pixels]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Decoding these images", "Pillow", "images") from error

    def read(raw: bytes, grey: bool) -> Pixels:  # noqa: FBT001
        with Image.open(io.BytesIO(raw)) as image:
            return np.asarray(image.convert("L" if grey else "RGB"))

    return read
