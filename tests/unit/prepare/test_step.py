"""No row goes unaccounted: the conservation law that every step is held to."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError
from stepwell.prepare.step import PARENTS, Rows, check_rows, ids_of, keep, parents_table

NONE = np.empty(0, np.int64)


def ids(*values):
    return np.array(values, np.int64)


def test_rows_may_pass_be_quarantined_be_cut_and_be_merged():
    assert check_rows("s", ids(1, 2, 3), ids(1, 2, 3), NONE) == 0
    assert check_rows("s", ids(1, 2, 3), ids(3, 1), ids(2)) == 0
    assert check_rows("s", ids(1, 2, 3), ids(3, 1), ids(2, 2)) == 0
    assert check_rows("s", ids(1, 2), ids(10, 11, 2), NONE, parents_table(ids(10, 11), ids(1, 1))) == 2
    assert check_rows("s", ids(1, 2, 3), ids(12, 3), NONE, parents_table(ids(12, 12), ids(1, 2))) == 1


def test_a_row_of_another_table_may_join_a_row_that_keeps_its_id():
    pairs = pa.concat_tables([parents_table(ids(1), ids(1)), parents_table(ids(1), ids(77), "features")])
    assert check_rows("s", ids(1, 2), ids(1, 2), NONE, pairs) == 0


@pytest.mark.parametrize(
    ("given", "out", "gone", "parents", "words"),
    [
        (ids(1, 2), ids(1), NONE, None, "lost row 2"),
        (ids(1, 2), ids(1, 1, 2), NONE, None, "gave the id 1 twice"),
        (ids(1, 2), ids(1, 2, 3), NONE, None, "gave row 3, which did not enter"),
        (ids(1, 2), ids(1, 2), ids(2), None, "both gave and quarantined row 2"),
        (ids(1, 2), ids(1, 2), ids(9), None, "quarantined row 9, which did not enter"),
        (ids(1, 2), ids(1, 5), NONE, (ids(5), ids(9)), "names row 9 as a parent"),
        (ids(1, 2), ids(1, 2), NONE, (ids(5), ids(1)), "lists parents of row 5"),
    ],
)
def test_a_step_that_breaks_the_law_is_refused(given, out, gone, parents, words):
    table = None if parents is None else parents_table(*parents)
    with pytest.raises(DataError, match=words):
        check_rows("s", given, out, gone, table)


def test_a_table_without_whole_ids_is_refused():
    with pytest.raises(DataError, match="without `_row`"):
        ids_of("s", pa.table({"x": [1]}))
    with pytest.raises(DataError, match="int32"):
        ids_of("s", pa.table({"_row": pa.array([1], pa.int32())}))
    with pytest.raises(DataError, match="1 nulls"):
        ids_of("s", pa.table({"_row": pa.array([None], pa.int64())}))


def test_keep_puts_the_others_into_quarantine():
    table = pa.table({"_row": ids(1, 2, 3), "x": [5, 6, 7]})
    rows = keep(table, np.array([True, False, True]), "bad")
    assert isinstance(rows, Rows)
    assert rows.out.column("x").to_pylist() == [5, 7]
    assert rows.quarantine is not None
    assert rows.quarantine.to_pylist() == [{"_row": 2, "reason": "bad", "x": 6}]
    assert parents_table(ids(1), ids(2)).schema == PARENTS
