"""Finds steps that look further than they declare, by hiding rows from them and comparing what they say of the others.

A step that sees one row must give the same for a row whatever stands beside it; a step that sees the past must give the
same for a row when everything later is gone. Both are tried on real rows before the step is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stepwell.core.errors import DataError, LeakError
from stepwell.prepare.compare import first_difference
from stepwell.prepare.step import INPUT, ROW, Fitted, Step

ROW_SAMPLE, PAST_SAMPLE = 128, 4096


def check_row_by_row(name: str, table: pa.Table, apply: Callable[[pa.Table], pa.Table]) -> None:
    """Apply a step to some rows together and apart.

    Args:
        name: The step.
        table: Rows to try it on, of which the first 128 are taken.
        apply: From some rows to what goes on of them.

    Raises:
        LeakError: If the results differ: the step looks at other rows, or is not deterministic.

    Cost:
        The step on twice 128 rows.
    """
    sample = table.slice(0, ROW_SAMPLE)
    if len(sample) < 2:
        return
    whole = apply(sample)
    middle = len(sample) // 2
    cuts = [sample.slice(0, 1), sample.slice(1, middle - 1), sample.slice(middle)]
    parts = [apply(cut) for cut in cuts if len(cut)]
    found = first_difference(whole, pa.concat_tables(parts, promote_options="permissive"))
    if found is not None:
        raise LeakError(
            f"Step {name} says it sees one row at a time, but row {found[0]} gets another {found[1]!r} when other rows "
            f"stand beside it (or it is not deterministic). Allowed: a result that depends on its own row. To mend it: "
            f"learn from the training rows in a fitted step, or declare sees='past' or 'all'."
        )


def check_past(step: Step, table: pa.Table, others: Mapping[str, pa.Table], fitted: Fitted, time: str) -> None:
    """Apply a step to some rows, and again without those after three moments.

    Raises:
        DataError: If no column says when a row was known.
        LeakError: If a row's result changes when later rows are gone.

    Cost:
        The step on four times 4,096 rows.
    """
    if time not in table.schema.names:
        fix = "declare it with .split(time=...), or sees='all' if rows have no time"
        raise DataError(f"step {step.name}", "sees the past, but no column says when a row was known", "a time", fix)
    sample = table.slice(0, PAST_SAMPLE)
    whole = step.apply({INPUT: sample, **others}, fitted)
    times = sample.column(time)
    moments = np.sort(times.to_numpy())
    for share in (0.25, 0.5, 0.75):
        moment = pa.scalar(moments[int(share * (len(moments) - 1))]).cast(times.type)
        early = sample.filter(pc.less_equal(times, moment))
        found = first_difference(_of(whole.out, early), _of(step.apply({INPUT: early, **others}, fitted).out, early))
        if found is not None:
            raise LeakError(
                f"Step {step.name} says it sees the past, but row {found[0]} gets another {found[1]!r} when rows after "
                f"{moment.as_py()} are gone. Allowed: a result that depends on rows not later than itself. To mend it: "
                f"compute it from earlier rows, or declare sees='all'."
            )


def _of(out: pa.Table, early: pa.Table) -> pa.Table:
    return out.filter(pc.is_in(out.column(ROW), early.column(ROW)))
