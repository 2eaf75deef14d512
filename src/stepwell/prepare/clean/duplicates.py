"""Rows that are there more than once: exactly, nearly (MinHash over texts), or close by their vectors.

Each function returns pairs `_row`, `other`, `similarity` with `_row < other`, sorted; `groups` makes groups of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.draws import Draw
from stepwell.core.errors import InvalidValueError
from stepwell.kernels.minhash import signatures
from stepwell.storage.query import connect, quoted

Floats = npt.NDArray[np.floating]
PAIRS = pa.schema([("_row", pa.int64()), ("other", pa.int64()), ("similarity", pa.float64())])


def exact_duplicates(table: pa.Table, columns: Sequence[str], *, budget: str = "1GiB") -> pa.Table:
    """Return each row that equals an earlier one in some columns, paired with the first such row; nulls are equal.

    Cost: one group-by of DuckDB within `budget`.
    """
    if not columns:
        raise InvalidValueError("columns", list(columns), "at least one column")
    key = ", ".join(map(quoted, columns))
    connection = connect(budget)
    try:
        connection.register("data", table)
        query = (
            f"select first as _row, _row as other, 1.0::double as similarity from "
            f"(select _row, min(_row) over (partition by {key}) as first from data) where first < _row order by 1, 2"
        )
        return connection.sql(query).to_arrow_table().cast(PAIRS)
    finally:
        connection.close()


def near_duplicates(
    texts: Sequence[str], rows: Ids, *, similarity: float = 0.8, letters: int = 5, hashes: int = 128, seed: int = 0
) -> pa.Table:
    """Return pairs of texts whose sets of letter runs have at least a Jaccard similarity.

    MinHash signatures cut into bands find the candidates, and the exact similarity of their sets decides, so every
    pair returned is one; a pair just at the threshold is missed with a chance of about 5 % at the default settings,
    which falls quickly above it.

    Args:
        texts: The texts; case and repeated blanks do not count.
        rows: Their ids.
        similarity: Least Jaccard similarity of the sets.
        letters: Length of a run.
        hashes: Length of a signature.
        seed: Of the hash functions.

    Cost:
        O(letters of all texts times `hashes`), and an exact comparison for each candidate pair.

    References:
        Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.
    """
    if not 0 < similarity <= 1:
        raise InvalidValueError("similarity", similarity, "above 0 and at most 1")
    sets = [_runs(" ".join(text.casefold().split()), letters) for text in texts]
    indptr = np.concatenate([[0], np.cumsum([len(some) for some in sets])]).astype(np.int64)
    elements = np.concatenate([np.empty(0, np.uint64), *sets])
    seeds = Draw(seed, "minhash").bits(np.arange(hashes), 1)[:, 0]
    signed = signatures(elements, indptr, seeds)
    width = _band_width(similarity, hashes)
    found = set()
    for begin in range(0, hashes - width + 1, width):
        found |= _same_band(signed[:, begin : begin + width])
    out = []
    for i, j in found:
        both = len(np.intersect1d(sets[i], sets[j], assume_unique=True))
        share = both / max(1, len(sets[i]) + len(sets[j]) - both)
        if share >= similarity:
            low, high = sorted((int(rows[i]), int(rows[j])))
            out.append((low, high, share))
    return _pairs(out)


def vector_duplicates(vectors: Floats, rows: Ids, *, similarity: float = 0.95, block: int = 1024) -> pa.Table:
    """Return pairs of vectors whose cosine similarity is at least `similarity`.

    Cost: O(N^2 F) by blocks of matrix products; `block * N` numbers at once.
    """
    if not 0 < similarity <= 1:
        raise InvalidValueError("similarity", similarity, "above 0 and at most 1")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors, np.float32), where=norms > 0).astype(np.float32)
    out = []
    for begin in range(0, len(unit), block):
        close = unit[begin : begin + block] @ unit[begin:].T
        for i, j in zip(*np.nonzero(close >= similarity - 1e-6), strict=True):
            if i < j:
                low, high = sorted((int(rows[begin + i]), int(rows[begin + j])))
                out.append((low, high, float(min(1.0, close[i, j]))))
    return _pairs(out)


def groups(pairs: pa.Table, rows: Ids) -> Ids:
    """Return a group for each row: the least id among the rows that pairs connect it with. Cost: O(N + pairs)."""
    parent = {int(row): int(row) for row in rows}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in zip(pairs.column("_row").to_pylist(), pairs.column("other").to_pylist(), strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(int(row)) for row in rows], np.int64)


def _runs(text: str, letters: int) -> npt.NDArray[np.uint64]:
    pieces = {text[i : i + letters] for i in range(max(1, len(text) - letters + 1))} if text else set()
    return np.array(sorted({zlib.crc32(piece.encode()) for piece in pieces}), np.uint64)


def _band_width(similarity: float, hashes: int) -> int:
    """Return the widest band that still finds 95 % of pairs at the threshold."""
    fits = [r for r in range(1, hashes + 1) if (1 - similarity**r) ** (hashes // r) <= 0.05]
    return max(fits, default=1)


def _same_band(band: npt.NDArray[np.uint64]) -> set[tuple[int, int]]:
    """Return pairs of neighbours in the groups of equal rows, and of each with its group's first."""
    _, inverse = np.unique(band, axis=0, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    found: set[tuple[int, int]] = set()
    members: list[int] = []
    for place, i in enumerate(order.tolist()):
        if place and inverse[i] != inverse[order[place - 1]]:
            members = []
        found |= {(j, i) for j in members}
        members.append(i)
    return found


def _pairs(found: list[tuple[int, int, float]]) -> pa.Table:
    columns = list(zip(*sorted(found), strict=True)) or [(), (), ()]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, PAIRS, strict=True)], schema=PAIRS)
