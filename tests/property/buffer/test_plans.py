"""Plans over a known epoch: exact where the spec says exact, bounded where it says bounded, equal to the twins."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.buffer import LRU, Belady, DensityGreedy, Interval, Trace
from stepwell.buffer.belady import hit_curve, soonest, soonest_reference
from stepwell.buffer.interval import densest, densest_reference, end_counts, most_saving, saved_rows
from stepwell.buffer.planned import open_intervals
from stepwell.buffer.simulate import simulate
from stepwell.buffer.split import split_budget, split_by_volume
from stepwell.buffer.trace import next_use_reference
from stepwell.testing.oracle import most_saved

ROWS = 7


@st.composite
def traces(draw, batches=8, width=5, *, writes=False, reads=False):
    """Draw a trace with counts; with writes or refreshes if wanted."""
    epoch = draw(
        st.lists(st.lists(st.integers(0, ROWS - 1), unique=True, max_size=width), min_size=1, max_size=batches)
    )
    trace = Trace.of([np.array(batch, np.int64) for batch in epoch], ROWS, draw(st.integers(1, 9)))
    size = len(trace.ids)
    bits = st.lists(st.booleans(), min_size=size, max_size=size)
    count = np.array(draw(st.lists(st.integers(1, 5), min_size=size, max_size=size)), np.int64)
    flags = (np.array(draw(bits), np.bool_) if wanted else None for wanted in (writes, reads))
    return Trace(trace.ids, trace.indptr, ROWS, trace.row_bytes, count, *flags)


def starts(trace):
    return np.repeat(np.arange(len(trace)), np.diff(trace.indptr))


def plans(trace, capacity):
    """Yield every set of intervals that fits: the exhaustive oracle of small traces."""
    places = np.flatnonzero(trace.next_use < len(trace))
    for size in range(len(places) + 1):
        for chosen in combinations(places, size):
            keep = np.zeros(len(trace.ids), np.bool_)
            keep[list(chosen)] = True
            if open_intervals(trace, keep).max(initial=0) <= capacity:
                yield keep


@given(trace=traces(reads=True))
def test_the_next_use_is_the_next_batch_that_reads_the_row_before_it_is_made_anew(trace):
    assert np.array_equal(trace.next_use, next_use_reference(trace))


@given(trace=traces(reads=True), start=st.integers(0, 8))
def test_a_trace_from_a_later_batch_on_has_the_same_batches_and_uses(trace, start):
    start = min(start, len(trace))
    later = trace.since(start)
    assert [later.batch(i).tolist() for i in range(len(later))] == [
        trace.batch(i).tolist() for i in range(start, len(trace))
    ]
    assert np.array_equal(later.next_use, trace.next_use[trace.indptr[start] :] - start)


@given(trace=traces(reads=True), capacity=st.integers(0, ROWS + 2))
def test_the_heap_of_belady_keeps_as_much_as_sorting_all_candidates(trace, capacity):
    fast, slow = soonest(trace, capacity), soonest_reference(trace, capacity)
    assert fast.sum() == slow.sum()
    for keep in (fast, slow):
        assert open_intervals(trace, keep).max(initial=0) <= capacity


@given(trace=traces(reads=True), capacity=st.integers(0, ROWS))
def test_beladys_rule_is_the_linear_programmes_optimum(trace, capacity):
    assert simulate(Belady(), trace, capacity).hits == round(most_saved(trace, capacity), 6)


@given(trace=traces(batches=7, width=3), capacity=st.integers(0, 3))
def test_the_exhaustive_optimum_is_that_of_the_programme_and_of_belady(trace, capacity):
    places = np.flatnonzero(trace.next_use < len(trace))
    if len(places) > 10:
        trace = Trace(trace.ids[: places[10]], np.minimum(trace.indptr, places[10]), ROWS, 1, trace.count[: places[10]])
    profit = end_counts(trace)
    best, most = 0, 0
    for keep in plans(trace, capacity):
        best, most = max(best, int(keep.sum())), max(most, int(profit[keep].sum()))
    assert simulate(Belady(), trace, capacity).hits == best
    assert most_saved(trace, capacity, profit) == pytest.approx(most)
    greedy = int(profit[densest(trace, capacity, profit)].sum())
    assert greedy * max(1, len(trace) - 1) >= most  # theorem 1: at least 1/T of the optimum over T borders
    needed = int(open_intervals(trace, trace.next_use < len(trace)).max(initial=0))
    if needed:
        assert most >= profit.sum() * min(capacity, needed) / (2 * needed) - 1e-9  # lemma 1


@given(trace=traces(), capacity=st.integers(0, ROWS))
def test_the_greedy_by_density_keeps_what_its_reference_keeps(trace, capacity):
    profit = end_counts(trace)
    assert np.array_equal(densest(trace, capacity, profit), densest_reference(trace, capacity, profit))


@given(one=traces(batches=6, width=3), two=traces(batches=6, width=3), budget=st.integers(1, 60))
def test_the_published_split_and_greedy_keep_the_bound_for_two_families(one, two, budget):
    families = {"nodes": one, "edges": two}
    split = split_by_volume(families, budget)
    assert sum(split.values()) <= budget
    got = {name: split[name] // t.row_bytes for name, t in families.items()}
    profit = {name: end_counts(t) for name, t in families.items()}
    found = sum(profit[n][densest(t, got[n], profit[n])].sum() for n, t in families.items())
    best = max(
        sum(
            most_saved(t, size // t.row_bytes, profit[n])
            for (n, t), size in zip(families.items(), (part, budget - part), strict=True)
        )
        for part in range(budget + 1)
    )
    whole = sum(t.num_rows * t.row_bytes for t in families.values())
    borders = max(1, max(len(t) for t in families.values()) - 1)
    # Whole rows are lost to rounding, at most one of each family; theorem 2 speaks of divisible budgets.
    lost = sum(t.row_bytes for t in families.values())
    assert found >= max(0, budget - lost) / (4 * whole * borders) * best - 1e-9


@given(trace=traces(writes=True), capacity=st.integers(0, ROWS + 2))
def test_rewritten_rows_cost_what_the_plan_says_and_never_more_than_by_belady(trace, capacity):
    keep = most_saving(trace, capacity)
    assert open_intervals(trace, keep).max(initial=0) <= capacity
    nothing = simulate(LRU(), trace, 0)
    planned, belady = simulate(Interval(), trace, capacity), simulate(Belady(), trace, capacity)
    rows = {t: t.misses + t.written for t in (nothing, planned, belady)}
    assert rows[nothing] - rows[planned] == saved_rows(trace, keep)
    assert rows[planned] <= rows[belady]
    assert saved_rows(trace, keep) <= most_saved(trace, capacity) + 1e-6


@given(trace=traces(batches=6, width=3, writes=True), capacity=st.integers(0, 3))
def test_the_programmes_bound_for_rewritten_rows_is_not_below_the_exhaustive_optimum(trace, capacity):
    places = np.flatnonzero(trace.next_use < len(trace))
    if len(places) > 10:
        cut = places[10]
        parts = (trace.count[:cut], trace.writes[:cut])
        trace = Trace(trace.ids[:cut], np.minimum(trace.indptr, cut), ROWS, 1, *parts)
    best = max(saved_rows(trace, keep) for keep in plans(trace, capacity))
    assert best <= most_saved(trace, capacity) + 1e-6
    assert saved_rows(trace, most_saving(trace, capacity)) >= best / 2


@pytest.mark.parametrize(("capacity", "optimum"), [(0, 0), (1, 2), (2, 3), (3, 4)])
def test_four_batches_have_the_known_optimum(capacity, optimum):
    trace = Trace.of([np.array(ids) for ids in ([1, 2], [1, 3], [2, 3], [1])], 4)
    assert simulate(Belady(), trace, capacity).hits == optimum
    assert simulate(Interval(), trace, capacity).hits == optimum
    assert most_saved(trace, capacity) == pytest.approx(optimum)
    assert simulate(DensityGreedy(), trace, capacity).hits <= optimum


@given(trace=traces(batches=12))
def test_hits_do_not_fall_with_the_capacity_and_end_at_all_but_the_first_touches(trace):
    curve = hit_curve(trace, list(range(ROWS + 1)))
    assert curve == sorted(curve)
    gains = np.diff(curve)
    assert (np.diff(gains) <= 0).all()  # each further row gains less: the curve is concave
    assert curve[-1] == len(trace.ids) - len(np.unique(trace.ids))


@given(one=traces(), two=traces(), budget=st.integers(0, 80))
def test_the_split_saves_as_much_as_the_best_split_in_tenths(one, two, budget):
    families = {"one": one, "two": two}
    split = split_budget(families, budget)
    assert sum(split.values()) <= budget

    def saved(part):
        sizes = (budget * part // 10, budget * (10 - part) // 10)
        return sum(hit_curve(t, [s // t.row_bytes])[0] * t.row_bytes for t, s in zip((one, two), sizes, strict=True))

    got = sum(hit_curve(t, [split[n] // t.row_bytes])[0] * t.row_bytes for n, t in families.items())
    assert got >= max(saved(part) for part in range(11))
