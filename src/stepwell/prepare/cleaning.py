"""Steps that hold a table to what must be true of it, in one scan, and say what becomes of rows where it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.clean.constraints import Constraint, NoDrift, RowConstraint
from stepwell.prepare.clean.scan import check, predicates_query
from stepwell.prepare.map import quoted_name
from stepwell.prepare.step import INPUT, ROW, Keyed, Query, Sees

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OnFail: TypeAlias = Literal["quarantine", "null", "keep", "fail"]


@dataclass(frozen=True)
class Expect:
    """Check constraints; every violation is kept in the note `violations`.

    Args:
        constraints: What must hold.
        on_fail: What becomes of a row that violates one: `"quarantine"`; `"null"`: the columns that the constraint
            reads lose their values; `"keep"`: it goes on; `"fail"`: the whole run stops. A column that has drifted
            has no such rows: it stops the run if `on_fail` is `"fail"` and is noted otherwise.
        tables: Further tables, by the names that `ForeignKey` and `NoDrift` use.
    """

    constraints: tuple[Constraint, ...]
    on_fail: OnFail = "quarantine"
    tables: Mapping[str, Keyed] = field(default_factory=dict)
    sees: Sees = field(default="all", init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    def __post_init__(self) -> None:
        if self.on_fail not in ("quarantine", "null", "keep", "fail"):
            raise InvalidValueError("on_fail", self.on_fail, "'quarantine', 'null', 'keep' or 'fail'")
        if not self.constraints:
            raise InvalidValueError("constraints", (), "at least one constraint")

    @property
    def name(self) -> str:
        """The first constraints."""
        names = [constraint.name for constraint in self.constraints]
        return f"expect {'; '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    @property
    def others(self) -> Mapping[str, Keyed]:
        """The further tables."""
        return self.tables

    def query(self, schema: pa.Schema, connection: DuckDBPyConnection | None = None) -> Query:
        """Check, and return what follows from the violations.

        Raises:
            DataError: If something is violated and `on_fail` is `"fail"`.
        """
        if connection is None:
            rows = [constraint for constraint in self.constraints if isinstance(constraint, RowConstraint)]
            return Query(predicates_query(INPUT, rows) if rows else "select * from input")
        found = check(INPUT, self.constraints, connection=connection)
        if self.on_fail == "fail" and not found.holds:
            raise DataError(f"step {self.name}", f"found\n{found}\n", "a table without violations", "see on_fail=")
        connection.register("_violations", found.violations)
        connection.register("_summary", found.summary)
        notes = {
            "violations": "from _violations",
            "constraints": f'select row_number() over () as "{ROW}", * from _summary',
        }
        return self._query(schema, notes)

    def _query(self, schema: pa.Schema, notes: Mapping[str, str]) -> Query:
        row = quoted_name(ROW)
        if self.on_fail == "null":
            columns = [self._nulled(name) for name in schema.names]
            hit = f'select {row}, list("constraint") as _hit from _violations group by 1'
            out = f"select {', '.join(columns)} from input i left join ({hit}) v using ({row}) order by {row}"
            return Query(out, notes=notes)
        if self.on_fail != "quarantine":
            return Query("from input", notes=notes, touches=())
        plain = ", ".join(f"i.{quoted_name(name)}" for name in schema.names if name != ROW)
        listed = 'string_agg("constraint", \'; \' order by "constraint")'
        reasons = f"select {row}, {listed} as reason from _violations group by 1"
        return Query(
            f"from input where {row} not in (select {row} from _violations)",
            f"select i.{row}, v.reason, {plain} from input i join ({reasons}) v using ({row}) order by 1",
            notes=notes,
            touches=(),
        )

    def _nulled(self, name: str) -> str:
        blamed = [c.name for c in self.constraints if not isinstance(c, NoDrift) and name in _blamed(c)]
        if name == ROW or not blamed:
            return f"i.{quoted_name(name)}"
        listed = ", ".join("'" + one.replace("'", "''") + "'" for one in blamed)
        hit = f"v._hit is not null and list_has_any(v._hit, [{listed}])"
        return f"case when {hit} then null else i.{quoted_name(name)} end as {quoted_name(name)}"


def _blamed(constraint: Constraint) -> tuple[str, ...]:
    """Return the columns whose values a violation puts in doubt."""
    determined = getattr(constraint, "column", "")
    return (determined,) if hasattr(constraint, "column") and determined else tuple(constraint.columns)
