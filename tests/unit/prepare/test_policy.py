"""Policies: every violating row is repaired on record or in quarantine, never lost."""

import pyarrow as pa
import pytest

from stepwell.core.errors import DataError, UnknownNameError
from stepwell.prepare.clean.constraints import Between, NotNull, OneOf
from stepwell.prepare.clean.policy import Apply, Clip, Drop, Fill, Missing, quarantine, repair
from stepwell.prepare.clean.scan import check

ORDERS = pa.table(
    {
        "_row": [5, 3, 9, 7, 1],
        "price": [5.0, -1.0, None, 90.0, 7.0],
        "state": ["new", "new", "old", None, "sent"],
        "shop": ["a", "a", "a", "b", "b"],
    }
)
RULES = [Between("price", 0, 50), NotNull("price"), OneOf("state", ("new", "sent"))]
FOUND = check(ORDERS, RULES).violations


def test_quarantined_rows_keep_their_columns_and_name_all_their_reasons():
    out, gone = quarantine(ORDERS, FOUND)
    assert out.column("_row").to_pylist() == [5, 1]
    assert gone.select(["_row", "reason"]).to_pylist() == [
        {"_row": 3, "reason": "price between 0 and 50"},
        {"_row": 9, "reason": "price not null; state in (new, sent)"},
        {"_row": 7, "reason": "price between 0 and 50"},
    ]
    assert gone.schema.names == ["_row", "reason", "price", "state", "shop"]


def test_repairs_are_recorded_and_what_has_none_is_quarantined():
    done = repair(ORDERS, FOUND, {"price between 0 and 50": Clip("price", 0, 50)})
    assert done.out.column("price").to_pylist() == [5.0, 0.0, 50.0, 7.0]
    assert done.quarantine.column("_row").to_pylist() == [9]
    assert [tuple(row.values()) for row in done.repairs.to_pylist()] == [
        (3, "price", "-1", "0", "price between 0 and 50"),
        (7, "price", "90", "50", "price between 0 and 50"),
    ]


def test_missing_values_get_an_indicator():
    done = repair(ORDERS, FOUND, {"price between 0 and 50": Missing("price", "no_price"), "price not null": Drop()})
    assert done.out.column("price").to_pylist() == [5.0, None, None, 7.0]
    assert done.out.column("no_price").to_pylist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("fill", "expected"),
    [(Fill("price", "median"), 6.0), (Fill("price", "median", ("shop",)), 5.0), (Fill("price", "mode"), 5.0)],
)
def test_a_fill_is_learnt_from_rows_without_a_violation(fill, expected):
    done = repair(ORDERS, FOUND, {"price not null": fill, "state in (new, sent)": Fill("state", "mode", ("shop",))})
    row = next(row for row in done.out.to_pylist() if row["_row"] == 9)
    assert row["price"] == expected
    assert row["state"] == "new"


def test_a_fill_learns_from_training_rows_alone():
    train = ORDERS.filter(pa.array([False, False, False, False, True]))
    done = repair(ORDERS, FOUND, {"price not null": Fill("price", "median")}, train=train)
    assert "9" not in done.quarantine.column("_row").to_pylist()
    assert done.repairs.to_pylist() == []
    both = {"price not null": Fill("price", "median"), "state in (new, sent)": Missing("state")}
    assert repair(ORDERS, FOUND, both, train=train).repairs.column("after").to_pylist() == ["7", None]


def test_a_function_mends_the_rows_it_is_given():
    done = repair(ORDERS, FOUND, {"price between 0 and 50": Apply("price", lambda rows: pa.array([1.0] * len(rows)))})
    assert done.out.column("price").to_pylist() == [5.0, 1.0, 1.0, 7.0]
    with pytest.raises(DataError, match="returned 1 values for 2 rows"):
        repair(ORDERS, FOUND, {"price between 0 and 50": Apply("price", lambda rows: pa.array([1.0]))})
    with pytest.raises(UnknownNameError, match="prise"):
        repair(ORDERS, FOUND, {"price not null": Clip("prise", 0)})
