"""Searchers: who goes on is who was best, whatever the order of arrival."""

import math

import numpy as np
import pytest

from stepwell.core.errors import InvalidValueError
from stepwell.select.halving import ASHA, Hyperband, SuccessiveHalving, rungs
from stepwell.select.orders import Add, End, Go, Told
from stepwell.select.searchers import PBT, Grid, Random
from stepwell.select.space import Space, Uniform

SPACE = Space({"x": Uniform(0, 1)})


def play(searcher, value, shuffle=None, failing=(), room=10**9):
    """Run a searcher against `value(params, epoch)`; return params, epochs reached and how each ended."""
    params, reached, until, ended, parents = {}, {}, {}, {}, {}
    waiting = []
    while True:
        while True:
            name = f"c{len(params)}"
            order = searcher.ask(name, room=len(waiting) < room)
            if order is None:
                break
            if isinstance(order, Add):
                params[name], until[name], reached[name] = order.params, order.until, reached.get(order.parent, 0)
                parents[name] = order.parent
                waiting.append(name)
            elif isinstance(order, Go):
                assert order.config not in ended
                assert reached[order.config] < order.until
                until[order.config] = order.until
                waiting.append(order.config)
            else:
                assert isinstance(order, End)
                ended[order.config] = order.why
        if not waiting:
            return params, reached, ended, parents
        place = 0 if shuffle is None else int(shuffle.integers(len(waiting)))
        name = waiting.pop(place)
        reached[name] = until[name]
        number = int(name[1:])
        got = -math.inf if number in failing else value(params[name], reached[name])
        if searcher.tell(Told(name, reached[name], got)) == "finish" or number in failing:
            ended.setdefault(name, "finished")


def test_grid_and_random_train_everything_to_the_end():
    for searcher, count in [
        (Grid(Space({"a": [1, 2], "b": [1, 2, 3]}), 4), 6),
        (Random(SPACE, 4, configs=9), 9),
    ]:
        params, reached, _, _ = play(searcher, lambda p, e: 0.0)
        assert len(params) == count
        assert set(reached.values()) == {4}


def test_rungs_grow_by_eta_and_end_at_the_last_epoch():
    assert rungs(9, 1, 3) == [1, 3, 9]
    assert rungs(10, 1, 3) == [1, 3, 9, 10]
    assert rungs(1, 1, 3) == [1]
    with pytest.raises(InvalidValueError):
        rungs(4, 5, 3)


@pytest.mark.parametrize("seed", range(5))
def test_halving_promotes_the_best_in_any_order_of_arrival(seed):
    searcher = SuccessiveHalving(SPACE, 9, configs=27)
    params, reached, _, _ = play(searcher, lambda p, e: p["x"], np.random.default_rng(seed))
    ranked = sorted(params, key=lambda name: -params[name]["x"])
    assert [reached[name] for name in ranked] == [9] * 3 + [3] * 6 + [1] * 18


def test_halving_goes_on_without_those_that_failed():
    searcher = SuccessiveHalving(SPACE, 9, configs=27)
    params, reached, _, _ = play(searcher, lambda p, e: p["x"], failing=range(20))
    assert max(reached.values()) == 9
    assert {name for name in params if reached[name] > 1} <= {f"c{n}" for n in range(20, 27)}


def test_asha_promotes_only_the_top_share_of_each_rung_as_seen_then():
    searcher = ASHA(SPACE, 9, configs=54, eta=3)
    params, reached, _, _ = play(searcher, lambda p, e: p["x"], np.random.default_rng(0), room=4)
    at = {until: [name for name in params if reached[name] >= until] for until in (1, 3, 9)}
    assert len(at[1]) == 54
    assert 54 // 3 <= len(at[3]) <= 2 * 54 // 3
    best = sorted(params, key=lambda name: -params[name]["x"])[: 54 // 3]
    assert set(best) <= set(at[3]), "whoever is among the best third in the end is promoted"
    assert best[0] in at[9]


def test_hyperband_has_the_brackets_of_the_paper():
    searcher = Hyperband(SPACE, 81, eta=3)
    assert searcher.brackets == ((81, 1), (34, 3), (15, 9), (8, 27), (5, 81))
    params, reached, _, _ = play(searcher, lambda p, e: p["x"])
    assert len(params) == 143
    best = max(range(81), key=lambda n: params[f"c{n}"]["x"])
    assert reached[f"c{best}"] == 81


@pytest.mark.parametrize("seed", range(3))
def test_a_population_replaces_its_worst_by_changed_copies_of_its_best(seed):
    runs = [
        play(PBT(SPACE, 6, configs=8, interval=2), lambda p, e: p["x"], np.random.default_rng(order))
        for order in (seed, seed + 10)
    ]
    params, reached, ended, parents = runs[0]
    assert runs[0] == runs[1], "the order of arrival does not matter"
    copies = [name for name in params if parents[name]]
    assert len(copies) == 2 * 2
    first = sorted((f"c{n}" for n in range(8)), key=lambda name: -params[name]["x"])
    assert {parents["c8"], parents["c9"]} == set(first[:2])
    assert all(ended[name].startswith("replaced by a copy of") for name in first[-2:])
    assert sum(value == 6 for value in reached.values()) == 8


def test_a_population_outlives_its_failed_members():
    _, reached, _, _ = play(PBT(SPACE, 4, configs=6), lambda p, e: p["x"], failing=(0, 1, 2))
    assert sum(value == 4 for value in reached.values()) >= 6
