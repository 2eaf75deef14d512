"""Labelling functions: what a person knows, written as rules that vote on batches of rows or stay silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.label.votes import Votes

Answers: TypeAlias = "pa.Array | pa.ChunkedArray | Sequence[str | None]"


class LabellingFunction(Protocol):
    """A rule with a name; it answers a batch of rows with one class or null a row."""

    @property
    def name(self) -> str:
        """Under which its votes are counted."""

    def __call__(self, batch: pa.RecordBatch) -> Answers:
        """Return one class name a row, null where the rule is silent."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Votes for one class wherever a column matches a regular expression.

    Args:
        name: Name of the source.
        column: Column of text; null is silence.
        pattern: Regular expression of RE2, which has no look-around; searched anywhere in the text.
        label: The class voted for.
        ignore_case: Take upper and lower case for the same.

    Raises:
        InvalidValueError: If RE2 does not read the pattern.

    Example:
        >>> rule = Pattern("link", "text", "https?:", "spam")
        >>> rule(pa.record_batch({"text": ["see https://x.example", "nice song"]})).to_pylist()
        ['spam', None]
    """

    name: str
    column: str
    pattern: str
    label: str
    ignore_case: bool = True

    def __post_init__(self) -> None:
        try:
            self._match(pa.array([""]))
        except pa.ArrowInvalid as error:
            raise InvalidValueError("pattern", self.pattern, f"a regular expression of RE2 ({error})") from error

    def _match(self, text: pa.Array) -> pa.Array:
        return pc.match_substring_regex(text, pattern=self.pattern, ignore_case=self.ignore_case)

    def __call__(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the class where the pattern matches, null elsewhere."""
        if self.column not in batch.schema.names:
            raise UnknownNameError("column", self.column, batch.schema.names)
        found = pc.fill_null(self._match(batch[self.column].cast(pa.string())), fill_value=False)
        return pc.if_else(found, pa.scalar(self.label), pa.scalar(None, pa.string()))


@dataclass(frozen=True, slots=True)
class Rule:
    """Any function from a batch to one class name or null a row.

    Args:
        name: Name of the source.
        function: The function.
    """

    name: str
    function: Callable[[pa.RecordBatch], Answers]

    def __call__(self, batch: pa.RecordBatch) -> Answers:
        """Return what the function returns."""
        return self.function(batch)


def vote(
    functions: Sequence[LabellingFunction], rows: pa.Table | Iterable[pa.RecordBatch], classes: Sequence[str]
) -> Votes:
    """Return the votes of labelling functions on every row.

    Args:
        functions: The rules; their names are the sources.
        rows: A table or batches with an `int64` column `_row`.
        classes: Names of all classes.

    Raises:
        InvalidValueError: If two functions share a name.
        DataError: If there is no `_row`, or a function gives another number of answers than rows or no class.

    Cost: one pass over the batches for all functions; keeps the votes only.
    """
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise InvalidValueError("functions", names, "of distinct names")
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    known = pa.array(list(classes), pa.string())
    ids, item, source, label = [], [], [], []
    for batch in batches:
        if "_row" not in batch.schema.names:
            raise DataError("rows", "there is no column '_row'", "an int64 id for each row", "add the column `_row`")
        row = batch["_row"].to_numpy(zero_copy_only=False).astype(np.int64)
        ids.append(row)
        for number, function in enumerate(functions):
            codes = _answers(function, batch, known)
            spoken = np.flatnonzero(codes >= 0)
            item.append(row[spoken])
            source.append(np.full(len(spoken), number))
            label.append(codes[spoken])
    parts = [np.concatenate(part) if part else np.empty(0, np.int64) for part in (ids, item, source, label)]
    return Votes.from_arrays(*parts[1:], classes=classes, sources=names, rows=parts[0])


def _answers(function: LabellingFunction, batch: pa.RecordBatch, classes: pa.Array) -> np.ndarray:
    answers = function(batch)
    where = f"labelling function {function.name!r}"
    said = answers.combine_chunks() if isinstance(answers, pa.ChunkedArray) else answers
    said = said.cast(pa.string()) if isinstance(said, pa.Array) else pa.array(said, pa.string())
    if len(said) != batch.num_rows:
        problem = f"it gave {len(said)} answers for {batch.num_rows} rows"
        raise DataError(where, problem, "one class or null a row", "return as many answers as there are rows")
    codes = pc.index_in(said, classes)
    strange = pc.and_(pc.is_valid(said), pc.is_null(codes))
    if pc.any(strange).as_py():
        name = said.filter(strange)[0].as_py()
        raise DataError(where, f"{name!r} is no class", ", ".join(classes.to_pylist()), "return a class or null")
    return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), np.int64)
