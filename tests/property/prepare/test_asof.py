"""An as-of join equals the brute-force answer, late corrections included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from stepwell.prepare.asof import AsOf, join_asof, join_asof_reference

times = st.one_of(st.none(), st.integers(-4, 12))
queries = st.lists(st.tuples(st.integers(0, 2) | st.none(), times), max_size=12)
features = st.lists(st.tuples(st.integers(0, 2) | st.none(), times, times), max_size=16)


@given(queries, features, st.booleans(), st.sampled_from([None, 0, 3]))
def test_the_answer_is_the_newest_row_that_had_happened_and_arrived(asked, rows, with_known, tolerance) -> None:
    left = table(asked, ["user", "time"])
    right = table(rows, ["user", "time", "known"])
    on = AsOf("user", "time", "known" if with_known else None, tolerance=tolerance)
    found = join_asof(left, right, on).read_all().sort_by("_row")
    expected = join_asof_reference(left, right, on)
    assert found["_row"].to_pylist() == list(range(len(asked)))
    assert found["_row_right"].to_pylist() == [None if at < 0 else at for at in expected]
    assert found["time_right"].to_pylist() == [None if at < 0 else rows[at][1] for at in expected]


def table(rows: list[tuple[int | None, ...]], names: list[str]) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], pa.int64()) for i in range(len(names))]
    return pa.table([*columns, pa.array(np.arange(len(rows)))], [*names, "_row"])
