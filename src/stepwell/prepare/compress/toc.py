"""Tuple-oriented compression: a mini-batch stays compressed while a linear layer trains on it.

It pays for rows that repeat runs of values: one-hot categories, sparse counts, columns coded to a few levels. Then both
the bytes and the additions of a product fall together. Dense rows of distinct numbers gain nothing; `saved` says which
it is before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.tuples import (
    Tree,
    decode_words,
    encode_words,
    grow_tree,
    node_depths,
    transposed_times,
    words_times,
)

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TupleCodes:
    """Rows of a mini-batch as words over (column, value) pairs; lossless, and multiplied without being decoded.

    Args:
        words: Words of all rows, in the narrowest integers that hold them, `[W]`.
        begin: Where each row's words begin and, last, where all end, int64 `[N + 1]`.
        column: Column of each distinct pair, int32 `[P]`.
        value: Its value, float32 `[P]`.
        width: Columns F.
        tree: The prefix tree; rebuilt from the words, not stored.

    References:
        Li et al., "Tuple-oriented compression for large-scale mini-batch stochastic gradient descent", SIGMOD 2019.

    Example:
        >>> rows = np.array([[1, 0, 2], [1, 0, 2], [0, 3, 2]], np.float32)
        >>> codes = TupleCodes.of(rows)
        >>> bool((codes.dense() == rows).all()), codes.times(np.ones((3, 1), np.float32)).ravel().tolist()
        (True, [3.0, 3.0, 5.0])
    """

    words: npt.NDArray[np.unsignedinteger]
    begin: Ids
    column: Int32
    value: Float32
    width: int
    tree: Tree = field(repr=False, compare=False)

    @classmethod
    def of(cls, rows: npt.NDArray[np.generic]) -> TupleCodes:
        """Compress a mini-batch, numbers `[N, F]`; zeros cost nothing.

        Raises:
            InvalidValueError: If a number is not finite.

        Cost:
            One sort of the values that are not zero, and a hash look-up for each.
        """
        given = np.asarray(rows, np.float32)
        if given.ndim != 2 or not np.isfinite(given).all():
            raise InvalidValueError("rows", given.shape, "a matrix of finite numbers")
        row, column = np.nonzero(given)
        value = given[row, column]
        key = (column.astype(np.uint64) << np.uint64(32)) | value.view(np.uint32)
        distinct, pair = np.unique(key, return_inverse=True)
        offset = np.searchsorted(row, np.arange(len(given) + 1)).astype(np.int64)
        words, begin = encode_words(pair.astype(np.int32), offset, len(distinct))
        narrow = next(t for t in (np.uint8, np.uint16, np.uint32) if int(words.max(initial=0)) <= np.iinfo(t).max)
        return cls(
            words.astype(narrow),
            begin,
            (distinct >> np.uint64(32)).astype(np.int32),
            distinct.astype(np.uint32).view(np.float32),
            given.shape[1],
            grow_tree(words, begin, len(distinct)),
        )

    def __len__(self) -> int:
        return len(self.begin) - 1

    @property
    def nbytes(self) -> int:
        """Bytes at rest: words, a 32-bit length a row, and the distinct pairs; the tree follows from them."""
        return int(self.words.nbytes + 4 * len(self) + self.column.nbytes + self.value.nbytes)

    @property
    def num_values(self) -> int:
        """Values that are not zero, which a sparse product would touch."""
        words, _, tree, _, _ = self._parts
        return int(node_depths(tree)[words].sum())

    @property
    def saved(self) -> float:
        """How many times fewer additions a product takes than on the values that are not zero; below 1 it loses."""
        return self.num_values / max(1, len(self.tree.parent) + len(self.words))

    def dense(self, rows: Ids | None = None) -> Float32:
        """Return rows as they were, float32 `[B, F]`.

        Args:
            rows: Which, int64 `[B]`; all in order if None.

        Raises:
            InvalidValueError: If a row is not there.
        """
        if rows is not None and len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise InvalidValueError("rows", (int(rows.min()), int(rows.max())), f"in [0, {len(self)})")
        out = np.zeros((len(self) if rows is None else len(rows), self.width), np.float32)
        decode_words(*self._parts, out, rows)
        return out

    def times(self, matrix: Float32) -> Float32:
        """Return rows times `matrix` `[F, K]`, float32 `[N, K]`."""
        return words_times(*self._parts, matrix)

    def transposed_times(self, matrix: Float32) -> Float32:
        """Return the transposed rows times `matrix` `[N, K]`, float32 `[F, K]`."""
        return transposed_times(*self._parts, matrix, self.width)

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Return `rows @ weight.T + bias` as `torch.nn.functional.linear` does, with gradients for both.

        Args:
            weight: float32 `[K, F]` on the CPU.
            bias: `[K]`, or None.

        Example:
            >>> layer = torch.nn.Linear(3, 2)
            >>> TupleCodes.of(np.eye(3)).linear(layer.weight, layer.bias).shape
            torch.Size([3, 2])
        """
        found: torch.Tensor = _Linear.apply(weight, self)  # type: ignore[no-untyped-call]
        return found if bias is None else found + bias

    @property
    def _parts(self) -> tuple[Int32, Ids, Tree, Int32, Float32]:
        """The parts as the kernels take them; a loader may have made tensors of them."""
        tree = Tree(*(np.asarray(part) for part in self.tree))
        column, value = np.asarray(self.column), np.asarray(self.value)
        return np.asarray(self.words).astype(np.int32), np.asarray(self.begin), tree, column, value


class TupleLinear(torch.nn.Linear):
    """A first layer that takes a batch as numbers or as tuple codes, with the same weights and the same answer.

    Example:
        >>> layer, rows = TupleLinear(3, 2), np.eye(3, dtype=np.float32)
        >>> bool(torch.allclose(layer(TupleCodes.of(rows)), layer(torch.from_numpy(rows))))
        True
    """

    def forward(self, input: torch.Tensor | TupleCodes) -> torch.Tensor:
        """Return `input @ weight.T + bias`."""
        return input.linear(self.weight, self.bias) if isinstance(input, TupleCodes) else super().forward(input)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: torch.Tensor, rows: TupleCodes) -> torch.Tensor:
        ctx.rows = rows  # type: ignore[attr-defined]
        return torch.from_numpy(rows.times(weight.detach().numpy().T))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        rows: TupleCodes = ctx.rows  # type: ignore[attr-defined]
        return torch.from_numpy(rows.transposed_times(gradient.contiguous().numpy()).T.copy()), None
