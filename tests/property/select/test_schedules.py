"""Every schedule is right, dense and within twice the bound, on any instance."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.select.hopper import LatinRectangle, LongestRemaining, RandomSchedule, place_evenly, visiting_order
from stepwell.select.simulate import Visit, check_schedule, lower_bound, makespan, simulate

SCHEDULES = [LongestRemaining, LatinRectangle, RandomSchedule]


@st.composite
def instances(draw):
    configs, partitions = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    workers = draw(st.integers(1, partitions))
    cells = draw(st.lists(st.integers(1, 20), min_size=configs * partitions, max_size=configs * partitions))
    return np.array(cells, float).reshape(configs, partitions), place_evenly(partitions, workers)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", ["seeded", "free"])
@given(instance=instances(), seed=st.integers(0, 99))
def test_a_schedule_keeps_every_rule(schedule, order, instance, seed):
    times, placement = instance
    visits = simulate(times, placement, schedule(), order, seed)
    orders = [visiting_order(seed, 0, i, times.shape[1]) for i in range(len(times))] if order == "seeded" else None
    assert check_schedule(visits, times, placement, orders) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(instance=instances())
def test_a_free_schedule_is_at_most_twice_the_bound(schedule, instance):
    times, placement = instance
    visits = simulate(times, placement, schedule(), "free")
    assert lower_bound(times, placement) <= makespan(visits) + 1e-9
    assert makespan(visits) <= 2 * lower_bound(times, placement) + 1e-9


@given(instance=instances(), seed=st.integers(0, 99))
def test_failing_units_change_no_order_of_visits(instance, seed):
    times, placement = instance
    visits = simulate(times, placement, seed=seed, failing=0.3)
    orders = [visiting_order(seed, 0, i, times.shape[1]) for i in range(len(times))]
    assert check_schedule(visits, times, placement, orders) == []


@pytest.mark.parametrize(("schedule", "order"), [(LongestRemaining, "seeded"), (LatinRectangle, "free")])
@pytest.mark.parametrize("shape", [(8, 8), (16, 8), (32, 8), (4, 2)])
def test_equal_units_are_scheduled_without_a_gap(order, schedule, shape):
    times = np.ones(shape)
    visits = simulate(times, schedule=schedule(), order=order)
    assert makespan(visits) == lower_bound(times, place_evenly(shape[1], shape[1])) == shape[0]


def optimum(times):
    """Return the shortest makespan over all orders of all units, by trying them."""
    configs, partitions = times.shape
    best = np.inf
    for order in permutations(product(range(configs), range(partitions))):
        free_config, free_worker = [0.0] * configs, [0.0] * partitions
        for i, j in order:
            free_config[i] = free_worker[j] = max(free_config[i], free_worker[j]) + times[i, j]
        best = min(best, max(free_config))
    return best


@settings(max_examples=8)
@given(cells=st.lists(st.integers(1, 9), min_size=6, max_size=6))
def test_no_schedule_beats_the_optimum_nor_the_optimum_its_bound(cells):
    times = np.array(cells, float).reshape(3, 2)
    best = optimum(times)
    assert lower_bound(times, [0, 1]) <= best
    for schedule in SCHEDULES:
        assert best <= makespan(simulate(times, schedule=schedule(), order="free")) <= 2 * best


def test_longest_remaining_first_is_near_the_bound_for_unequal_models():
    ratios = []
    for seed in range(30):
        cost = np.random.default_rng(seed).lognormal(0, 0.8, 32)
        times = np.repeat(cost[:, None], 8, 1)
        ratios.append(makespan(simulate(times, order="free", seed=seed)) / lower_bound(times, range(8)))
    assert np.mean(ratios) <= 1.03


def test_the_checker_finds_each_kind_of_fault():
    times, placement = np.ones((2, 2)), [0, 1]
    good = simulate(times, placement, order="free")
    assert check_schedule(good, times, placement) == []
    assert any("once" in text for text in check_schedule(good[1:], times, placement))
    moved = [Visit(1 - v.worker, v.config, v.partition, v.begin, v.end) for v in good]
    assert any("is not where" in text for text in check_schedule(moved, times, placement))
    late = [Visit(v.worker, v.config, v.partition, v.begin + 1, v.end + 1) for v in good]
    assert any("waited for each other" in text for text in check_schedule(late, times, placement))
    at_once = [Visit(v.worker, v.config, v.partition, 0.0, 1.0) for v in good]
    assert any("two things at once" in text for text in check_schedule(at_once, times, placement))
    long = [Visit(v.worker, v.config, v.partition, v.begin * 2, v.end * 2) for v in good]
    assert any("took" in text for text in check_schedule(long, times, placement))
    assert any("visited" in text for text in check_schedule(good, times, placement, [[0, 1], [0, 1]]))
