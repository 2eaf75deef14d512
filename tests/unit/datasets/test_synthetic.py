"""The generated stream has the habits it promises, and is the same everywhere."""

import numpy as np
import pytest

from stepwell.core.errors import InvalidValueError
from stepwell.datasets.synthetic import Habits, habits, uniform

SMALL = Habits(users=60, items=40, events=2_000, days=20, bursts=6, seed=3)


def test_the_same_settings_give_the_same_stream() -> None:
    assert habits(SMALL).equals(habits(SMALL))


def test_another_seed_gives_another_stream() -> None:
    assert not habits(SMALL).equals(habits(Habits(users=60, items=40, events=2_000, days=20, bursts=6, seed=4)))


def test_times_ascend_and_ids_are_in_range() -> None:
    table = habits(SMALL)
    assert (np.diff(table["time"].to_numpy()) >= 0).all()
    assert 0 <= table["user"].to_numpy().min() and table["user"].to_numpy().max() < 60
    assert 0 <= table["item"].to_numpy().min() and table["item"].to_numpy().max() < 40
    assert table.num_rows == 2_000


def test_users_return_to_recent_items_more_often_than_chance() -> None:
    table = habits(SMALL)
    last: dict[int, int] = {}
    hits = 0
    for user, item in zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True):
        hits += last.get(user) == item
        last[user] = item
    assert hits / table.num_rows > 3 / 40


def test_no_habit_and_no_burst_gives_no_labels() -> None:
    table = habits(Habits(users=20, items=10, events=300, bursts=0, repeat=0.0, features=0))
    assert table["label"].to_numpy().sum() == 0
    assert "features" not in table.column_names


def test_rows_do_not_depend_on_the_block_they_are_generated_in() -> None:
    whole = uniform(100, 50)
    part = uniform(30, 50, begin=40)
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[40:70], b)


@pytest.mark.parametrize("name, value", [("users", 0), ("repeat", 1.5), ("bursts", -1)])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidValueError, match=name):
        Habits(**{name: value})
