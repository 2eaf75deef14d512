"""Link rows that mean the same thing: block, compare, learn the model, choose the matches, name the entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.link.block import ROW, Block, candidates, places, predict
from stepwell.prepare.link.cluster import chosen, components
from stepwell.prepare.link.compare import Comparison, compare_all
from stepwell.prepare.link.model import ENOUGH, Fit, Settings, Unique, fit
from stepwell.prepare.link.text import Floats


class Model(Protocol):
    """A fitted model of linkage."""

    def table(self) -> pa.Table:
        """Return what each level of each comparison is worth."""


@dataclass(frozen=True)
class Links:
    """What linkage found.

    Args:
        pairs: Every compared pair, sorted: `_row` (0, 1, ...), `left` and `right` (their `_row`), `match`,
            `probability`, `weight` (log odds by the comparisons and the prior), and a similarity per comparison.
        entities: `_row`, `side` (`"left"` or `"right"`), `row` (its `_row`), `entity` (a number from 0): every row.
        blocks: What each blocking rule was predicted to make, beside what all made together.
        model: The fitted model; `model.table()` shows it.
        threshold: Probability from which a pair is a match.
        why: Where the threshold comes from.
    """

    pairs: pa.Table
    entities: pa.Table
    blocks: pa.Table
    model: Model
    threshold: float
    why: str

    @property
    def matches(self) -> pa.Table:
        """The pairs that are matches."""
        return self.pairs.filter(self.pairs["match"])


def link(
    left: pa.Table,
    right: pa.Table | None = None,
    *,
    compare: Sequence[Comparison],
    block: Sequence[Block],
    settings: Settings | None = None,
    labels: pa.Table | None = None,
    threshold: float | None = None,
    max_pairs: int = 20_000_000,
) -> Links:
    """Find the rows of two tables, or of one, that mean the same thing.

    Deterministic. Rows that match nobody are entities of one row, so every row is in `entities` exactly once.

    Args:
        left: A table with `_row`.
        right: The other table, or None to find duplicates within `left`.
        compare: What is compared; columns carry one name in both tables.
        block: Which pairs are compared: those that any rule proposes.
        settings: How the model is fitted; `Settings(unique="both")` where no table has duplicates in itself.
        labels: Known pairs, if any: `left`, `right` (their `_row`) and `match` (0 or 1). Pairs that no rule proposes
            are compared too.
        threshold: Probability from which a pair is a match. None: the one with the best F1 on the labels, each half
            judged by a model that saw the other; with fewer than 20 labelled matches, the one with the best F1 that
            the probabilities themselves expect.
        max_pairs: Refuse blocks that predict more pairs, before any is made.

    Raises:
        DataError: If `_row` is missing or repeated, a label names no row, or blocks predict too many pairs.
        InvalidValueError: If an argument is out of range.

    Cost: blocks and comparisons as they say; the model O(rounds x pairs x comparisons); memory about 8 bytes x pairs
    x (4 comparisons + 10). With labels and no threshold the model is fitted three times.

    References:
        I. Fellegi, A. Sunter, "A theory for record linkage", 1969; see `fit` for the rest.
    """
    settings = settings or Settings()
    if right is None and settings.unique != "neither":
        raise InvalidValueError("settings.unique", settings.unique, "'neither' within one table")
    ids = [row_ids(table, side) for table, side in ((left, "left"), (right, "right")) if table is not None]
    blocks = predict(left, right, block)
    rows = candidates(left, right, block, max_pairs)
    known = None
    if labels is not None:
        rows, known = _with_labels(rows, labels, left, right)
    similarity, rarity = compare_all(left, left if right is None else right, rows, compare)
    names = [one.name for one in compare]
    found = fit(similarity, rarity, rows, names, settings, known)
    why = "given"
    if threshold is None and known is not None and (known == 1).sum() >= ENOUGH:
        threshold, why = _from_labels(similarity, rarity, rows, names, settings, known)
    elif threshold is None:
        threshold, why = expected_best(found.probability), "best F1 expected by the model"
    matches = chosen(rows, found.probability, threshold, _unique(settings.unique, rows, known))
    pairs = _pairs(rows, ids, found, matches, names, similarity)
    blocks = blocks.append_column("compared", pa.array([len(rows[0])] * len(blocks), pa.int64()))
    entities = entities_of(rows, matches, ids)
    return Links(pairs, entities, blocks, found.model, float(threshold), why)


def _unique(unique: Unique, rows: tuple[Ids, Ids], labels: npt.NDArray[np.int8] | None) -> Unique:
    """Return of which side matches stay unique: not of one where a label has given a row two partners."""
    sides = []
    for side, name in enumerate(("left", "right")):
        known = np.empty(0, np.int64) if labels is None else rows[side][labels == 1]
        if unique in ("both", name) and len(np.unique(known)) == len(known):
            sides.append(name)
    return "both" if len(sides) == 2 else "left" if sides == ["left"] else "right" if sides else "neither"


def expected_best(probability: Floats) -> float:
    """Return the threshold whose matches have the largest F1, if each pair is a match with its probability.

    References:
        Z. Lipton, C. Elkan, B. Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014.
    """
    ordered = np.sort(probability)[::-1]
    if not len(ordered) or ordered[0] <= 0:
        return 0.5
    f1 = 2 * np.cumsum(ordered) / (np.arange(1, len(ordered) + 1) + ordered.sum())
    best = int(np.argmax(f1))
    return float(ordered[best])


def _from_labels(
    similarity: Floats,
    rarity: Floats,
    rows: tuple[Ids, Ids],
    names: Sequence[str],
    settings: Settings,
    labels: npt.NDArray[np.int8],
) -> tuple[float, str]:
    """Hide each half of the labels in turn; return the middle of the thresholds with the best F1 on what was hidden."""
    places = np.flatnonzero(labels >= 0)
    half = np.zeros(len(labels), bool)
    half[places[np.argsort(labels[places], kind="stable")][::2]] = True
    unseen = np.zeros(len(labels))
    for hidden in (half, ~half):
        probability = fit(similarity, rarity, rows, names, settings, np.where(hidden, -1, labels)).probability
        unseen[hidden] = probability[hidden]
    score, truth = unseen[places], labels[places] == 1
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + truth.sum())
    f1 = np.where(np.append(score[order][1:] < score[order][:-1], True), f1, -1)  # equal scores stand or fall together
    best = int(np.argmax(f1))
    below = score[order][best + 1] if best + 1 < len(order) else 0.0
    return float((score[order][best] + below) / 2), f"best F1 on {len(places)} labels by models that had not seen them"


def _with_labels(
    rows: tuple[Ids, Ids], labels: pa.Table, left: pa.Table, right: pa.Table | None
) -> tuple[tuple[Ids, Ids], npt.NDArray[np.int8]]:
    """Return the pairs with those of the labels, and the label of each, -1 for most."""
    other = left if right is None else right
    first, second = places(labels["left"], left, "left"), places(labels["right"], other, "right")
    if right is None:
        first, second = np.minimum(first, second), np.maximum(first, second)
    match = labels["match"].cast(pa.int8()).to_numpy()
    if len(match) and not np.isin(match, (0, 1)).all():
        raise DataError("labels", "`match` holds other values", "0 and 1", "leave out pairs nobody has decided")
    keys, wanted = rows[0] * other.num_rows + rows[1], first * other.num_rows + second
    every = np.union1d(keys, wanted)
    known = np.full(len(every), -1, np.int8)
    known[np.searchsorted(every, wanted)] = match
    return np.divmod(every, max(1, other.num_rows)), known


def row_ids(table: pa.Table, side: str) -> Ids:
    """Return the ids of a table's rows.

    Raises:
        DataError: If there are none, or one is repeated.
    """
    if ROW not in table.schema.names:
        raise DataError(f"the {side} table", "has no `_row`", "an int64 column `_row`", "add one that numbers the rows")
    ids = np.asarray(table[ROW].to_numpy(), np.int64)
    if len(np.unique(ids)) < len(ids):
        raise DataError(f"the {side} table", "repeats a `_row`", "each row id once", "number the rows anew")
    return ids


def _pairs(
    rows: tuple[Ids, Ids], ids: Sequence[Ids], found: Fit, matches: Ids, names: Sequence[str], similarity: Floats
) -> pa.Table:
    match = np.zeros(len(rows[0]), bool)
    match[matches] = True
    columns = {
        ROW: np.arange(len(match)),
        "left": ids[0][rows[0]],
        "right": ids[-1][rows[1]],
        "match": match,
        "probability": found.probability,
        "weight": found.weight,
    }
    similar = {name: pa.array(similarity[:, c], from_pandas=True) for c, name in enumerate(names)}
    return pa.table({**columns, **similar})


def entities_of(rows: tuple[Ids, Ids], matches: Ids, ids: Sequence[Ids]) -> pa.Table:
    """Return `Links.entities`: every row with the connected component that it is in."""
    shift = len(ids[0]) if len(ids) == 2 else 0
    every = np.concatenate(ids)
    root = components(rows[0][matches], rows[1][matches] + shift, len(every))
    _, entity = np.unique(root, return_inverse=True)
    sides = np.repeat([name for name, _ in zip(("left", "right"), ids, strict=False)], [len(one) for one in ids])
    return pa.table({ROW: np.arange(len(every)), "side": sides, "row": every, "entity": entity.astype(np.int64)})
