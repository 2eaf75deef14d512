"""Which columns of two tables mean the same: by their names, and by the values they hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError, MissingExtraError
from stepwell.prepare.link.block import ROW
from stepwell.prepare.link.text import Floats, bags, normalized

_SAMPLE = 20_000


@dataclass(frozen=True)
class Evidence:
    """How much names and values count, and what a match needs.

    Args:
        names: Weight of the names' likeness, in [0, 1]; the rest is the values'.
        threshold: Score from which two columns may match, in [0, 1].

    Raises:
        InvalidValueError: If one is out of range.
    """

    names: float = 0.4
    threshold: float = 0.3

    def __post_init__(self) -> None:
        for name in ("names", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidValueError(name, getattr(self, name), "in [0, 1]")


def match_schema(
    left: pa.Table,
    right: pa.Table,
    evidence: Evidence | None = None,
    backend: Literal["builtin", "valentine"] = "builtin",
) -> pa.Table:
    """Propose which column of `right` each column of `left` is.

    Names are alike by the letter groups of their words (`birthDate`, `birth_date` and `date of birth` are near).
    Values are alike by type first: numbers and times by how far their distributions overlap, texts by the letter
    groups that they use and the values that they share. Each column is matched once at most, the best score first.

    Args:
        left: A table; at most 20,000 evenly spaced rows of it are read. `_row` is left out.
        right: Another.
        evidence: What counts how much.
        backend: `"valentine"` asks that library (its COMA matcher) instead; it needs `stepwell[link]`.

    Returns:
        `_row`, `left`, `right`, `score`, `names`, `values` and `match`: every pair of columns, the best score first.

    Raises:
        InvalidValueError: If `backend` is unknown.
        MissingExtraError: If valentine is asked for and not installed.

    Cost: O(columns of left x columns of right) comparisons of samples.

    References:
        E. Rahm, P. Bernstein, "A survey of approaches to automatic schema matching", 2001; C. Koutras et al.,
        "Valentine: evaluating matching techniques for dataset discovery", 2021.
    """
    if backend not in ("builtin", "valentine"):
        raise InvalidValueError("backend", backend, "'builtin' or 'valentine'")
    evidence = evidence or Evidence()
    a, b = _sample(left), _sample(right)
    if backend == "valentine":
        names = values = score = _valentine(a, b)
    else:
        names = _names(a.schema.names, b.schema.names)
        values = np.array([[_values(a, x, b, y) for y in b.schema.names] for x in a.schema.names])
        values = values.reshape(names.shape)
        score = evidence.names * names + (1 - evidence.names) * values
    order = np.argsort(-score, axis=None, kind="stable")
    one, other = np.unravel_index(order, score.shape)
    match, taken = np.zeros(len(order), bool), (set[int](), set[int]())
    for place, (x, y) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        if score[x, y] >= evidence.threshold and x not in taken[0] and y not in taken[1]:
            match[place] = True
            taken[0].add(x)
            taken[1].add(y)
    return pa.table(
        {
            ROW: np.arange(len(order)),
            "left": np.array(a.schema.names, dtype=object)[one],
            "right": np.array(b.schema.names, dtype=object)[other],
            "score": score[one, other],
            "names": names[one, other],
            "values": values[one, other],
            "match": match,
        }
    )


def _sample(table: pa.Table) -> pa.Table:
    table = table.drop_columns([ROW]) if ROW in table.schema.names else table
    if table.num_rows <= _SAMPLE:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, _SAMPLE).astype(np.int64))


def _names(left: list[str], right: list[str]) -> Floats:
    """Return the likeness of every two names: cosine of letter groups, all groups weighing the same."""
    groups = [[_groups(name) for name in side] for side in (left, right)]
    found = np.zeros((len(left), len(right)))
    for i, a in enumerate(groups[0]):
        for j, b in enumerate(groups[1]):
            found[i, j] = len(a & b) / np.sqrt(len(a) * len(b)) if a and b else 0.0
    return found


def _groups(name: str) -> set[str]:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    padded = [f" {word} " for word in re.split(r"[\W_]+", words.lower()) if word]
    return {word[at : at + 3] for word in padded for at in range(len(word) - 2)}


def _values(left: pa.Table, x: str, right: pa.Table, y: str) -> float:
    """Return how alike the values of two columns are, in [0, 1]; 0 if their kinds differ."""
    a, b = left[x].drop_null(), right[y].drop_null()
    if not len(a) or not len(b):
        return 0.0
    kinds = {_kind(a.type), _kind(b.type)}
    if kinds == {"number"} or kinds == {"time"}:
        return _overlap(a, b)
    if "time" in kinds:
        return 0.0
    texts = [normalized(pa.table({"value": side.unique()}), ["value"]).drop_null().unique() for side in (a, b)]
    if not len(texts[0]) or not len(texts[1]):
        return 0.0
    shared = len(set(texts[0].to_pylist()) & set(texts[1].to_pylist())) / min(len(texts[0]), len(texts[1]))
    joined = [pa.array([" ".join(text.to_pylist())]) for text in texts]
    found = bags(joined[0], joined[1], "grams")
    first, second = dict(zip(found.left.ids, found.left.weights, strict=True)), found.right
    cosine = sum(first.get(term, 0.0) * weight for term, weight in zip(second.ids, second.weights, strict=True))
    return float(min(1.0, (shared + cosine) / 2))


def _overlap(a: pa.ChunkedArray, b: pa.ChunkedArray) -> float:
    """Return one minus the largest distance of the two distribution functions (Kolmogorov and Smirnov)."""
    x, y = (np.sort(_as_numbers(side)) for side in (a, b))
    points = np.concatenate([x, y])
    shares = [np.searchsorted(side, points, side="right") / len(side) for side in (x, y)]
    return float(1 - np.abs(shares[0] - shares[1]).max())


def _as_numbers(values: pa.ChunkedArray) -> Floats:
    if pa.types.is_temporal(values.type):
        values = pc.cast(values, pa.timestamp("us"), safe=False) if not pa.types.is_time(values.type) else values
        values = values.cast(pa.int64())
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy())


def _kind(type: pa.DataType) -> str:
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "number"
    if pa.types.is_date(type) or pa.types.is_timestamp(type) or pa.types.is_time(type):
        return "time"
    return "text"


def _valentine(left: pa.Table, right: pa.Table) -> Floats:
    try:
        from valentine import valentine_match  # type: ignore[import-not-found,unused-ignore]
        from valentine.algorithms import Coma  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("match_schema(backend='valentine')", "valentine", "match") from error
    found = valentine_match([left.to_pandas(), right.to_pandas()], Coma(use_instances=True))
    score = np.zeros((left.num_columns, right.num_columns))
    places = [{name: at for at, name in enumerate(side.schema.names)} for side in (left, right)]
    for pair, value in found.items():
        score[places[0][pair.source_column], places[1][pair.target_column]] = value
    return score
