"""Steps that clean: what must be true of a table, what to put where it is not, and labels that are probably wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.clean.constraints import Constraint, NoDrift, RowConstraint
from stepwell.prepare.clean.label_issues import Probe, label_issues, out_of_sample
from stepwell.prepare.clean.policy import Repair, repair
from stepwell.prepare.clean.scan import check, predicates_query
from stepwell.prepare.map import quoted_name
from stepwell.prepare.step import INPUT, NOTHING, ROW, SPLIT, TRAIN, Fitted, Keyed, Query, Rows, Sees, Stream

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


@dataclass(frozen=True)
class Mend:
    """Repair what violates constraints; every changed cell is kept in the note `repairs`.

    Values to fill in are learnt from training rows that violate nothing.

    Args:
        rules: Pairs of a constraint and what to do where it does not hold.
    """

    rules: tuple[tuple[Constraint, Repair], ...]
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    @property
    def name(self) -> str:
        """The constraints."""
        return f"mend {'; '.join(constraint.name for constraint, _ in self.rules)}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing yet: which training rows are clean is known once all are checked."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Check and repair."""
        table = tables[INPUT]
        found = check(table, [constraint for constraint, _ in self.rules])
        repairs = {constraint.name: one for constraint, one in self.rules}
        done = repair(table, found.violations, repairs, train=table.filter(pa.array(_training(table))))
        return Rows(
            done.out, quarantine=done.quarantine, notes={"violations": found.violations, "repairs": done.repairs}
        )


@dataclass(frozen=True)
class CleanLabels:
    """Find training labels that are probably wrong; they are kept in the note `label_issues` with a suggestion.

    Each training row is judged by a model that was fitted on other training rows; test rows pass as they are, and so do
    rows without a label.

    Args:
        probe: The model.
        columns: Number columns that it looks at.
        label: Column of the label.
        then: What becomes of such a row: `"weight"`: its weight is multiplied by the probability of its label;
            `"quarantine"`; `"relabel"`: it gets the suggested label.
        folds: Parts that are held out in turn.
        groups: Column whose rows of one value are held out together, or "".
        seed: Of the parts.
    """

    probe: Probe
    columns: tuple[str, ...]
    label: str = "label"
    then: Literal["weight", "quarantine", "relabel"] = "weight"
    folds: int = 5
    groups: str = ""
    seed: int = 0
    sees: Sees = field(default="all", init=False)
    fits: bool = field(default=True, init=False)
    others: Mapping[str, Keyed] = field(default_factory=dict, init=False)
    engines: tuple[str, ...] = field(default=("clean",), init=False)

    def __post_init__(self) -> None:
        if self.then not in ("weight", "quarantine", "relabel"):
            raise InvalidValueError("then", self.then, "'weight', 'quarantine' or 'relabel'")

    @property
    def name(self) -> str:
        """What becomes of the rows."""
        return f"clean labels: {self.then}"

    def fit(self, train: Stream) -> Fitted:
        """Learn nothing yet: the models are fitted fold by fold."""
        return NOTHING

    def apply(self, tables: Mapping[str, pa.Table], fitted: Fitted) -> Rows:
        """Judge the training rows."""
        table = tables[INPUT]
        for name in (self.label, *self.columns, *((self.groups,) if self.groups else ())):
            if name not in table.schema.names:
                raise UnknownNameError("column", name, table.schema.names)
        taught = _training(table) & np.asarray(table.column(self.label).is_valid())
        pool = table.filter(pa.array(taught))
        if not len(pool):
            return Rows(table)
        coded = pool.column(self.label).combine_chunks().dictionary_encode()
        labels = coded.indices.to_numpy().astype(np.int64)
        features = np.stack([pool.column(name).to_numpy().astype(np.float64) for name in self.columns], 1)
        groups = None
        if self.groups:
            groups = pool.column(self.groups).combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        predicted = out_of_sample(self.probe, features, labels, folds=self.folds, groups=groups, seed=self.seed)
        issues = label_issues(labels, predicted, rows=pool.column(ROW).to_numpy())
        return self._settle(table, issues, coded.dictionary)

    def _settle(self, table: pa.Table, issues: pa.Table, names: pa.Array) -> Rows:
        named = [names.take(issues.column(name)) for name in ("label", "suggested")]
        noted = pa.table([issues.column(ROW), *named, issues.column("confidence")], names=issues.schema.names)
        place = pc.index_in(table.column(ROW), issues.column(ROW))
        hit = place.is_valid()
        if self.then == "quarantine":
            gone = table.filter(hit)
            reason = pa.array(["label issue"] * len(gone), pa.string())
            kept = table.filter(pc.invert(hit))
            return Rows(kept, quarantine=gone.add_column(1, "reason", reason), notes={"label_issues": noted})
        if self.then == "relabel":
            at = table.schema.names.index(self.label)
            new = pc.if_else(hit, noted.column("suggested").take(place), table.column(self.label))
            return Rows(table.set_column(at, self.label, new), notes={"label_issues": noted})
        weight = pc.fill_null(noted.column("confidence").take(place), 1.0)
        if "weight" in table.schema.names:
            weight = pc.multiply(weight, table.column("weight").cast(pa.float64()))
            table = table.drop_columns(["weight"])
        return Rows(table.append_column("weight", weight), notes={"label_issues": noted})


def _training(table: pa.Table) -> np.ndarray:
    """Return which rows are of the training period; all of them if there is no split."""
    if SPLIT not in table.schema.names:
        return np.ones(len(table), np.bool_)
    return np.asarray(pc.equal(table.column(SPLIT), TRAIN))


def _blamed(constraint: Constraint) -> tuple[str, ...]:
    """Return the columns whose values a violation puts in doubt."""
    determined = getattr(constraint, "column", "")
    return (determined,) if hasattr(constraint, "column") and determined else tuple(constraint.columns)
