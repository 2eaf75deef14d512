"""SANTA against every walk there is: the theorems of the paper, both certificates, and the slow twin."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from stepwell.core.errors import InvalidValueError
from stepwell.kernels.tppr import Lists, Versions, advance, advance_reference

EXAMPLES = 300
ROUNDING = 1e-12


class Case(NamedTuple):
    ends: np.ndarray
    num_nodes: int
    k: int
    alpha: float
    beta: float


def exact_walks(case: Case, node: int, before: int) -> tuple[dict[int, float], dict[int, float]]:
    """Walk from (node, just before event `before`) in every possible way, knowing nothing of lists or recursions.

    Returns:
        The chance to stop at each key `2 * event + side`, and the largest chance of any single walk that stops there.
    """
    total: dict[int, float] = defaultdict(float)
    largest: dict[int, float] = defaultdict(float)

    def walk(at: int, until: int, chance: float) -> None:
        past = [event for event in range(until) if at in case.ends[event]][::-1]
        norm = sum(case.beta**z for z in range(1, len(past) + 1))
        for z, event in enumerate(past, 1):
            side = 1 if case.ends[event][0] == at else 0
            step = chance * (1 - case.alpha) * case.beta**z / norm
            stop = step * (case.alpha or 1.0)
            total[2 * event + side] += stop
            largest[2 * event + side] = max(largest[2 * event + side], stop)
            walk(int(case.ends[event][side]), event, step)

    walk(node, before, 1.0)
    return dict(total), dict(largest)


@st.composite
def cases(draw: st.DrawFn, k: int | None = None) -> Case:
    """Return multigraphs with self-loops, at most 5 nodes and 12 events."""
    num_nodes = draw(st.integers(1, 5))
    node = st.integers(0, num_nodes - 1)
    ends = draw(st.lists(st.tuples(node, node), min_size=1, max_size=12))
    places = draw(st.sampled_from([3, 5, 100])) if k is None else k
    alpha, beta = draw(st.floats(0.05, 0.7)), draw(st.floats(0.2, 0.95))
    return Case(np.array(ends, np.int32), num_nodes, places, alpha, beta)


def run(case: Case, lists: Lists | None = None, first: int = 0, last: int | None = None, **options: object) -> Lists:
    lists = Lists.empty(case.num_nodes, case.k) if lists is None else lists
    advance(lists, case.ends[first:last], first, case.alpha, case.beta, **options)  # type: ignore[arg-type]
    return lists


def listed(lists: Lists, node: int) -> dict[int, float]:
    end = lists.length[node]
    return dict(zip(lists.key[node, :end].tolist(), lists.weight[node, :end].tolist(), strict=True))


def threshold(lists: Lists, node: int) -> float:
    """Return the smallest kept weight, 0 if the list has room."""
    return min(listed(lists, node).values()) if lists.length[node] == lists.key.shape[1] else 0.0


EXAMPLE = np.array([[2, 4], [1, 4], [3, 4], [1, 2], [1, 2]], np.int32)  # v1 to v4; t1 to t5
V2_T5, V4_T2, V4_T1, V2_T1, V1_T4, V2_T4 = 9, 3, 1, 0, 6, 7
KNOWN = {
    (0.1, 0.5): [0.051429, 0.040629, 0.038571, 0.036566, 0.030857, 0.025714, 0.223766, 0.875],
    (0.3, 0.9): [0.077491, 0.082752, 0.074513, 0.057926, 0.028549, 0.069742, 0.390974, 2.439],
}


@pytest.mark.parametrize(("alpha", "beta"), KNOWN)
def test_the_running_example_has_its_known_answer(alpha, beta):
    *weights, mass, norm = KNOWN[alpha, beta]
    case = Case(EXAMPLE, 5, 100, alpha, beta)
    lists = run(case)
    known = dict(zip((V2_T5, V4_T2, V4_T1, V2_T1, V1_T4, V2_T4), weights, strict=True))
    for found in (listed(lists, 1), exact_walks(case, 1, 5)[0]):
        assert {key: round(weight, 6) for key, weight in found.items()} == known
    assert round(float(lists.mass[1]), 6) == mass
    assert lists.norm[1] == pytest.approx(norm)
    assert lists.bound[1] == 0


@pytest.mark.parametrize(
    ("k", "wanted", "bound"),
    [(3, {V2_T5: 0.051429, V4_T2: 0.040629, V1_T4: 0.030857}, 0.0527), (2, {V2_T5: 0.051429, V1_T4: 0.030857}, 0.0656)],
)
def test_the_running_example_cut_short_keeps_what_the_paper_keeps_and_says_how_far_it_is_off(k, wanted, bound):
    lists = run(Case(EXAMPLE, 5, k, 0.1, 0.5))
    assert {key: round(weight, 6) for key, weight in listed(lists, 1).items()} == wanted
    assert round(float(lists.bound[1]), 4) == bound


@given(cases(k=100))
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_uncut_list_holds_the_chance_of_every_walk(case):
    lists = run(case)
    for node in range(case.num_nodes):
        exact, _ = exact_walks(case, node, len(case.ends))
        assert listed(lists, node) == pytest.approx(exact, abs=ROUNDING)
        assert lists.bound[node] == 0


@given(cases())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_cut_list_keeps_every_guarantee(case):
    lists = run(case)
    theta = float(lists.threshold[0])
    for node in range(case.num_nodes):
        exact, largest = exact_walks(case, node, len(case.ends))
        found = listed(lists, node)
        assert len(found) == min(case.k, len(exact)), "a list is full once there are enough places"
        assert all(weight > 0 and key // 2 < len(case.ends) for key, weight in found.items())
        smallest = threshold(lists, node)
        for key, weight in exact.items():
            kept = found.get(key, 0.0)
            assert kept <= weight + ROUNDING, "a listed weight is never too large"
            assert weight - kept <= lists.bound[node] + ROUNDING, "the bound of the node"
            assert weight - kept <= theta / (case.alpha * (1 - case.beta)) + ROUNDING, "theorem 7"
            if key in found:
                assert kept >= largest[key] - ROUNDING, "theorem 6"
            if key in found and smallest > 0:
                a, b = case.alpha, case.beta
                factor = max(a * (1 - a) * (1 + b - a) / ((1 + b) * smallest), 1.0)
                assert weight <= factor * kept + ROUNDING, "theorem 8"
        assert set(found) <= set(exact)
        assert lists.mass[node] == pytest.approx(sum(exact.values()), abs=ROUNDING)
        assert lists.mass[node] <= 1 - case.alpha + ROUNDING
        missing = sum(exact.values()) - sum(found.values())
        assert lists.mass[node] - sum(found.values()) == pytest.approx(missing, abs=ROUNDING)
        degree = sum(node in pair for pair in case.ends.tolist())
        assert lists.norm[node] == pytest.approx((case.beta - case.beta ** (degree + 1)) / (1 - case.beta))


@given(cases())
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_smallest_kept_weight_never_falls_below_what_both_ends_had(case):
    lists = Lists.empty(case.num_nodes, case.k)
    for event, (u, v) in enumerate(case.ends.tolist()):
        old = lists.copy()
        run(case, lists, event, event + 1)
        for node, other in ((u, v), (v, u)):
            a, b = old.norm[node] / (old.norm[node] + 1), (1 - case.alpha) / (old.norm[node] + 1)
            floor = max(a * threshold(old, node), b * threshold(old, other))
            assert threshold(lists, node) >= floor - ROUNDING, "lemma 5"


@given(cases(), st.booleans(), st.sampled_from([0.0, 0.3]))
@settings(max_examples=100, deadline=None)
def test_lists_are_those_of_the_slow_twin_after_every_event(case, directed, alpha):
    case = case._replace(alpha=alpha)
    history = advance_reference(case.ends, case.num_nodes, case.k, alpha, case.beta, directed=directed)
    versions, lists = Versions.empty(len(case.ends), case.k), Lists.empty(case.num_nodes, case.k)
    for event, states in enumerate(history):
        part = Versions(*(array[event : event + 1] for array in versions))
        run(case, lists, event, event + 1, directed=directed, versions=part)
        for node, (wanted, bound, mass) in enumerate(states):
            assert listed(lists, node) == wanted
            assert list(listed(lists, node)) == sorted(wanted, reverse=True), "newest first"
            assert lists.bound[node] == bound
            assert lists.mass[node] == mass
        for side, node in enumerate(case.ends[event].tolist()[: 1 if directed else 2]):
            if side and node == case.ends[event][0]:
                continue
            wanted, bound, mass = states[node]
            order = sorted(wanted, key=lambda key: (-wanted[key], -key))
            assert versions.key[event, side].tolist() == order + [-1] * (case.k - len(order))
            assert_array_equal(versions.weight[event, side, : len(order)], np.float32([wanted[key] for key in order]))
            assert (versions.bound[event, side], versions.mass[event, side]) == (bound, mass)


@given(cases(), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_a_stream_cut_anywhere_gives_the_bits_of_the_whole_and_a_copy_is_deep(case, cut):
    whole = run(case)
    lists = run(case, last=cut)
    backup, kept = lists.copy(), lists.copy()
    run(case, lists, min(cut, len(case.ends)))
    for name, one, two in zip(Lists._fields, lists, whole, strict=True):
        assert one.tobytes() == two.tobytes(), name
    for name, one, two in zip(Lists._fields, backup, kept, strict=True):
        assert one.tobytes() == two.tobytes(), f"{name} of the backup was reached by a later event"
    run(case, backup, min(cut, len(case.ends)))
    for name, one, two in zip(Lists._fields, backup, whole, strict=True):
        assert one.tobytes() == two.tobytes(), name


def test_both_ends_read_what_the_other_had_before_the_event():
    # after (0, 1) and (1, 2), node 2 must reach the first event through node 1, and node 1 nothing of node 2's
    lists = run(Case(np.array([[0, 1], [1, 2]], np.int32), 3, 10, 0.2, 0.5))
    assert set(listed(lists, 1)) == {0, 3}
    assert set(listed(lists, 2)) == {2, 0}


def test_a_self_loop_counts_once():
    lists = run(Case(np.array([[0, 0]], np.int32), 1, 10, 0.2, 0.5))
    assert listed(lists, 0) == {1: pytest.approx(0.8 * 0.2)}
    assert lists.norm[0] == 0.5


@pytest.mark.parametrize(("alpha", "beta", "name"), [(1.0, 0.5, "alpha"), (-0.1, 0.5, "alpha"), (0.1, 0.0, "beta")])
def test_a_decay_that_makes_no_walk_is_refused(alpha, beta, name):
    with pytest.raises(InvalidValueError, match=f"`{name}` must be"):
        run(Case(EXAMPLE, 5, 3, alpha, beta))


def test_more_events_than_keys_are_refused():
    with pytest.raises(InvalidValueError, match="so that keys fit int32"):
        advance(Lists.empty(5, 3), EXAMPLE, 1 << 30, 0.1, 0.5)


def test_a_walk_without_decay_weighs_all_of_the_past_alike():
    lists = run(Case(np.array([[0, 1], [0, 2], [0, 3]], np.int32), 4, 10, 0.5, 1.0))
    assert listed(lists, 0) == pytest.approx(dict.fromkeys([5, 3, 1], 0.25 / 3))
