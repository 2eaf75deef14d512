"""Rows as words over pairs (column, value), compressed like text, and products that work on the words.

Rows that share runs of equal values share nodes of one prefix tree; a row is a few nodes. A product with a matrix then
costs one addition a node and one a word, however many values they stand for.

Symbols beside the usual ones: `N` rows, `F` columns, `P` distinct pairs, `T` nodes of the tree, `W` words of all rows,
`K` columns of the matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from stepwell.core import Ids

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
CACHE_BYTES = 1 << 20
"""Room for sums of nodes that stays in a core's own cache."""


class Tree(NamedTuple):
    """A prefix tree over pairs; nodes stand after their parents.

    Args:
        parent: Parent of each node, -1 for those of one pair, int32 `[T]`.
        pair: The pair that each adds, int32 `[T]`; node i < P adds pair i.
    """

    parent: Int32
    pair: Int32


def encode_words(pair: Int32, offset: Ids, num_pairs: int) -> tuple[Int32, Ids]:
    """Write each row's pairs as few words, each the longest that earlier rows have built.

    Args:
        pair: Pairs of all rows, end to end, int32; within a row no pair twice.
        offset: Where each row's pairs begin and, last, where all end, int64 `[N + 1]`.
        num_pairs: P.

    Returns:
        Words, int32 `[W]`; where each row's words begin, int64 `[N + 1]`.

    Cost:
        A hash look-up a pair; about 24 bytes a pair while it runs.

    References:
        Welch, "A technique for high-performance data compression", 1984; Li et al., "Tuple-oriented compression for
        large-scale mini-batch stochastic gradient descent" (TOC), SIGMOD 2019.
    """
    words, begin = np.empty(len(pair), np.int32), np.zeros(len(offset), np.int64)
    slots = 1 << max(4, int(2 * len(pair) + 1).bit_length())
    count = _encode(pair, offset, num_pairs, np.full(slots, -1, np.int64), np.empty(slots, np.int32), words, begin)
    return words[:count].copy(), begin


def grow_tree(words: Int32, begin: Ids, num_pairs: int) -> Tree:
    """Rebuild the tree from the words alone, as the encoder built it.

    Cost:
        A few operations a word.
    """
    size = num_pairs + int(np.maximum(np.diff(begin) - 1, 0).sum())
    parent, pair = np.full(size, -1, np.int32), np.empty(size, np.int32)
    _grow(words, begin, num_pairs, parent, pair, np.empty(size, np.int32))
    return Tree(parent, pair)


def decode_words(
    words: Int32, begin: Ids, tree: Tree, column: Int32, value: Float32, out: Float32, rows: Ids | None = None
) -> None:
    """Write the values of rows into `out`, float32 `[B, F]` of zeros: the inverse of the encoding.

    Args:
        words: Words of all rows.
        begin: Where each row's words begin and, last, where all end.
        tree: The prefix tree.
        column: Column of each pair.
        value: Value of each pair.
        out: Filled in, row by row.
        rows: Which rows, int64 `[B]`, all in range; all in order if None.
    """
    taken = np.arange(len(begin) - 1) if rows is None else np.ascontiguousarray(rows, np.int64)
    _decode(words, begin, taken, *tree, column, value, out)


def node_depths(tree: Tree) -> Int32:
    """Return how many pairs each node stands for, int32 `[T]`."""
    return np.asarray(_depths(tree.parent), np.int32)


def words_times(words: Int32, begin: Ids, tree: Tree, column: Int32, value: Float32, matrix: Float32) -> Float32:
    """Return the rows times a matrix `[F, K]`, float32 `[N, K]`, without decoding a row.

    Cost:
        `(T + W) K` additions; sums of all nodes for a block of columns are held at a time.
    """
    out = np.zeros((len(begin) - 1, matrix.shape[1]), np.float32)
    _times(words, begin, *tree, column, value, np.ascontiguousarray(matrix, np.float32), _held(tree, matrix), out)
    return out


def transposed_times(
    words: Int32, begin: Ids, tree: Tree, column: Int32, value: Float32, matrix: Float32, width: int
) -> Float32:
    """Return the transposed rows times a matrix `[N, K]`, float32 `[F, K]`: the gradient of a linear layer.

    Cost:
        `(T + W) K` additions; sums of all nodes for a block of columns are held at a time.
    """
    out = np.zeros((width, matrix.shape[1]), np.float32)
    _transposed(words, begin, *tree, column, value, np.ascontiguousarray(matrix, np.float32), _held(tree, matrix), out)
    return out


def _held(tree: Tree, matrix: Float32) -> Float32:
    """Return room for the sums of all nodes, for as many columns at a time as a near cache has place for."""
    block = max(16, CACHE_BYTES // (4 * max(1, len(tree.parent))) // 16 * 16)
    return np.empty((len(tree.parent), min(block, max(1, matrix.shape[1]))), np.float32)


# Below this line stands Numba code.
# ruff: noqa: ANN001, ANN202


@numba.njit(cache=True, nogil=True, inline="always")
def _slot(node, pair, keys):  # type: ignore[no-untyped-def]
    """Return where the child of a node by a pair stands, or the free place where it would."""
    key = (np.int64(node) << 32) | np.int64(pair)
    mask = len(keys) - 1
    spot = np.int64((np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    while keys[spot] != -1 and keys[spot] != key:
        spot = (spot + 1) & mask
    return spot, key


@numba.njit(cache=True, nogil=True)
def _encode(pair, offset, num_pairs, keys, nodes, words, begin):  # type: ignore[no-untyped-def]
    count, size = 0, num_pairs
    for row in range(len(offset) - 1):
        at, end = offset[row], offset[row + 1]
        while at < end:
            node = pair[at]
            at += 1
            while at < end:
                spot, key = _slot(node, pair[at], keys)
                if keys[spot] == -1:
                    keys[spot], nodes[spot] = key, size
                    size += 1
                    break
                node = nodes[spot]
                at += 1
            words[count] = node
            count += 1
        begin[row + 1] = count
    return count


@numba.njit(cache=True, nogil=True)
def _grow(words, begin, num_pairs, parent, pair, first):  # type: ignore[no-untyped-def]
    for node in range(num_pairs):
        pair[node], first[node] = node, node
    size = num_pairs
    for row in range(len(begin) - 1):
        for at in range(begin[row], begin[row + 1] - 1):
            node = words[at]
            parent[size], pair[size], first[size] = node, first[words[at + 1]], first[node]
            size += 1


@numba.njit(cache=True, nogil=True)
def _decode(words, begin, rows, parent, pair, column, value, out):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        for at in range(begin[rows[i]], begin[rows[i] + 1]):
            node = words[at]
            while node >= 0:
                out[i, column[pair[node]]] = value[pair[node]]
                node = parent[node]


@numba.njit(cache=True, nogil=True)
def _depths(parent):  # type: ignore[no-untyped-def]
    depth = np.ones(len(parent), np.int32)
    for node in range(len(parent)):
        if parent[node] >= 0:
            depth[node] = depth[parent[node]] + 1
    return depth


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _put(out, factor, row):  # type: ignore[no-untyped-def]
    for k in range(len(out)):
        out[k] = factor * row[k]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _put_sum(out, before, factor, row):  # type: ignore[no-untyped-def]
    for k in range(len(out)):
        out[k] = before[k] + factor * row[k]


@numba.njit(cache=True, nogil=True)
def _add(out, row):  # type: ignore[no-untyped-def]
    for k in range(len(out)):
        out[k] += row[k]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_times(out, factor, row):  # type: ignore[no-untyped-def]
    for k in range(len(out)):
        out[k] += factor * row[k]


@numba.njit(cache=True, nogil=True)
def _times(words, begin, parent, pair, column, value, matrix, held, out):  # type: ignore[no-untyped-def]
    block = held.shape[1]
    for left in range(0, matrix.shape[1], block):
        right = min(matrix.shape[1], left + block)
        for node in range(len(parent)):
            row, factor = matrix[column[pair[node]], left:right], value[pair[node]]
            if parent[node] < 0:
                _put(held[node, : right - left], factor, row)
            else:
                _put_sum(held[node, : right - left], held[parent[node], : right - left], factor, row)
        for row in range(len(begin) - 1):
            target = out[row, left:right]
            for at in range(begin[row], begin[row + 1]):
                _add(target, held[words[at], : right - left])


@numba.njit(cache=True, nogil=True)
def _transposed(words, begin, parent, pair, column, value, matrix, held, out):  # type: ignore[no-untyped-def]
    block = held.shape[1]
    for left in range(0, matrix.shape[1], block):
        right = min(matrix.shape[1], left + block)
        held[:] = 0
        for row in range(len(begin) - 1):
            source = matrix[row, left:right]
            for at in range(begin[row], begin[row + 1]):
                _add(held[words[at], : right - left], source)
        for node in range(len(parent) - 1, -1, -1):
            own = held[node, : right - left]
            _add_times(out[column[pair[node]], left:right], value[pair[node]], own)
            if parent[node] >= 0:
                _add(held[parent[node], : right - left], own)
