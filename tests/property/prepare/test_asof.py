"""An as-of join equals the brute-force answer, late corrections included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.prepare.asof import AsOf, join_asof, join_asof_reference
from stepwell.prepare.asof_memory import newest_known

times = st.one_of(st.none(), st.integers(-4, 12))
queries = st.lists(st.tuples(st.integers(0, 2) | st.none(), times), max_size=12)
features = st.lists(st.tuples(st.integers(0, 2) | st.none(), times, times), max_size=16)


@given(queries, features, st.booleans(), st.sampled_from([None, 0, 3]))
def test_the_answer_is_the_newest_row_that_had_happened_and_arrived(asked, rows, with_known, tolerance) -> None:
    left = table(asked, ["user", "time"])
    right = table(rows, ["user", "time", "known"])
    on = AsOf("user", "time", "known" if with_known else None, tolerance=tolerance)
    expected = join_asof_reference(left, right, on)
    in_memory, streamed = join_asof(left, right, on), join_asof(left.to_reader(), right.to_reader(), on)
    assert in_memory.schema == streamed.schema
    for way in (in_memory, streamed):
        found = way.read_all().sort_by("_row")
        assert found["_row"].to_pylist() == list(range(len(asked)))
        assert found["_row_right"].to_pylist() == [None if at < 0 else at for at in expected]
        assert found["time_right"].to_pylist() == [None if at < 0 else rows[at][1] for at in expected]


def table(rows: list[tuple[int | None, ...]], names: list[str]) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], pa.int64()) for i in range(len(names))]
    return pa.table([*columns, pa.array(np.arange(len(rows)))], [*names, "_row"])


KINDS = {
    "seconds": (pa.timestamp("s"), 1),
    "days": (pa.date32(), 1),
    "doubles": (pa.float64(), -0.5),
    "small": (pa.int8(), 1),
}
KEYS = {"text": pa.string(), "coded": pa.dictionary(pa.int32(), pa.string()), "whole": pa.int32()}


@settings(max_examples=40)
@given(queries, features, st.sampled_from(list(KINDS)), st.sampled_from(list(KEYS)), st.sampled_from(list(KEYS)))
def test_in_memory_the_answers_of_all_types_are_those_of_the_streamed_join(asked, rows, kind, first, second) -> None:
    left, right = (retyped(side, KINDS[kind], KEYS[first], KEYS[second]) for side in (asked, rows))
    on = AsOf(["city", "user"], "time", "known", columns=["_row"])
    assert newest_known(left, right, on.keys, "time", "time", "known", "_row") is not None
    ways = [join_asof(left, right, on), join_asof(left.to_reader(), right.to_reader(), on)]
    in_memory, streamed = (way.read_all().sort_by("_row")["_row_right"].to_pylist() for way in ways)
    assert in_memory == streamed


def retyped(
    rows: list[tuple[int | None, ...]], time: tuple[pa.DataType, float], city: pa.DataType, user: pa.DataType
) -> pa.Table:
    """Return rows with the key in two columns of these types, and times of that type, negative ones and -0 too."""
    keys = [row[0] for row in rows]
    columns = {"city": _column([key and key // 2 for key in keys], city), "user": _column(keys, user)}
    type, step = time
    for place, name in enumerate(("time", "known"), 1):
        values = [row[place] if len(row) > place else None for row in rows]
        columns[name] = pa.array([None if v is None else v * step if step != 1 else v for v in values], type)
    return pa.table({**columns, "_row": np.arange(len(rows))})


def _column(values: list[int | None], type: pa.DataType) -> pa.Array:
    if pa.types.is_integer(type):
        return pa.array(values, type)
    return pa.array([None if value is None else f"k{value}" for value in values], pa.string()).cast(type)
