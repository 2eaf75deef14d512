"""Spans: what was found in a text, and where; nothing is believed that does not stand there.

An extractor gives rows of `SPANS`. `extract` runs several over a table of texts and holds each row to one rule: the
value is the text from `begin` to `end`, in characters. A row that breaks it goes into quarantine with a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError

SPANS = pa.schema(
    [
        ("_row", pa.int64()),
        ("field", pa.string()),
        ("value", pa.string()),
        ("begin", pa.int64()),
        ("end", pa.int64()),
        ("score", pa.float64()),
        ("extractor", pa.string()),
        ("version", pa.string()),
    ]
)


class Found(NamedTuple):
    """One find in one text: the field, the value, `[begin, end)` in characters, and how sure the extractor is."""

    field: str
    value: str
    begin: int
    end: int
    score: float = 1.0


class Extractor(Protocol):
    """Finds fields in texts; the same text gives the same finds."""

    @property
    def name(self) -> str:
        """Which extractor it is; one name stands for one source of votes."""

    @property
    def version(self) -> str:
        """Changes whenever its finds may change."""

    def find(self, texts: Sequence[str]) -> Iterable[Sequence[Found]]:
        """Return the finds of each text, in order."""


@dataclass(frozen=True)
class Extracted:
    """What extractors found.

    Args:
        spans: Rows of `SPANS`, sorted by row, begin, end, field and extractor.
        quarantine: Finds whose value does not stand in their span: `_row`, `reason`, and the columns of `SPANS`.
    """

    spans: pa.Table
    quarantine: pa.Table


def extract(table: pa.Table, extractors: Sequence[Extractor], *, text: str = "text", block: int = 1024) -> Extracted:
    """Run extractors over a table's texts.

    Args:
        table: Rows with `_row` and a text column; a missing text has no finds.
        extractors: Of distinct names.
        text: The text column.
        block: Texts an extractor gets at once.

    Raises:
        InvalidValueError: If two extractors have one name.
        DataError: If an extractor answers for another number of texts.

    Cost: each extractor reads each text once; memory for the texts of a block and for what was found.

    Example:
        >>> from stepwell.prepare.extract import Regex
        >>> table = pa.table({"_row": [7], "text": ["call 555-1234"]})
        >>> extract(table, [Regex("phone", "[0-9]{3}-[0-9]{4}")]).spans.select(["_row", "value", "begin"]).to_pylist()
        [{'_row': 7, 'value': '555-1234', 'begin': 5}]
    """
    names = [extractor.name for extractor in extractors]
    if len(set(names)) < len(names):
        raise InvalidValueError("extractors", names, "of distinct names")
    texts = table.column(text).cast(pa.string())
    present = texts.is_valid()
    texts, rows = texts.filter(present), table.column("_row").filter(present)
    good: list[tuple[object, ...]] = []
    bad: list[tuple[object, ...]] = []
    for begin in range(0, len(texts), block):
        some, ids = texts.slice(begin, block).to_pylist(), rows.slice(begin, block).to_pylist()
        for extractor in extractors:
            answers = list(extractor.find(some))
            if len(answers) != len(some):
                problem = f"answered for {len(answers)} of {len(some)} texts"
                raise DataError(
                    f"extractor {extractor.name}", problem, "one list a text", "return an empty list for none"
                )
            for row, string, finds in zip(ids, some, answers, strict=True):
                for found in finds:
                    record = (*found, extractor.name, extractor.version)
                    problem = problem_of(found, string)
                    (bad if problem else good).append((row, problem, *record) if problem else (row, *record))
    wrong = SPANS.insert(1, pa.field("reason", pa.string()))
    return Extracted(sorted_spans(_table(good, SPANS)), _table(bad, wrong))


def problem_of(found: Found, text: str) -> str:
    """Return why a find cannot be believed, or ""."""
    if not 0 <= found.begin < found.end <= len(text):
        return f"span [{found.begin}, {found.end}) outside the text of {len(text)} characters"
    if text[found.begin : found.end] != found.value:
        return "value does not stand in its span"
    return "" if 0 <= found.score <= 1 else f"score {found.score:g} outside [0, 1]"


def sorted_spans(spans: pa.Table) -> pa.Table:
    """Return spans in the order of their places."""
    return spans.sort_by([(name, "ascending") for name in ("_row", "begin", "end", "field", "extractor")])


def located(value: str, text: str, begin: int = 0) -> tuple[int, int] | None:
    """Return where a value stands, from `begin` on, for answers that give values without a place; or None."""
    at = text.find(value, begin) if value else -1
    return (at, at + len(value)) if at >= 0 else None


def wide(spans: pa.Table, table: pa.Table) -> pa.Table:
    """Return the table with a column for each field: the best-scored value of each row, the first of equals.

    Cost: a sort of the spans.
    """
    keys = [("_row", "ascending"), ("field", "ascending"), ("score", "descending"), ("begin", "ascending")]
    order = spans.sort_by(keys)
    rows = table.column("_row").to_pylist()
    for field in sorted(set(spans.column("field").to_pylist())):
        some = order.filter(pc.equal(order.column("field"), field))
        best: dict[int, str] = {}
        for row, value in zip(some.column("_row").to_pylist(), some.column("value").to_pylist(), strict=True):
            best.setdefault(row, value)
        table = table.append_column(field, pa.array([best.get(row) for row in rows], pa.string()))
    return table


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema)
