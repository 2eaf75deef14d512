"""Extractors that disagree are votes: each span that any of them found is an item of the label engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.extract.spans import SPANS, sorted_spans
from stepwell.prepare.label import Labels, Votes

Floats = npt.NDArray[np.float64]
NOTHING = "nothing"
"""The class of a span that is no find of any field."""


def candidates(spans: pa.Table) -> pa.Table:
    """Return the distinct places that were found: `_row` (numbered from 0), `text_row`, `begin`, `end`, `value`."""
    names = ["_row", "begin", "end", "value"]
    keys = spans.select(names).group_by(names).aggregate([]).sort_by([(name, "ascending") for name in names[:3]])
    return keys.rename_columns(["text_row", *names[1:]]).add_column(0, "_row", pa.array(np.arange(len(keys))))


def span_votes(spans: pa.Table, *, thorough: Collection[str] = ()) -> Votes:
    """Return what each extractor says of each candidate span.

    An extractor votes for the field it found there. Where it found an overlapping span instead, it votes for
    `NOTHING`. Where it found nothing, it says nothing, or `NOTHING` if it is thorough.

    Args:
        spans: Rows of `SPANS` from several extractors.
        thorough: Extractors that find all there is of their kind.

    Returns:
        Votes whose items are the rows of `candidates(spans)`.

    Raises:
        InvalidValueError: If an extractor is unknown or a field is called `NOTHING`.

    Cost: O(S + pairs of overlapping spans).
    """
    sources = sorted(set(spans.column("extractor").to_pylist()))
    fields = sorted(set(spans.column("field").to_pylist()))
    unknown = sorted(set(thorough) - set(sources))
    if unknown or NOTHING in fields:
        raise InvalidValueError(
            "thorough or a field", [*unknown, *fields], f"extractors {sources}; no field {NOTHING!r}"
        )
    items = candidates(spans)
    classes = [*fields, NOTHING]
    places = list(zip(*(items.column(name).to_pylist() for name in ("text_row", "begin", "end")), strict=True))
    number = {place: i for i, place in enumerate(places)}
    votes: dict[tuple[int, int], int] = {}
    near = _overlaps(places)
    for span in spans.select(["_row", "begin", "end", "field", "extractor"]).to_pylist():
        item, source = number[span["_row"], span["begin"], span["end"]], sources.index(span["extractor"])
        votes[item, source] = fields.index(span["field"])
        for other in near[item]:
            votes.setdefault((other, source), len(fields))
    for name in thorough:
        for item in range(len(places)):
            votes.setdefault((item, sources.index(name)), len(fields))
    found = np.array([(*key, label) for key, label in votes.items()], np.int64).reshape(-1, 3)
    rows = np.arange(len(places))
    return Votes.from_arrays(found[:, 0], found[:, 1], found[:, 2], classes=classes, sources=sources, rows=rows)


def agreed(spans: pa.Table, labels: Labels, *, least: float = 0.5) -> pa.Table:
    """Return one reading of each text: the candidates that are probably finds; of overlapping ones the most probable.

    Args:
        spans: The spans that `labels` judged.
        labels: The label engine's answer to `span_votes(spans)`.
        least: Least probability of the field; the score of the row that is returned.

    Raises:
        DataError: If the labels are not of these spans.

    Cost: O(S log S).
    """
    items = candidates(spans)
    if len(labels.rows) != len(items):
        problem = f"the labels are of {len(labels.rows)} candidates, the spans make {len(items)}"
        raise DataError("spans", problem, "labels of `span_votes(spans)`", "fit the engine to these spans")
    fields = labels.votes.classes[:-1]
    chances = labels.probabilities[:, :-1]
    best, score = chances.argmax(1), chances.max(1)
    places = list(zip(*(items.column(name).to_pylist() for name in ("text_row", "begin", "end")), strict=True))
    near = _overlaps(places)
    size = np.array([end - begin for _, begin, end in places])
    taken = np.zeros(len(places), bool)
    for i in np.lexsort((-size, -score)):
        taken[i] = score[i] >= least and not taken[near[i]].any()
    return _rows(items, taken, [fields[k] for k in best], score)


def _rows(items: pa.Table, taken: npt.NDArray[np.bool_], fields: Sequence[str], score: Floats) -> pa.Table:
    some, chosen = items.filter(pa.array(taken)), np.flatnonzero(taken)
    columns = [
        some.column("text_row"),
        pa.array([fields[i] for i in chosen.tolist()], pa.string()),
        *(some.column(name) for name in ("value", "begin", "end")),
        pa.array(score[chosen]),
        *(pa.array([text] * len(chosen), pa.string()) for text in ("votes", "")),
    ]
    return sorted_spans(pa.table(columns, schema=SPANS))


def _overlaps(places: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """Return, for each of the sorted places, the others that share a character with it."""
    near: list[list[int]] = [[] for _ in places]
    open_: list[int] = []
    for i, (row, begin, _) in enumerate(places):
        open_ = [j for j in open_ if places[j][0] == row and places[j][2] > begin]
        for j in open_:
            near[i].append(j)
            near[j].append(i)
        open_.append(i)
    return near
