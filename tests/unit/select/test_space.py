"""Spaces: grids have every combination once, draws are independent, conditions hold."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.select.space import Choice, Integer, Space, Uniform, When

SPACE = Space(
    {
        "kind": ["sgd", "adam"],
        "lr": Uniform(1e-5, 1.0, log=True, steps=3),
        "momentum": When("kind", ("sgd",), Uniform(0.0, 0.99, steps=2)),
        "width": Integer(4, 64, log=True, steps=2),
        "fixed": "x",
    }
)


def test_a_grid_has_every_combination_once_and_respects_conditions():
    rows = SPACE.grid()
    assert len(rows) == 3 * 2 * 2 + 3 * 2
    assert len({tuple(row.items()) for row in rows}) == len(rows)
    assert all(("momentum" in row) == (row["kind"] == "sgd") for row in rows)


def test_drawn_dimensions_are_independent():
    space = Space({name: Uniform(0, 1) for name in "abcd"})
    rows = np.array([list(space.draw(7, number).values()) for number in range(1000)], dtype=float)
    between = spearmanr(rows).statistic
    assert np.abs(between[~np.eye(4, dtype=bool)]).max() < 0.1


def test_a_draw_depends_on_seed_and_number_alone():
    assert SPACE.draw(1, 5) == SPACE.draw(1, 5)
    assert SPACE.draw(1, 5) != SPACE.draw(2, 5)


def test_a_log_range_is_drawn_evenly_in_the_logarithm():
    space = Space({"lr": Uniform(1e-4, 1.0, log=True)})
    values = np.log10([float(space.draw(0, number)["lr"]) for number in range(2000)])
    assert abs((values < -2).mean() - 0.5) < 0.05


def test_near_values_stay_in_range_and_drop_what_no_longer_applies():
    for number in range(50):
        params = SPACE.draw(0, number)
        near = SPACE.near(params, 0, number)
        assert ("momentum" in near) == (near["kind"] == "sgd")
        assert 1e-5 <= float(near["lr"]) <= 1.0
        assert 4 <= int(near["width"]) <= 64


def test_what_makes_no_space_is_refused():
    with pytest.raises(InvalidValueError, match="steps"):
        Space({"lr": Uniform(0, 1)}).grid()
    with pytest.raises(UnknownNameError, match="kind"):
        Space({"a": When("kind", ("x",), Choice((1,)))})
    with pytest.raises(InvalidValueError, match="above 0"):
        Uniform(0.0, 1.0, log=True)
    with pytest.raises(InvalidValueError):
        Choice(())
