"""Dependencies: found up to a share of errors, with the published error measure."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.clean.constraints import Determines
from stepwell.prepare.clean.dependencies import constraints_of, dependencies, g3_error, g3_error_reference


def test_a_dependency_with_few_errors_is_found_and_chance_is_not():
    zips = [str(i % 5) for i in range(100)]
    cities = [f"city {i % 5 // 2}" for i in range(100)]
    cities[7] = "city 9"
    coin = np.random.default_rng(0).integers(0, 2, 100).astype(str).tolist()
    table = pa.table({"_row": np.arange(100), "zip": zips, "city": cities, "coin": coin, "same": ["x"] * 100})
    found = dependencies(table)
    assert found.to_pylist() == [{"columns": ["zip"], "column": "city", "error": pytest.approx(0.01), "support": 100}]
    assert constraints_of(found) == [Determines(("zip",), "city")]
    assert len(dependencies(table, most_error=0.005)) == 0


def test_two_columns_may_determine_together_and_the_smaller_set_is_enough():
    a, b = np.arange(60) % 3, np.arange(60) // 3 % 4
    table = pa.table({"_row": np.arange(60), "a": a, "b": b, "both": a * 4 + b, "of_a": a % 2})
    found = {(tuple(row["columns"]), row["column"]) for row in dependencies(table, width=2, most_error=0).to_pylist()}
    assert (("a", "b"), "both") in found
    assert (("a",), "of_a") in found
    assert (("a", "b"), "of_a") not in found


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2)), max_size=12))
def test_the_error_is_that_of_the_reference(rows):
    group, value = (np.array([row[j] for row in rows], np.int64) for j in (0, 1))
    assert g3_error(group, value) == pytest.approx(g3_error_reference(group, value))


def test_shares_outside_their_range_are_refused():
    with pytest.raises(InvalidValueError, match="share below 1"):
        dependencies(pa.table({"_row": [0], "a": [1]}), most_error=1.0)
