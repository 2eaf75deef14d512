"""The step that reads values out of texts: a column a field, and every find with its place as a note."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.extract import Extractor, extract
from stepwell.prepare.step import INPUT, NOTHING, ROW, Fitted, Keyed, Rows, Sees, Stream


@dataclass(frozen=True)
class Extract:
    """Add a text column for each field: the value of the surest find, the first in the text of equals, or null.

    All finds are kept in the note `spans` (value, begin, end, score, extractor), and those whose value does not stand
    at their place in the note `wrong_spans`.

    Args:
        extractors: What looks for values.
        fields: The fields that become columns.
        text: The column of texts.
    """

    extractors: tuple[Extractor, ...]
    fields: tuple[str, ...]
    text: str = "text"
    sees: Sees = field(default="row", init=False)
    fits: bool = field(default=False, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("extract",), init=False)

    def __post_init__(self) -> None:
        if not self.extractors or not self.fields:
            raise InvalidValueError("extractors and fields", (self.extractors, self.fields), "at least one of each")

    @property
    def name(self) -> str:
        """The fields."""
        return f"extract {', '.join(self.fields)}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Run the extractors on the texts."""
        table = tables[INPUT]
        found = extract(table, self.extractors, text=self.text)
        order = [(ROW, "ascending"), ("score", "descending"), ("begin", "ascending"), ("extractor", "ascending")]
        spans = found.spans.sort_by(order)
        for name in self.fields:
            mine = spans.filter(pc.equal(spans.column("field"), name))
            place = pc.index_in(table.column(ROW), mine.column(ROW))
            values = mine.column("value").take(place)
            table = table.drop_columns([name]) if name in table.schema.names else table
            table = table.append_column(name, values)
        return Rows(table, notes={"spans": found.spans, "wrong_spans": found.quarantine})
