"""A desk for one person: the row to label next, answered by one key, saved at once; the page and its live server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.core.state import Json
from stepwell.prepare.label.ask import ask
from stepwell.prepare.label.engine import LabelModel
from stepwell.prepare.label.journal import Answer, Journal
from stepwell.prepare.label.labels import Labels
from stepwell.prepare.label.votes import Votes
from stepwell.view import Fact, Field, Form, Page, Preformatted, Section, Server, Table, Text

KEYS = "123456789abcdefghijklmnopqrtvwxyz"  # s and u are taken: skip and undo
_AGAIN = 20  # answers after which the order of the questions is made anew


@dataclass
class Desk:
    """Rows to label, one at a time, the least certain first.

    Answers are votes of the person: what other sources voted, and what the engine makes of both, decides what is asked
    next. Closing the page or killing the process loses nothing: the journal is where work goes on.

    Args:
        rows: The table, with an `int64` column `_row`.
        show: Columns that a person sees.
        classes: Names of the classes; the first is answered by the key 1, the second by 2, and so on.
        journal: Where answers are kept.
        person: Who answers; the name of the source of the votes.
        others: Votes of other sources.
        model: Settings of the engine.

    Raises:
        UnknownNameError: If a column is absent.
        InvalidValueError: If there are fewer than two classes or more than keys.
        DataError: If a row has no id of its own, or the journal or other votes know a class that is none.
    """

    rows: pa.Table
    show: Sequence[str]
    classes: Sequence[str]
    journal: Journal
    person: str = "me"
    others: Votes | None = None
    model: LabelModel = field(default_factory=LabelModel)
    _order: list[int] = field(default_factory=list, init=False, repr=False)
    _fresh: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("_row", *self.show):
            if name not in self.rows.column_names:
                raise UnknownNameError("column", name, self.rows.column_names)
        if not 2 <= len(self.classes) <= len(KEYS) or len(set(self.classes)) < len(self.classes):
            raise InvalidValueError("classes", list(self.classes), f"2 to {len(KEYS)} distinct names")
        if pc.count_distinct(self.rows["_row"]).as_py() < self.rows.num_rows:
            raise DataError("rows, column '_row'", "an id occurs twice", "one id a row", "number the rows")
        strange = {label for label in self.journal.standing().values() if label is not None} - set(self.classes)
        if strange:
            problem = f"it has answers {sorted(strange)}"
            raise DataError(str(self.journal.path), problem, ", ".join(self.classes), "name all classes")
        self._sort()

    def votes(self) -> Votes:
        """Return the answers of all people in the journal, and the votes of other sources, as votes."""
        found = [(row, who, label) for (row, who), label in self.journal.standing().items() if label is not None]
        people = sorted({who for _, who, _ in found}) or [self.person]
        place = {name: number for number, name in enumerate(self.classes)}
        own = Votes.from_arrays(
            [row for row, _, _ in found],
            [people.index(who) for _, who, _ in found],
            [place[label] for _, _, label in found],
            classes=self.classes,
            sources=people,
            rows=np.union1d(self.rows["_row"].to_numpy(), [row for row, _, _ in found]),
        )
        return own if self.others is None else self.others.with_votes(own)

    def labels(self) -> Labels:
        """Return what the engine makes of all votes."""
        return self.model.fit(self.votes())

    def next_row(self) -> int | None:
        """Return the row to ask about, or None when all are answered or passed on."""
        done = {row for row, _ in self.journal.standing(self.person)}
        return next((row for row in self._order if row not in done), None)

    def answer(self, row: int, label: str | None) -> None:
        """Keep an answer; None passes on the row.

        Raises:
            UnknownNameError: If the label is no class.
            DataError: If there is no such row.
        """
        if label is not None and label not in self.classes:
            raise UnknownNameError("class", label, self.classes)
        if row not in set(self._order):
            raise DataError("answer", f"there is no row {row}", "a row of the table", "reload the page")
        self.journal.append(Answer(row, label, self.person))
        self._fresh += 1
        if self._fresh >= _AGAIN:
            self._sort()

    def undo(self) -> None:
        """Take back the person's last answer; the row is asked about again at once."""
        standing = list(self.journal.standing(self.person).items())
        if standing:
            (row, _), label = standing[-1]
            self.journal.append(Answer(row, label, self.person, undone=True))
            self._order = (
                [row, *(other for other in self._order if other != row)] if row in self._order else self._order
            )

    def _sort(self) -> None:
        """Put the rows in order: what an answer is expected to tell most about comes first, ties as in the table."""
        self._fresh = 0
        ids = self.rows["_row"].to_pylist()
        if self.others is None or not len(self.others):
            self._order = ids
            return
        asked = ask(self.labels(), budget=float("inf"))
        gain = dict(zip(asked["_row"].to_pylist(), asked["gain"].to_pylist(), strict=True))
        self._order = sorted(ids, key=lambda row: -round(gain.get(row, 0.0), 9))

    # The page ----------------------------------------------------------------------------------------------------

    def page(self) -> Page:
        """Return the page that asks about the next row."""
        standing = self.journal.standing(self.person)
        labelled = sum(label is not None for label in standing.values())
        facts = [
            Fact("labelled", labelled, f"of {self.rows.num_rows:,} rows"),
            Fact("passed", len(standing) - labelled),
            Fact("to go", self.rows.num_rows - len(standing)),
        ]
        row = self.next_row()
        undo = Form("undo", [Field("undo", "", "choice", choices=["undo"], keys=["u"])])
        if row is None:
            blocks: list[Text | Form | Preformatted | Table] = [Text("Every row is labelled or passed on."), undo]
            return Page("Labels", f"{self.person}, all done.", facts, [Section("Done", blocks)])
        at = pc.index(self.rows["_row"], row).as_py()
        shown: list[Text | Preformatted] = []
        for name in self.show:
            shown += [Text(name)] if len(self.show) > 1 else []
            shown.append(Preformatted(str(self.rows[name][at].as_py()), name, wrap=True))
        choice = Field("label", "Which is it?", "choice", choices=self.classes, keys=KEYS[: len(self.classes)])
        asked = Form("answer", [Field("row", kind="hidden", value=str(row)), choice])
        skip = Form(
            "skip",
            [Field("row", kind="hidden", value=str(row)), Field("skip", "", "choice", choices=["skip"], keys=["s"])],
        )
        said = self._said(row)
        sections = [Section(f"Row {row}", [*shown, asked, skip, undo])]
        if said:
            sections.append(Section("What others say", [Table(["source", "label"], said)]))
        return Page("Labels", f"{self.person}: one key answers, s skips, u takes back. Saved at once.", facts, sections)

    def _said(self, row: int) -> list[tuple[str, str]]:
        if self.others is None:
            return []
        at = int(np.searchsorted(self.others.rows, row))
        if at >= len(self.others.rows) or self.others.rows[at] != row:
            return []
        mine = range(self.others.indptr[at], self.others.indptr[at + 1])
        return [(self.others.sources[self.others.source[v]], self.classes[self.others.label[v]]) for v in mine]

    def server(self, port: int = 0) -> Server:
        """Return a live server of the page, on the loopback address only."""
        actions = {"answer": self._answered, "skip": self._skipped, "undo": self._undone}
        return Server({"/": self.page}, actions, port=port)

    def _answered(self, body: Json) -> Json:
        self.answer(_row(body), str(_cell(body, "label")))
        return {}

    def _skipped(self, body: Json) -> Json:
        self.answer(_row(body), None)
        return {}

    def _undone(self, body: Json) -> Json:
        self.undo()
        return {}


def _row(body: Json) -> int:
    text = str(_cell(body, "row"))
    if not text.removeprefix("-").isdecimal():
        raise InvalidValueError("row", text, "a row's id")
    return int(text)


def _cell(body: Json, name: str) -> Json:
    if not isinstance(body, dict) or name not in body:
        raise InvalidValueError("body", body, f"an object with {name!r}")
    return body[name]
