"""Relations between extracted entities, and the knowledge graph that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa

from stepwell.core.errors import InvalidValueError

RELATIONS = pa.schema(
    [
        ("_row", pa.int64()),
        ("relation", pa.string()),
        ("head", pa.string()),
        ("head_field", pa.string()),
        ("head_begin", pa.int64()),
        ("tail", pa.string()),
        ("tail_field", pa.string()),
        ("tail_begin", pa.int64()),
        ("score", pa.float64()),
        ("extractor", pa.string()),
    ]
)


@dataclass(frozen=True)
class RelationPattern:
    """Two entities of one text are related if what stands between them matches.

    Args:
        relation: The relation.
        between: A regular expression that the text between the two must match as a whole, blanks at the ends aside.
        first: Field of the entity that stands first; "" for any.
        second: Field of the other; "" for any.
        backwards: Whether the entity that stands first is the tail.
        score: How sure a find is.
    """

    relation: str
    between: str
    first: str = ""
    second: str = ""
    backwards: bool = False
    score: float = 1.0

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The expression."""
        try:
            return re.compile(self.between)
        except re.error as error:
            raise InvalidValueError("between", self.between, f"a regular expression ({error})") from error


def relate(table: pa.Table, spans: pa.Table, patterns: Sequence[RelationPattern], *, text: str = "text") -> pa.Table:
    """Return the relations between entities that stand next to each other.

    Args:
        table: Rows with `_row` and the text column.
        spans: Entities that do not overlap: the agreed ones.
        patterns: What to look for; several may hold of one pair.
        text: The text column.

    Returns:
        A table of `RELATIONS`, in the order of the text.

    Cost: O(neighbouring pairs times patterns).
    """
    texts = dict(zip(table.column("_row").to_pylist(), table.column(text).to_pylist(), strict=True))
    found = []
    places = spans.sort_by([("_row", "ascending"), ("begin", "ascending")]).to_pylist()
    for a, b in pairwise(places):
        if a["_row"] != b["_row"] or a["end"] > b["begin"]:
            continue
        middle = texts[a["_row"]][a["end"] : b["begin"]].strip()
        for number, one in enumerate(patterns):
            fits = one.first in ("", a["field"]) and one.second in ("", b["field"])
            if fits and one.compiled.fullmatch(middle):
                ends = (b, a) if one.backwards else (a, b)
                sides = [side[key] for side in ends for key in ("value", "field", "begin")]
                found.append((a["_row"], one.relation, *sides, one.score, f"{one.relation} {number}"))
    columns = list(zip(*found, strict=True)) or [()] * len(RELATIONS)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, RELATIONS, strict=True)]
    return pa.table(arrays, schema=RELATIONS)


@dataclass(frozen=True)
class Graph:
    """A graph as two tables, ready for a lake.

    Args:
        nodes: `_row` (the node's id, from 0), `kind` and `name`, sorted by the last two.
        edges: `_row`, `src`, `dst` (ids of nodes), `relation`, `score`, and `text_row`, where it was found.
    """

    nodes: pa.Table
    edges: pa.Table


def graph(relations: pa.Table) -> Graph:
    """Return the knowledge graph of relations: a node for each distinct (kind, name), an edge for each find.

    Cost: O(R log R).
    """
    rows = relations.to_pylist()
    ends = [[(row[f"{side}_field"], row[side]) for row in rows] for side in ("head", "tail")]
    names = sorted({*ends[0], *ends[1]})
    number = {name: i for i, name in enumerate(names)}
    nodes = pa.table(
        {
            "_row": pa.array(np.arange(len(names))),
            "kind": pa.array([kind for kind, _ in names], pa.string()),
            "name": pa.array([name for _, name in names], pa.string()),
        }
    )
    edges = pa.table(
        {
            "_row": pa.array(np.arange(len(rows))),
            "src": pa.array([number[end] for end in ends[0]], pa.int64()),
            "dst": pa.array([number[end] for end in ends[1]], pa.int64()),
            "relation": relations.column("relation"),
            "score": relations.column("score"),
            "text_row": relations.column("_row"),
        }
    )
    return Graph(nodes, edges)
