"""Names to objects."""

import pytest

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.core.registry import Registry


@pytest.fixture
def shapes():
    registry = Registry[type]("test shape")
    registry.register("square")(int)
    registry.register("circle")(float)
    return registry


def test_registered_names_are_found_listed_and_counted(shapes):
    assert shapes["square"] is int
    assert list(shapes) == ["circle", "square"]
    assert len(shapes) == 2
    assert "square" in shapes and "cube" not in shapes


def test_an_unknown_name_suggests_the_nearest(shapes):
    with pytest.raises(UnknownNameError, match=r"No test shape named 'sqare'. Did you mean 'square'\?"):
        shapes["sqare"]


def test_a_name_far_from_all_gets_the_list_without_a_guess(shapes):
    with pytest.raises(UnknownNameError, match=r"No test shape named 'xyz'\. Known: circle, square\."):
        shapes["xyz"]


def test_a_taken_name_is_refused_and_the_same_entry_is_not(shapes):
    shapes.register("square")(int)
    with pytest.raises(InvalidValueError, match="a name not taken yet, got 'square'"):
        shapes.register("square")(str)
