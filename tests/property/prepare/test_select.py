"""Facility location and everything built on it: the theorems of the Camel paper, with their conditions."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stepwell.kernels.coverage import (
    distances,
    distances_reference,
    greedy_cover,
    greedy_cover_reference,
)
from stepwell.kernels.matching import match_sum, match_sum_reference
from stepwell.kernels.representatives import farthest_first, leaders, match_mean
from stepwell.prepare.coreset import delta_cover, merge_reduce, quotas, select_coreset
from stepwell.prepare.select import Bilevel, Coverage, Lazy, Naive, OnTorch, Selector, Sieve, Stochastic, selectors
from stepwell.prepare.select.gradients import affinity, affinity_reference, bilevel_reference
from stepwell.prepare.select.solvers import _shares

POINTS = st.integers(1, 24).flatmap(
    lambda n: st.tuples(
        arrays(np.float32, (n, 3), elements=st.floats(-100, 100, width=32)),
        arrays(np.int64, n, elements=st.integers(0, 3)),
    )
)
SOLVERS = [Lazy(), Naive(), Stochastic(), Sieve(), OnTorch()]


def cloud(seed, n, d=3, classes=3):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)).astype(np.float32), draw.integers(0, classes, n)


def objective(z, y, index):
    pair = distances_reference(z, z)
    return pair.max() - delta_cover(z, y, np.asarray(index, np.int64))


@given(POINTS, st.integers(1, 5))
def test_distances_are_those_of_the_definition_and_zero_for_equal_rows(data, copies):
    z = np.repeat(data[0], copies, 0) + np.float32(1e4)
    found, exact = distances(z, z), distances_reference(z, z)
    assert np.allclose(found, exact, rtol=2e-3, atol=1e-6)
    assert (found[exact == 0] == 0).all()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@given(data=POINTS, budget=st.integers(1, 12))
@settings(max_examples=40)
def test_weights_are_counts_rows_are_distinct_and_each_class_has_a_row(solver, data, budget):
    z, y = data
    found = Selector(search=Coverage(solver)).select(z, y, budget)
    assert len(set(found.index.tolist())) == len(found.index) <= budget
    assert (found.weight >= 1).all()
    if budget >= len(np.unique(y)):
        assert set(y[found.index]) == set(y)
        assert found.weight.sum() == len(z)
        for label in np.unique(y):
            assert found.weight[y[found.index] == label].sum() == (y == label).sum()
        assert found.cover == pytest.approx(delta_cover(z, y, found.index), rel=1e-3, abs=1e-4)


@given(data=POINTS, budget=st.integers(1, 12))
def test_lazy_greedy_reaches_what_naive_greedy_reaches(data, budget):
    z, y = data
    lazy, naive = (Selector(search=Coverage(solver)).select(z, y, budget) for solver in (Lazy(), Naive()))
    assert lazy.index.tolist() == naive.index.tolist() or lazy.cover == pytest.approx(naive.cover, rel=1e-5, abs=1e-5)
    assert lazy.evaluations <= naive.evaluations + len(z)


@given(st.integers(0, 999), st.integers(2, 30), st.integers(1, 10))
def test_one_group_is_picked_as_the_reference_says(seed, n, budget):
    z, _ = cloud(seed, n)
    weight = np.random.default_rng(seed).integers(1, 5, n).astype(np.float64)
    pair = distances(z, z)
    found = greedy_cover(pair.ravel(), np.array([0, n]), weight, budget, np.full(n, pair.max(), np.float32))
    assert found.picks.tolist() == greedy_cover_reference(pair.astype(np.float64), weight, budget, float(pair.max()))
    assert (np.diff(found.gains) <= 1e-9 * found.gains[0]).all()


def test_greedy_is_within_its_guarantee_of_the_best_choice():
    worst = 1.0
    for seed in range(60):
        z, y = cloud(seed, 10, classes=1)
        best = max(objective(z, y, chosen) for chosen in combinations(range(10), 3))
        ratio = objective(z, y, select_coreset(z, y, 3).index) / best
        worst = min(worst, ratio)
        sieve = Selector(search=Coverage(Sieve(0.1))).select(z, y, 3)
        assert objective(z, y, sieve.index) >= (0.5 - 0.1) * best
    assert worst >= 1 - 1 / np.e
    assert worst >= 0.95


def test_the_objective_is_monotone_and_submodular():
    draw = np.random.default_rng(5)
    for seed in range(100):
        z, y = cloud(seed, 12)
        order = draw.permutation(12)
        small, large, extra = order[:3], order[:7], order[8]
        gain_small = objective(z, y, [*small, extra]) - objective(z, y, small)
        gain_large = objective(z, y, [*large, extra]) - objective(z, y, large)
        assert gain_small >= gain_large - 1e-9
        assert gain_large >= -1e-9


def test_the_loss_of_a_coreset_is_within_its_bound_for_any_parameters():
    draw = np.random.default_rng(0)
    for seed in range(100):
        z, y = cloud(seed, 40, classes=2)
        found = select_coreset(z, y, int(draw.integers(2, 12)))
        theta = draw.normal(size=3) * 10 ** draw.uniform(-2, 2)
        loss = np.logaddexp(0, -(2 * y - 1) * (z @ theta))
        error = abs(loss.mean() - (found.weight * loss[found.index]).sum() / len(z))
        assert np.isfinite(found.moved)
        assert error <= found.loss_bound(float(np.linalg.norm(theta))) * (1 + 1e-6)


def test_separated_clusters_get_one_row_each_with_their_size_as_weight():
    sizes = [5, 20, 7, 1]
    z = np.concatenate(
        [np.full((n, 2), 100.0 * i) + np.random.default_rng(i).normal(size=(n, 2)) for i, n in enumerate(sizes)]
    )
    found = select_coreset(z, None, 4)
    assert sorted(found.weight.tolist()) == sorted(map(float, sizes))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_copies_of_one_row_need_one_representative(solver):
    z = np.full((30, 4), 7.3, np.float32)
    found = Selector(search=Coverage(solver)).select(z, None, 5)
    assert found.weight.tolist() == [30.0]
    assert found.cover == 0


def test_a_budget_of_all_rows_covers_everything_at_no_distance():
    z, y = cloud(1, 20)
    found = select_coreset(z, y, 20)
    assert found.cover == 0
    assert found.weight.tolist() == [1.0] * 20


def test_the_sample_of_a_stochastic_search_changes_little():
    z, _ = cloud(2, 400, d=8)
    exact, sampled = (Selector(search=Coverage(s)).select(z, None, 40).cover for s in (Lazy(), Stochastic(0.1)))
    far = distances_reference(z, z).max()
    assert far - sampled >= (1 - 1 / np.e - 0.1) * (far - exact)
    assert sampled <= 1.1 * exact


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 120))
def test_shares_leave_no_group_without_a_place_while_there_are_enough(sizes, budget):
    shares = _shares(np.array(sizes), budget)
    assert shares.sum() == min(budget, sum(sizes))
    assert (shares <= sizes).all()
    assert budget < len(sizes) or (shares >= 1).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 120))
def test_quotas_fill_like_water(sizes, budget):
    sizes = np.array(sizes)
    given_ = quotas(sizes, budget)
    assert given_.sum() == min(budget, sizes.sum())
    assert (given_ <= sizes).all()
    spare = given_[given_ < sizes]
    if len(spare):
        assert given_.max() - spare.min() <= 1


def test_merging_and_reducing_keeps_weight_and_its_running_bound():
    draw = np.random.default_rng(3)
    everything, labels = [], []
    z, y, weight, bound = np.empty((0, 2), np.float32), np.empty(0, np.int64), np.empty(0), 0.0
    for turn in range(20):
        new, new_y = draw.normal(turn / 5, 1, (50, 2)).astype(np.float32), draw.integers(0, 3, 50)
        everything.append(new)
        labels.append(new_y)
        both, both_y = np.concatenate([z, new]), np.concatenate([y, new_y])
        left = merge_reduce(both, both_y, np.concatenate([weight, np.ones(50)]), 21)
        z, y, weight, bound = both[left.index], both_y[left.index], left.weight, bound + left.cost
        every, every_y = np.concatenate(everything), np.concatenate(labels)
        pair = distances_reference(every, z)
        pair[every_y[:, None] != y[None]] = np.inf
        assert pair.min(1).sum() <= bound * (1 + 1e-5) + 1e-6
        for label in range(3):
            assert weight[y == label].sum() == pytest.approx((every_y == label).sum())
        assert max(left.counts.values()) - min(left.counts.values()) <= 1
    assert bound > 0


@given(st.integers(0, 200), st.integers(1, 6))
def test_farthest_first_is_within_twice_the_best_radius(seed, k):
    z, _ = cloud(seed, 9, d=2)
    picks, near = farthest_first(z, k, np.full(9, np.inf, np.float32))
    pair = distances_reference(z, z)
    best = min(pair[:, list(chosen)].min(1).max() for chosen in combinations(range(9), k))
    assert near.max() <= 2 * best + 1e-5
    assert np.allclose(near, pair[:, picks].min(1), atol=1e-5)


@given(st.integers(0, 200))
def test_a_herd_follows_the_mean_as_well_as_any_next_row_could(seed):
    z = np.random.default_rng(seed).normal(size=(12, 3))
    picks = match_mean(z, 6)
    assert len(set(picks.tolist())) == 6
    for turn in range(6):
        errors = [np.linalg.norm(z.mean(0) - z[[*picks[:turn], i]].mean(0)) for i in range(12) if i not in picks[:turn]]
        assert np.linalg.norm(z.mean(0) - z[picks[: turn + 1]].mean(0)) <= min(errors) + 1e-9


@given(POINTS, st.floats(0, 50))
def test_leaders_are_apart_and_every_row_is_near_one_of_its_class(data, radius):
    z, y = data
    kept = leaders(z, y, radius)
    pair = distances_reference(z, z)
    pair[y[:, None] != y[None]] = np.inf
    assert (pair[:, kept].min(1) <= radius * (1 + 1e-6) + 1e-6).all()
    apart = pair[np.ix_(kept, kept)] + np.where(np.eye(len(kept)) > 0, np.inf, 0)
    assert (apart > radius * (1 - 1e-6) - 1e-6).all()


@pytest.mark.parametrize("name", sorted(selectors))
def test_every_named_selector_gives_the_same_choice_for_the_same_seed(name):
    z, y = cloud(4, 60)
    one, two = (selectors[name].select(z, y, 0.2, seed=3, aim=lambda step: np.ones(3) - step) for _ in range(2))
    assert one.index.tolist() == two.index.tolist()
    assert one.weight.sum() == pytest.approx(60)
    table = one.table(np.arange(60) + 1000)
    assert table.column_names == ["_row", "weight", "rank"]
    assert table["_row"].to_pylist() == sorted(table["_row"].to_pylist())


@pytest.mark.parametrize("name", sorted(selectors))
@given(data=POINTS, budget=st.integers(4, 12))
@settings(max_examples=25)
def test_the_mean_of_a_selection_is_within_its_bound_whatever_its_weights_are(name, data, budget):
    z, y = data
    found = selectors[name].select(z, y, budget, aim=lambda step: np.ones(3) - step)
    assert found.weight.sum() == pytest.approx(len(z), rel=1e-4)
    scale = float(np.abs(z).max(initial=0.0))
    mean = (found.weight[:, None] * z[found.index]).sum(0, dtype=np.float64) / len(z)
    assert found.gap == pytest.approx(np.linalg.norm(mean - z.mean(0, dtype=np.float64)), abs=1e-4 * (scale + 1e-3))
    assert found.gap <= found.loss_bound(1.0) * (1 + 1e-3) + 1e-4 * (scale + 1e-3)


def test_no_bound_is_claimed_where_weight_passes_between_classes():
    z, y = np.array([[0, 1, 1], *[[1, 1, 1]] * 4], np.float32), np.array([0, 1, 1, 1, 1])
    found = selectors["ocs"].select(z, y, 4)
    assert found.gap > 0
    assert found.loss_bound(1.0) == float("inf")


def test_the_loss_of_weights_that_are_no_counts_is_within_its_bound_too():
    draw = np.random.default_rng(0)
    for seed in range(60):
        z, y = cloud(seed, 40, classes=2)
        found = selectors["gradmatch"].select(z, y, int(draw.integers(2, 12)))
        theta = draw.normal(size=3) * 10 ** draw.uniform(-2, 2)
        loss = np.logaddexp(0, -(2 * y - 1) * (z @ theta))
        error = abs(loss.mean() - (found.weight * loss[found.index]).sum() / len(z))
        assert np.isfinite(found.moved)
        assert error <= found.loss_bound(float(np.linalg.norm(theta))) * (1 + 1e-6)


@given(st.integers(0, 500), st.integers(1, 14), st.integers(1, 8), st.sampled_from([1e-3, 0.1, 1.0, 10.0]))
@settings(max_examples=60, deadline=None)
def test_a_matching_pursuit_is_that_of_non_negative_least_squares(seed, n, d, ridge):
    z = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    target = z.sum(0, dtype=np.float64)
    found, exact = match_sum(z, target, 6, ridge), match_sum_reference(z, target, 6, ridge)
    assert found.missing == pytest.approx(exact.missing, rel=1e-3, abs=1e-3)
    assert (found.weight > 0).all()
    assert len(set(found.picks.tolist())) == len(found.picks)
    if len(found.picks):
        assert found.missing[-1] ** 2 + ridge * (found.weight**2).sum() <= (target**2).sum() * (1 + 1e-6)


def test_gradients_that_few_rows_carry_are_matched_by_those_rows():
    z = np.zeros((30, 6), np.float32)
    z[[3, 17]] = [[2, 0, 0, 0, 0, 0], [0, 5, 0, 0, 0, 0]]
    found = match_sum(z, z.sum(0, dtype=np.float64), 10, 1e-9)
    assert sorted(found.picks.tolist()) == [3, 17]
    assert found.weight == pytest.approx([1, 1], rel=1e-6)
    assert found.missing[-1] == pytest.approx(0, abs=1e-6)


def test_gradient_matching_errs_less_than_as_many_random_rows():
    z, y = cloud(7, 300, d=20)
    matched, chance = (selectors[name].select(z, y, 30) for name in ("gradmatch", "random"))
    assert matched.gap < 0.5 * chance.gap


@given(st.integers(0, 300), st.integers(1, 12), st.floats(0.1, 5.0))
@settings(max_examples=40, deadline=None)
def test_bilevel_picks_are_those_of_one_candidate_at_a_time(seed, budget, rate):
    draw = np.random.default_rng(seed)
    z, curve = draw.normal(size=(15, 4)).astype(np.float32), draw.random(4)

    def aim(step):
        return np.array([1.0, -0.5, 0.2, 0.0]) - curve * step

    found = Selector("layer", Bilevel(rate, renew=1), by_class=False, equal_weight=True).select(
        z, None, budget, aim=aim
    )
    assert found.index.tolist() == bilevel_reference(z, aim, budget, rate)


@given(st.integers(0, 300), st.booleans())
@settings(max_examples=40, deadline=None)
def test_affinity_is_that_of_the_pairs(seed, remembers):
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(12, 4)).astype(np.float32)
    z[3] = 0
    aim = draw.normal(size=4) if remembers else None
    assert affinity(z, aim, 2.0) == pytest.approx(affinity_reference(z, aim, 2.0), abs=1e-5)
