"""The lazy pipeline over a table of the lake: steps are named, planned, run once, and committed as a version.

Nothing is read before a plan is printed or a name is committed. A commit makes, beside the data, what answers
questions about it: `<name>.steps` (what each step did), `<name>.quarantine` (rows taken out, with reasons),
`<name>.parents` (which rows a row comes from), `<name>.fitted` (what was learnt) and a table for each kind of note
(votes, repairs, spans).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import pyarrow as pa

from stepwell.core import Cost, PlanNode
from stepwell.core.errors import InvalidValueError
from stepwell.core.log import logger
from stepwell.core.progress import progress
from stepwell.prepare.asof import AsOf
from stepwell.prepare.cache import Stored, cache_root
from stepwell.prepare.clean.constraints import Constraint
from stepwell.prepare.clean.label_issues import Probe
from stepwell.prepare.clean.policy import Repair
from stepwell.prepare.cleaning import CleanLabels, Expect, Mend, OnFail
from stepwell.prepare.commit import Prepared, commit_version, committed_reports
from stepwell.prepare.compress import Tolerance
from stepwell.prepare.compressing import Compress
from stepwell.prepare.execute import Runner, read_key, step_key
from stepwell.prepare.extract import Extractor
from stepwell.prepare.extracting import Extract
from stepwell.prepare.fingerprint import fingerprint
from stepwell.prepare.fitted import Apply, Encode, Encoder, FittedMap, Learn
from stepwell.prepare.joining import JoinAsOf, Link
from stepwell.prepare.label import LabelModel
from stepwell.prepare.label.functions import LabellingFunction
from stepwell.prepare.labelling import Crowd, Label
from stepwell.prepare.link import Settings
from stepwell.prepare.link.block import Block
from stepwell.prepare.link.compare import Comparison
from stepwell.prepare.link.merge import Fuse
from stepwell.prepare.link.schema import Evidence
from stepwell.prepare.map import Derive, Keep, Map, Where
from stepwell.prepare.matching import MatchSchema
from stepwell.prepare.predict import known_results, predicted_costs
from stepwell.prepare.select import Selector
from stepwell.prepare.selecting import Select
from stepwell.prepare.sifting import Leaks, Likeness, NearlyRepeated, Outliers, Repeated, Then
from stepwell.prepare.split import Moment, Split
from stepwell.prepare.step import Keyed, Report, Sees, SqlStep, Step, UserFunction
from stepwell.prepare.tree import as_they_run, plan_tree
from stepwell.storage import Lake
from stepwell.storage.units import to_bytes

__all__ = ["Preparation", "Prepared"]

log = logger(__name__)


@dataclass(frozen=True)
class Preparation:
    """A table of the lake and the steps that will be taken with it; every verb returns a longer one.

    Args:
        lake: The lake.
        source: The table's name, or `"name@version"` to stay with one version.
        key: Columns that tell rows apart and by which a row keeps its id when the table is written again; none: the
            whole row.
        budget: Memory that a step may use for its tables.
        steps: What is done, in order.
        on: Where steps that see one row at a time run: `"here"`, or on `"ray"` (Ray Data); results are the same.

    Raises:
        UnknownNameError: If there is no such table.

    Example:
        >>> lake = stepwell.storage.open(folder)
        >>> _ = lake.write("raw", {"id": np.arange(4), "price": np.array([9.5, -1.0, 3.0, 2.0])})
        >>> prepared = Preparation(lake, "raw", key="id").where("price > 0").split(test=0.25).commit("prices")
        >>> len(prepared.table), lake.sql("select reason from prices.quarantine").to_pylist()
        (3, [{'reason': 'where price > 0'}])
    """

    lake: Lake
    source: str
    key: str | tuple[str, ...] = ()
    budget: str | int = "1GiB"
    steps: tuple[Step | SqlStep, ...] = ()
    on: Literal["here", "ray"] = "here"

    # Verbs ----------------------------------------------------------------------------------------------------------

    def then(self, step: Step | SqlStep) -> Preparation:
        """Add any step; the verbs below only make the usual ones."""
        if not isinstance(step, Step | SqlStep):
            raise InvalidValueError("step", step, "a Step or a SqlStep")
        return replace(self, steps=(*self.steps, step))

    def map(self, function: UserFunction, *, sees: Sees = "row", label: str = "") -> Preparation:
        """Apply a function, record batch in, record batch out; see `Map`."""
        return self.then(Map(function, sees, label))

    def fit(self, learn: Learn, function: Apply, *, label: str = "") -> Preparation:
        """Apply a function that learns from the training rows first; see `FittedMap`."""
        return self.then(FittedMap(learn, function, label))

    def where(self, condition: str) -> Preparation:
        """Keep the rows for which a DuckDB condition holds; see `Where`."""
        return self.then(Where(condition))

    def derive(self, columns: Mapping[str, str]) -> Preparation:
        """Add or replace columns by DuckDB expressions; see `Derive`."""
        return self.then(Derive(tuple(columns.items())))

    def keep(self, *columns: str) -> Preparation:
        """Keep some columns only; see `Keep`."""
        return self.then(Keep(columns))

    def expect(
        self,
        *constraints: Constraint,
        on_fail: OnFail = "quarantine",
        tables: Mapping[str, str | Keyed] | None = None,
    ) -> Preparation:
        """Check what must hold of the table in one scan; see `Expect`.

        Args:
            constraints: What must hold.
            on_fail: What becomes of rows that violate one.
            tables: Tables of the lake by the names that constraints use for them.
        """
        others = {name: self._table(table) for name, table in (tables or {}).items()}
        return self.then(Expect(constraints, on_fail, others))

    def mend(self, *rules: tuple[Constraint, Repair]) -> Preparation:
        """Repair what violates constraints, each in its way; see `Mend`."""
        return self.then(Mend(rules))

    def clean_labels(
        self,
        probe: Probe,
        columns: Sequence[str],
        *,
        label: str = "label",
        then: Literal["weight", "quarantine", "relabel"] = "weight",
        folds: int = 5,
        groups: str = "",
        seed: int = 0,
    ) -> Preparation:
        """Find training labels that are probably wrong; see `CleanLabels`."""
        return self.then(CleanLabels(probe, tuple(columns), label, then, folds, groups, seed))

    def deduplicate(
        self,
        *columns: str,
        how: Likeness = "exact",
        similarity: float | None = None,
        then: Then = "merge",
        order: str = "",
    ) -> Preparation:
        """Keep one row of those that are equal (`Repeated`), or nearly (`NearlyRepeated`, from 0.8 or 0.95)."""
        if how == "exact":
            if similarity is not None:
                raise InvalidValueError("similarity", similarity, "given with how='text' or 'vectors' only")
            return self.then(Repeated(columns, then, order))
        least = similarity if similarity is not None else 0.8 if how == "text" else 0.95
        return self.then(NearlyRepeated(columns, how, least, then, order))

    def outliers(
        self, *columns: str, share: float = 0.01, then: Literal["quarantine", "keep"] = "quarantine"
    ) -> Preparation:
        """Take out the training rows whose values are rarest; see `Outliers`."""
        return self.then(Outliers(columns, share, then))

    def leaks(
        self,
        *keys: str,
        text: str = "",
        similarity: float = 0.8,
        then: Literal["quarantine", "keep", "fail"] = "quarantine",
    ) -> Preparation:
        """Take out rows of an earlier part that share an entity or a text with a later one; see `Leaks`."""
        return self.then(Leaks(keys, text, similarity, then))

    def match_schema(
        self, other: str | Keyed, evidence: Evidence | None = None, *, known: Mapping[str, str] | None = None
    ) -> Preparation:
        """Call columns as another table does; see `MatchSchema`."""
        return self.then(MatchSchema(self._table(other), evidence or Evidence(), dict(known or {})))

    def link(
        self,
        other: str | Keyed | None = None,
        *,
        compare: Sequence[Comparison],
        block: Sequence[Block],
        threshold: float | None = None,
        settings: Settings | None = None,
        labels: pa.Table | None = None,
        fuse: Mapping[str, Fuse] | None = None,
    ) -> Preparation:
        """Make one row of the rows that mean the same, here and in another table; see `Link`."""
        keyed = None if other is None else self._table(other)
        known = settings or Settings(unique="neither" if other is None else "both")
        return self.then(Link(tuple(compare), tuple(block), keyed, labels, threshold, known, dict(fuse or {})))

    def join_asof(self, right: str | Keyed, on: AsOf) -> Preparation:
        """Give each row what another table knew at its time; see `JoinAsOf`."""
        return self.then(JoinAsOf(self._table(right), on))

    def extract(self, *extractors: Extractor, fields: Sequence[str], text: str = "text") -> Preparation:
        """Read values out of a column of texts into columns; see `Extract`."""
        return self.then(Extract(extractors, tuple(fields), text))

    def label(
        self,
        functions: Sequence[LabellingFunction] = (),
        *,
        classes: Sequence[str],
        crowd: Crowd | None = None,
        gold: str = "",
        model: LabelModel | None = None,
        uncovered: Literal["keep", "quarantine"] = "keep",
    ) -> Preparation:
        """Label rows by votes of functions and crowds; see `Label`."""
        return self.then(Label(tuple(functions), tuple(classes), crowd, gold, model or LabelModel(), uncovered))

    def select(
        self,
        budget: int | float,
        *,
        selector: Selector | str = "camel",
        columns: Sequence[str] | None = None,
        label: str = "",
        seed: int = 0,
    ) -> Preparation:
        """Keep a share of the training rows, weighted by what they stand for; see `Select`."""
        return self.then(Select(budget, selector, None if columns is None else tuple(columns), label, seed))

    def encode(self, *encoders: Encoder) -> Preparation:
        """Turn columns into numbers by what the training rows say; see `Encode`."""
        return self.then(Encode(encoders))

    def compress(
        self,
        *columns: str,
        tolerance: Tolerance | Mapping[str, Tolerance] | None = None,
        beyond: Literal["keep", "quarantine"] = "keep",
    ) -> Preparation:
        """Hold number columns as codes at a declared error; see `Compress`, and `compressed` to read them."""
        return self.then(Compress(columns or None, tolerance or Tolerance(), beyond))

    def split(
        self,
        *,
        by: str | Sequence[str] = (),
        time: str = "",
        test: Moment = 0.2,
        valid: Moment | None = None,
        seed: int = 0,
    ) -> Preparation:
        """Cut the rows into training, validation and test without leaks; see `Split`.

        Fitted steps that stand before it are fitted on its training rows: it is moved in front of them.
        """
        if any(isinstance(step, Split) for step in self.steps):
            raise InvalidValueError("split", "a second one", "one split in a preparation")
        return self.then(Split((by,) if isinstance(by, str) else tuple(by), time, test, valid, seed))

    # The plan -------------------------------------------------------------------------------------------------------

    @cached_property
    def keyed(self) -> Keyed:
        """The source's version with its key."""
        return self.table(self.source, self.key)

    def table(self, name: str, key: str | Sequence[str] = ()) -> Keyed:
        """Return another table of the lake, `"name"` or `"name@version"`, whose rows get their ids from a key."""
        known, _, version = name.partition("@")
        columns = tuple(key) if not isinstance(key, str) else (key,) if key else ()
        return Keyed(self.lake.table(known, int(version) if version else None), columns)

    def _table(self, table: str | Keyed) -> Keyed:
        return table if isinstance(table, Keyed) else self.table(table)

    @cached_property
    def ordered(self) -> tuple[Step | SqlStep, ...]:
        """The steps as they run: a split stands before the first step that is fitted."""
        return as_they_run(self.steps)

    @property
    def plan(self) -> PlanNode:
        """The tree of steps with predicted rows, bytes and seconds, and what is cached; nothing is run but a sample."""
        known = known_results(self.runner.root, self.keyed, self.ordered)
        costs = predicted_costs(self.runner, self.keyed, self.ordered, known)
        self._asked[:] = costs
        return plan_tree(self.keyed, self.steps, costs, [None] * len(costs), known)

    @cached_property
    def _asked(self) -> list[Cost]:
        """What the plan that was last asked for predicted; a commit shows it and tries nothing by itself."""
        return []

    @cached_property
    def runner(self) -> Runner:
        """What runs the steps."""
        cut = next((step for step in self.steps if isinstance(step, Split)), None)
        return Runner(cache_root(self.lake), to_bytes(self.budget), cut.time if cut is not None else "", on=self.on)

    # Running --------------------------------------------------------------------------------------------------------

    def run(self) -> list[Stored]:
        """Run what is not cached and return what the source and each step gave; nothing is committed.

        Raises:
            DataError: If a step fails; names the step, and where possible the column and an example row.
            LeakError: If a step looks further than it declares.
            DiskFullError: If there is no room.
        """
        with progress("prepare", len(self.ordered) + 1, "steps") as task:
            found = [self.runner.read(self.keyed)]
            task.advance()
            for step in self.ordered:
                task.note(step.name)
                found.append(self.runner.run(step, found[-1]))
                task.advance()
        return found

    def commit(self, name: str, message: str = "") -> Prepared:
        """Run the steps and make their result a version of a table of the lake.

        A second commit of the same steps over the same versions makes no new version. One that is killed leaves the
        last version, and goes on behind its last whole step when it is run again.

        Args:
            name: The table.
            message: Kept in the commit.

        Raises:
            DataError, LeakError, DiskFullError: As `run`.
            ConflictError: If another writer committed to the table meanwhile.

        Cost:
            The steps that are not cached, and their results' size written once more.
        """
        if name == self.keyed.table.name:
            raise InvalidValueError("name", name, "another name than the table that is prepared")
        known = known_results(self.runner.root, self.keyed, self.ordered)
        costs = self._asked or [Cost()] * len(known)
        key = self._key()
        expected = self.lake.table(name).version if name in self.lake else -1
        if expected >= 0 and self.lake.metadata(name, expected).get("prepare") == key:
            log.info("%s@%d was made from the same steps; it is opened", name, expected)
            reports = committed_reports(self.lake, name, expected)
            measured = [_measured(report, cached=True) for report in reports]
            return Prepared(
                self.lake.table(name, expected),
                plan_tree(self.keyed, self.steps, costs, measured, known),
                reports,
                made=False,
            )
        stored = self.run()
        metadata = {"prepare": key, "message": message}
        version = commit_version(self.lake, name, self.keyed, self.ordered, stored, metadata, expected)
        reports = tuple(one.report for one in stored)
        measured = [_measured(one.report, cached=before is not None) for one, before in zip(stored, known, strict=True)]
        return Prepared(
            self.lake.table(name, version),
            plan_tree(self.keyed, self.steps, costs, measured, known),
            reports,
            made=True,
        )

    def _key(self) -> str:
        key = read_key(self.keyed)
        for step in self.ordered:
            key = step_key(step, key)
        return fingerprint("commit", key)


def _measured(report: Report, *, cached: bool) -> Cost:
    return Cost(report.rows_out, report.size_bytes, 0.0 if cached else report.seconds, calls=1)
