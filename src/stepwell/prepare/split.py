"""Cuts a table into training, validation and test rows so that neither time nor an entity leaks from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import pyarrow as pa

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.map import quoted_name
from stepwell.prepare.step import ROW, SPLIT, Keyed, Query, Sees

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Moment = str | int | float | date
"""Where a part begins: a moment of the time column, or the share of the rows that it holds (0 < share < 1)."""


@dataclass(frozen=True)
class Split:
    """Add the column `split`: `train`, `valid` or `test`.

    With a time, the later rows are the later parts. With a group, all rows of a group are in one part: by a hash of the
    group where there is no time, which stays the same when rows are added; with a time, the part of the group's latest
    row, and its rows in earlier parts are quarantined. A row without a time is quarantined.

    Args:
        by: Columns of the group; none: every row is its own.
        time: Column of the time, or "".
        test: Where the test part begins, or its share of the rows (without a time: of the groups).
        valid: The same for the part before it; None: there is none.
        seed: Changes the hash of the groups.

    Raises:
        InvalidValueError: If a moment is given without a time, or the shares leave no training rows.
    """

    by: tuple[str, ...] = ()
    time: str = ""
    test: Moment = 0.2
    valid: Moment | None = None
    seed: int = 0
    sees: Sees = field(default="all", init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name, moment in (("test", self.test), ("valid", self.valid)):
            if not self.time and moment is not None and not _is_share(moment):
                raise InvalidValueError(name, moment, "a share between 0 and 1 where there is no time=")
        shares = [moment for moment in (self.test, self.valid) if isinstance(moment, float) and _is_share(moment)]
        if sum(shares) >= 1:
            raise InvalidValueError("test and valid", (self.test, self.valid), "shares below 1 in sum")

    @property
    def name(self) -> str:
        """What the cut goes by."""
        parts = [f"by {', '.join(self.by)}"] if self.by else []
        parts += [f"at {self.time}"] if self.time else []
        return " ".join(["split", *parts])

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Return the SQL: the part of every row, and that of its group."""
        group = " || chr(31) || ".join(f"coalesce({quoted_name(c)}::varchar, 'row ' || \"{ROW}\")" for c in self.by)
        group = group or f'"{ROW}"::varchar'
        own = f"select *, {self._part(group)} as _own, {group} as _group from {self._source()}"
        parts = f"select *, max(_own) over (partition by _group) as _part from ({own})"
        if not self.by:
            parts = f"select *, _own as _part from ({own})"
        columns = ", ".join(quoted_name(name) for name in schema.names if name != SPLIT)
        plain = ", ".join(quoted_name(name) for name in schema.names if name not in (SPLIT, ROW))
        label = "case _part when 0 then 'train' when 1 then 'valid' else 'test' end"
        out = f"select {columns}, {label} as {SPLIT} from base where _own = _part order by {ROW}"
        if not self.time:
            return Query(out, touches=(), base=parts)
        reason = f"case when _own is null then 'split: no time' else 'split: {_text(self.by)} also in a later part' end"
        gone = f"select {ROW}, {reason} as reason, {plain} from base where _own is distinct from _part or _own is null"
        return Query(out, gone, touches=(), base=parts)

    def _source(self) -> str:
        """Return the input, with the times that shares of it stand for."""
        if not self.time:
            return "input"
        time = quoted_name(self.time)
        cuts = []
        share = 0.0
        for name, moment in (("_test", self.test), ("_valid", self.valid)):
            if moment is not None and _is_share(moment):
                share += float(moment)  # type: ignore[arg-type]
                cuts.append(f"quantile_disc({time}, {1 - share}) as {name}")
        return f"input, (select {', '.join(cuts)} from input)" if cuts else "input"

    def _part(self, group: str) -> str:
        if not self.time:
            unit = f"md5_number_lower('{self.seed}:' || {group})::double / 18446744073709551616.0"
            later = float(self.test)  # type: ignore[arg-type]
            middle = later + float(self.valid or 0.0)  # type: ignore[arg-type]
            return f"case when {unit} < {later} then 2 when {unit} < {middle} then 1 else 0 end"
        time = quoted_name(self.time)
        test = _moment(self.test, "_test")
        valid = f"when {time} >= {_moment(self.valid, '_valid')} then 1 " if self.valid is not None else ""
        return f"case when {time} is null then null when {time} >= {test} then 2 {valid}else 0 end"


def _is_share(moment: Moment) -> bool:
    return isinstance(moment, float) and 0 < moment < 1


def _moment(moment: Moment, column: str) -> str:
    if _is_share(moment):
        return column
    return str(moment) if isinstance(moment, int | float) else f"'{moment}'"


def _text(names: tuple[str, ...]) -> str:
    return ", ".join(names).replace("'", "''")
