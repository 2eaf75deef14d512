"""Find wrong cells and what should stand there: from the constraints given, and from what the table itself shows.

Four witnesses look at each cell, in the order of trust:

1. a constraint on its column that it violates; the repair is the part of the value that satisfies it, or a missing
   value if there is none;
2. the rest of its row: values that go together elsewhere say that another one belongs here (`kernels.cooccur`). A
   column's prediction is believed only above the margin from which on it agrees with nine cells in ten, and only if at
   least two other columns each point to it. The surest cell of a row is mended before the others are asked about
   again, so one wrong cell does not put its neighbours in doubt;
3. its spelling: a frequent value, or a frequent word of a column with few words, differs in few letters;
4. its shape, where nearly all values of the column share a few others.

The last two are not heard where the rest of the row confirms the value. Missing cells are errors only where a
constraint says so.

References:
    Rekatsinas et al., "HoloClean", PVLDB 2017; Mahdavi et al., "Raha: A Configuration-Free Error Detection System",
    SIGMOD 2019; Mahdavi, Abedjan, "Baran: Effective Error Correction via a Unified Context Representation and Transfer
    Learning", PVLDB 2020. Differs: no labelled tuples and no learnt classifier.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.kernels.cooccur import predict_column
from stepwell.prepare.clean import formats
from stepwell.prepare.clean.constraints import Constraint, Matches, OfType, OneOf, RowConstraint
from stepwell.prepare.clean.scan import check

CELLS = pa.schema(
    [
        ("_row", pa.int64()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("repair", pa.string()),
        ("reason", pa.string()),
        ("score", pa.float64()),
    ]
)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_LEAST_CELLS = 20
_LEAST_SCORE = 3.0
_LEAST_SUPPORT = 2
_ROUNDS = 6


def find_errors(table: pa.Table, constraints: Sequence[Constraint] = (), *, agree: float = 0.9) -> pa.Table:
    """Return the cells that are probably wrong, with a proposed repair.

    Args:
        table: Rows with `_row`; cells are compared as text.
        constraints: What is known to hold; those on one row's single column are used to repair as well.
        agree: A column's prediction from the rest of the row counts where it agrees with at least this share of cells.

    Returns:
        A table `_row`, `column`, `value`, `repair` (null: make it missing), `reason`, `score` (log odds of a
        prediction, 1 for the other reasons), one row for each cell, sorted by `_row`.

    Cost:
        O(N C^2) look-ups for N rows and C columns, up to six times, and O(D F) edit distances for D rare and
        F frequent values of a column; the table as text in memory.
    """
    if not 0.5 <= agree < 1:
        raise InvalidValueError("agree", agree, "in [0.5, 1)")
    names = [name for name in table.schema.names if name != "_row"]
    texts = [pc.cast(table.column(name), pa.string()).combine_chunks().to_pylist() for name in names]
    cells = _Cells(names, texts, table.column("_row").to_numpy())
    cells.by_constraints(table, constraints)
    cells.by_row(agree)
    cells.by_looks()
    return cells.table()


def repaired(table: pa.Table, errors: pa.Table) -> pa.Table:
    """Return the table with each cell of `errors` replaced by its repair; a repair that its type cannot hold is null.

    Raises:
        UnknownNameError: If `errors` names a row or a column that the table lacks.
    """
    place = {row: i for i, row in enumerate(table.column("_row").to_pylist())}
    for name in dict.fromkeys(errors.column("column").to_pylist()):
        if name not in table.schema.names:
            raise UnknownNameError("column", name, table.schema.names)
        some = errors.filter(pc.equal(errors.column("column"), name))
        missing = [row for row in some.column("_row").to_pylist() if row not in place]
        if missing:
            raise UnknownNameError("row", str(missing[0]), ["those of the table"])
        index, field = table.schema.get_field_index(name), table.schema.field(name)
        values = table.column(name).to_pylist()
        new = pa.array(some.column("repair").to_pylist(), pa.string())
        for row, value in zip(some.column("_row").to_pylist(), _as_type(new, field.type), strict=True):
            values[place[row]] = value
        table = table.set_column(index, pa.field(name, field.type), pa.array(values, field.type))
    return table


def _as_type(values: pa.Array, kind: pa.DataType) -> list[object]:
    out: list[object] = []
    for value in values:
        try:
            out.append(value.cast(kind).as_py())
        except pa.ArrowInvalid:
            out.append(None)
    return out


def _codes(values: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Return values as codes from 0; each missing one is a value of its own, beside which nothing else stands."""
    known: dict[str | int, int] = {}
    codes = [known.setdefault(i if value is None else value, len(known)) for i, value in enumerate(values)]
    return np.array(codes, np.int64)


class _Cells:
    """The errors found so far: the first witness of a cell stands."""

    def __init__(self, names: Sequence[str], columns: Sequence[list[str | None]], rows: npt.NDArray[np.int64]) -> None:
        self._names, self._columns, self._rows = names, columns, rows
        self._now = [list(column) for column in columns]  # as mended so far
        self._found: dict[tuple[int, int], tuple[str | None, str, float]] = {}
        self._confirmed: set[tuple[int, int]] = set()

    def _add(self, i: int, j: int, repair: str | None, reason: str, score: float = 1.0) -> None:
        self._found.setdefault((i, j), (repair, reason, score))

    def by_constraints(self, table: pa.Table, constraints: Sequence[Constraint]) -> None:
        single = [one for one in constraints if isinstance(one, RowConstraint) and len(one.columns) == 1]
        by_name = {one.name: one for one in single}
        violations = check(table, single).violations if single else None
        place = {row: i for i, row in enumerate(self._rows.tolist())}
        for violation in violations.to_pylist() if violations is not None else []:
            constraint = by_name[violation["constraint"]]
            j = self._names.index(constraint.columns[0])
            i = place[violation["_row"]]
            repair = _satisfying(self._columns[j][i], constraint)
            self._add(i, j, repair, constraint.name)
            self._now[j][i] = repair

    def by_row(self, agree: float) -> None:
        """Ask the rest of each row, and mend the surest cell of a row before asking about its others again."""
        if len(self._names) < 2 or len(self._rows) < 2:
            return
        for _ in range(_ROUNDS):
            codes = np.stack([_codes(column) for column in self._now], 1)
            best: dict[int, tuple[float, int, str]] = {}
            self._confirmed.clear()
            for j in range(len(self._names)):
                for i, score, value in self._doubted(codes, j, agree):
                    best[i] = max(best.get(i, (0.0, 0, "")), (score, j, value))
            for i, (score, j, value) in best.items():
                self._mend(i, j, value, score)
            if not best:
                break

    def _doubted(self, codes: npt.NDArray[np.int64], j: int, agree: float) -> Iterator[tuple[int, float, str]]:
        """Yield cells of a column that the rest of their row contradicts, and note those that it confirms."""
        predicted = predict_column(codes, j)
        texts = dict(zip(codes[:, j].tolist(), self._now[j], strict=True))
        right = predicted.value == codes[:, j]
        mended = [i for i, k in self._found if k == j]
        unchanged = right.copy()
        unchanged[mended] = False  # what was mended never speaks for the prediction that mended it
        trusted = predicted.margin >= trusted_margin(predicted.margin, unchanged, agree)
        trusted &= predicted.support >= min(_LEAST_SUPPORT, codes.shape[1] - 1)
        self._confirmed.update((int(i), j) for i in np.flatnonzero(trusted & right))
        for i in np.flatnonzero(trusted & ~right).tolist():
            value = texts[int(predicted.value[i])]
            before = self._found.get((i, j))
            may_be_mended = before[0] is None if before else self._now[j][i] is not None
            if value is not None and may_be_mended and predicted.above_own[i] >= _LEAST_SCORE:
                yield i, float(predicted.above_own[i]), value

    def _mend(self, i: int, j: int, value: str, score: float) -> None:
        _, reason, _ = self._found.get((i, j), (None, "the rest of its row", score))
        self._found[i, j] = (value, reason, score)
        self._now[j][i] = value

    def by_looks(self) -> None:
        """Compare cells with what is usual in their column."""
        for j, column in enumerate(self._columns):
            counts = Counter(value for value in column if value)
            spelt = formats.misspelt_words(counts) | formats.misspelt(counts)
            odd = formats.odd_shapes(counts)
            for i, value in enumerate(column):
                if value is None or (i, j) in self._confirmed:
                    continue
                if value in spelt and not self._beside(i, j, value, spelt[value]):
                    self._add(i, j, spelt[value], "its spelling")
                elif value in odd:
                    self._add(i, j, None, "its shape")

    def _beside(self, i: int, j: int, value: str, repair: str) -> bool:
        """Say whether every word that the repair would take away also stands in another, undoubted cell of the row."""
        lost = set(formats.words(value)) - set(formats.words(repair))
        others = (self._columns[k][i] for k in range(len(self._names)) if k != j and (i, k) not in self._found)
        return bool(lost) and lost <= {word for other in others if other for word in formats.words(other)}

    def table(self) -> pa.Table:
        rows = [
            (int(self._rows[i]), self._names[j], self._columns[j][i], repair, reason, score)
            for (i, j), (repair, reason, score) in sorted(self._found.items())
        ]
        columns = list(zip(*rows, strict=True)) or [()] * len(CELLS)
        return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, CELLS, strict=True)], CELLS)


def trusted_margin(margin: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], agree: float) -> float:
    """Return the least margin from which on predictions agree with at least a share of the cells; infinity if none.

    At least 20 cells (or all, if there are fewer) must lie above it.
    """
    order = np.argsort(-margin, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(margin[order][1:] != margin[order][:-1], [True])  # a margin counts with all its ties
    known = (margin[order] > 0) & last & (np.arange(1, len(order) + 1) >= min(_LEAST_CELLS, len(order)))
    good = np.flatnonzero((shares >= agree) & known)
    return float(margin[order][good[-1]]) if len(good) else float("inf")


def _satisfying(value: str | None, constraint: RowConstraint) -> str | None:
    """Return the longest part of a value that satisfies its constraint, or None."""
    if value is None:
        return None
    if isinstance(constraint, OfType):
        if constraint.type.split("(")[0].lower() not in ("double", "float", "real", "decimal", "integer", "bigint"):
            return None
        return max(_NUMBER.findall(value), key=len, default=None)
    if isinstance(constraint, Matches):
        parts = [found[0] for text in (value, value.lower(), value.upper()) for found in _parts(constraint, text)]
        return max(parts, key=len, default=None)
    if isinstance(constraint, OneOf):
        return next((str(one) for one in constraint.values if str(one).lower() == value.strip().lower()), None)
    return None


def _parts(constraint: Matches, text: str) -> list[re.Match[str]]:
    return [found for found in re.finditer(constraint.pattern, text) if found[0]]
