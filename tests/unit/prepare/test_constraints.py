"""Constraints: each says what it must, missing values violate `NotNull` alone, bad input is refused."""

import numpy as np
import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, InvalidValueError, UnknownNameError
from stepwell.prepare.clean.constraints import (
    Between,
    Check,
    Determines,
    ForeignKey,
    Matches,
    NoDrift,
    NotNull,
    OfType,
    OneOf,
    Unique,
)
from stepwell.prepare.clean.drift import index_of_counts
from stepwell.prepare.clean.scan import check


def table(**columns):
    size = len(next(iter(columns.values())))
    return pa.table({"_row": np.arange(size) * 10, **columns})


def found(checked):
    return [(row["_row"], row["constraint"], row["value"]) for row in checked.violations.to_pylist()]


def test_row_constraints_list_each_violation_with_its_row_and_value():
    orders = table(price=[5.0, -1.0, None, float("nan")], state=["new", "old", None, "new"], code=["a1", "", "b", None])
    rules = [
        NotNull("price"),
        Between("price", 0, 10),
        OneOf("state", ("new", "sent")),
        Matches("code", "[a-z][0-9]"),
        Check("price < 4", ("price", "state")),
    ]
    assert found(check(orders, rules)) == [
        (0, "price < 4", "5.0, new"),
        (10, "code matches [a-z][0-9]", ""),
        (10, "price between 0 and 10", "-1.0"),
        (10, "state in (new, sent)", "old"),
        (20, "code matches [a-z][0-9]", "b"),
        (20, "price not null", None),
        (30, "price < 4", "nan, new"),
        (30, "price between 0 and 10", "nan"),
    ]


def test_text_must_read_as_its_type():
    checked = check(table(day=["2024-02-29", "2023-02-29", None, "x"]), [OfType("day", "date")])
    assert [row for row, _, _ in found(checked)] == [10, 30]


def test_missing_values_violate_nothing_but_not_null():
    nulls = pa.table({"_row": [0, 1], "a": pa.array([None, None], pa.string()), "b": pa.array([1, 2])})
    others = {"t": pa.table({"a": ["x"]})}
    rules = [OfType("a", "integer"), OneOf("a", ("x",)), Matches("a", "x"), Unique(("a",)), ForeignKey(("a",), "t")]
    assert check(nulls, [*rules, Determines(("a",), "b"), Determines(("b",), "a")], others=others).holds


def test_a_key_must_be_unique_in_all_its_columns_together():
    pairs = table(a=[1, 1, 2, 2], b=["x", "y", "x", "x"])
    assert found(check(pairs, [Unique(("a", "b"))])) == [(20, "unique a, b", "2, x"), (30, "unique a, b", "2, x")]
    assert len(found(check(pairs, [Unique(("a",))]))) == 4


def test_a_dependency_is_violated_by_the_minority_and_by_all_in_a_tie():
    places = table(zip=["1", "1", "1", "2", "2", "3"], city=["A", "A", "B", "C", "D", "E"])
    assert [row for row, _, _ in found(check(places, [Determines(("zip",), "city")]))] == [20, 30, 40]


def test_a_foreign_key_must_stand_in_the_other_table():
    others = {"customers": pa.table({"id": [1, 2]})}
    checked = check(table(customer=[1, 3, None, 2]), [ForeignKey(("customer",), "customers", ("id",))], others=others)
    assert found(checked) == [(10, "customer in customers", "3")]


def test_drift_is_zero_for_the_same_table_and_grows_with_the_shift():
    rng = np.random.default_rng(0)
    before = table(x=rng.normal(size=4000), kind=rng.choice(["a", "b"], 4000))
    others = {"before": before}
    same = check(before, [NoDrift("x", "before"), NoDrift("kind", "before")], others=others)
    assert same.holds
    assert same.summary.column("drift").to_pylist() == [0.0, 0.0]
    moved = table(x=rng.normal(0.8, size=4000), kind=["c"] * 4000)
    checked = check(moved, [NoDrift("x", "before"), NoDrift("kind", "before")], others=others)
    assert [row["holds"] for row in checked.summary.to_pylist()] == [False, False]
    assert "NO  x as in before" in str(checked)


def test_the_stability_index_is_the_known_one():
    p, q = np.array([30.5, 10.5]) / 41, np.array([20.5, 20.5]) / 41
    assert index_of_counts(np.array([30.0, 10.0]), np.array([20.0, 20.0])) == pytest.approx(
        (p[0] - q[0]) * np.log(p[0] / q[0]) + (p[1] - q[1]) * np.log(p[1] / q[1])
    )


def test_the_summary_names_every_constraint_in_order():
    checked = check(table(a=[1, None]), [Between("a", 0), NotNull("a")])
    assert checked.summary.to_pylist() == [
        {"constraint": "a >= 0", "holds": True, "violations": 0, "drift": None},
        {"constraint": "a not null", "holds": False, "violations": 1, "drift": None},
    ]
    assert not checked.holds


def test_bad_constraints_are_refused_with_a_way_out():
    with pytest.raises(InvalidValueError, match="not both None"):
        Between("a")
    with pytest.raises(InvalidValueError, match="DuckDB type"):
        OfType("a", "int); drop table t; --")
    with pytest.raises(UnknownNameError, match="Did you mean 'price'"):
        check(table(price=[1.0]), [NotNull("prise")])
    with pytest.raises(InvalidValueError, match="distinct names"):
        check(table(a=[1]), [NotNull("a"), NotNull("a")])
    with pytest.raises(DataError, match="cannot be checked"):
        check(table(a=[1]), [Check("a <", ("a",))])


def test_a_view_of_the_callers_connection_is_checked_and_left_as_it_was(tmp_path):
    import duckdb
    import pyarrow.parquet as pq

    pq.write_table(table(a=[1, 1, 2]), tmp_path / "a.parquet")
    connection = duckdb.connect()
    connection.execute(f"create view a as from read_parquet('{tmp_path / 'a.parquet'}')")
    before = connection.sql("show tables").fetchall()
    assert len(check("a", [Unique(("a",)), NotNull("a")], connection=connection).violations) == 2
    assert connection.sql("show tables").fetchall() == before


def test_many_groups_are_checked_like_few():
    size = 40_000
    keys = np.arange(size) // 2
    values = keys.astype(str)
    values[77], values[31_000] = "x", "y"
    many = pa.table({"_row": np.arange(size), "key": keys, "value": values})
    few = many.slice(0, 100)
    assert [row for row, _, _ in found(check(many, [Determines(("key",), "value")]))] == [76, 77, 31_000, 31_001]
    assert [row for row, _, _ in found(check(few, [Determines(("key",), "value")]))] == [76, 77]
