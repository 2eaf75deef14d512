"""The label engine on generated votes: kernels equal their twins, the likelihood never falls, order does not matter."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.prepare.label import LabelModel, NumberModel, Prior, Votes, discover
from stepwell.prepare.label.ask import information, jury, jury_error
from stepwell.prepare.label.correlated import _agree, agree_reference
from stepwell.prepare.label.fuse import _weigh, weigh_reference
from stepwell.prepare.label.kernels import Voters, count, count_reference, expect, expect_reference, log_evidence
from stepwell.prepare.label.one_sided import Shared, one_number
from stepwell.prepare.label.patterns import patterns

CLASSES = ("a", "b", "c")


@st.composite
def votes_(draw, classes=CLASSES, most_items=8, most_sources=5):
    num_items, num_sources = draw(st.integers(1, most_items)), draw(st.integers(1, most_sources))
    cells = st.integers(-1, len(classes) - 1)
    matrix = draw(
        st.lists(st.lists(cells, min_size=num_sources, max_size=num_sources), min_size=num_items, max_size=num_items)
    )
    return Votes.from_matrix(np.array(matrix), classes=classes)


@st.composite
def beliefs(draw):
    votes = draw(votes_())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    matrix = rng.random(len(votes.sources)) < 0.5
    slot = np.where(matrix, np.cumsum(matrix) - 1, -1)
    tables = np.log(rng.dirichlet(np.ones(3), (int(matrix.sum()), 3)).transpose(0, 2, 1))
    hit = rng.uniform(0.05, 0.95, len(votes.sources))
    voters = Voters(np.log(hit), np.log((1 - hit) / 2), slot, np.ascontiguousarray(tables))
    gold = np.where(rng.random(len(votes.rows)) < 0.2, rng.integers(0, 3, len(votes.rows)), -1)
    return votes, voters, np.log(rng.dirichlet(np.ones(3))), gold, rng.dirichlet(np.ones(3), len(votes.rows))


@given(beliefs())
def test_a_pass_of_expectation_maximisation_equals_its_twin(given_):
    votes, voters, prior, gold, start = given_
    start = start[: len(patterns(votes, gold).gold)]
    fast, slow = start.copy(), start.copy()
    one = expect(patterns(votes, gold), voters, prior, fast)
    two = expect_reference(patterns(votes, gold), voters, prior, slow)
    np.testing.assert_allclose(fast, slow, atol=1e-12)
    np.testing.assert_allclose(one[:2], two[:2], atol=1e-9)
    for a, b in zip(one[2], two[2], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@given(beliefs())
def test_counting_equals_its_twin(given_):
    votes, voters, _, gold, posterior = given_
    grouped = patterns(votes, gold)
    one = count(grouped, voters.slot, posterior[: len(grouped.gold)])
    two = count_reference(grouped, voters.slot, posterior[: len(grouped.gold)])
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@given(votes_(), st.integers(0, 99))
def test_patterns_hold_every_items_votes_and_gold(votes, seed):
    gold = np.random.default_rng(seed).integers(-1, 3, len(votes.rows))
    found = patterns(votes, gold)
    rows = {}
    for item, pattern in enumerate(found.of):
        mine = slice(votes.indptr[item], votes.indptr[item + 1])
        theirs = slice(found.indptr[pattern], found.indptr[pattern + 1])
        row = (gold[item], *votes.source[mine], *votes.label[mine])
        assert row == (found.gold[pattern], *found.source[theirs], *found.label[theirs])
        rows[row] = rows.get(row, 0) + 1
    assert len(rows) == len(found.gold)
    assert sum(number for row, number in rows.items() if row != (-1,)) == found.weight.sum()


@given(st.sets(st.integers(0, 12), min_size=1), st.sets(st.integers(0, 12), min_size=1), st.floats(0.05, 0.95))
def test_agreement_equals_its_twin(a, b, agreement):
    one, two = np.array(sorted(a)), np.array(sorted(b))
    assert _agree(one, two, agreement) == agree_reference(one, two, agreement)


@given(st.lists(st.integers(0, 5), min_size=3, max_size=3))
def test_the_evidence_of_counts_is_that_of_polyas_urn(counts):
    pseudo = np.array([0.5, 1.5, 0.2])
    urn, log = pseudo + 1, 0.0
    for outcome, times in enumerate(counts):
        for _ in range(times):
            log += np.log(urn[outcome] / urn.sum())
            urn[outcome] += 1
    assert log_evidence(np.array([counts], float), pseudo)[0] == pytest.approx(log, abs=1e-9)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1), st.sampled_from([0.3, 0.6, 0.8, 1.0])), max_size=5),
    st.floats(0.3, 0.9),
    st.floats(0.1, 5),
)
def test_no_other_number_makes_the_votes_of_all_rules_more_probable(cells, mean, strength):
    size = np.array([votes for votes, _, _ in cells], np.int64)
    right = size * np.array([share for _, share, _ in cells])
    shared = Shared(np.ones(len(cells), bool), np.array([ceiling for _, _, ceiling in cells]))

    def value(share):
        own = np.minimum(share, shared.ceiling)
        prior = strength * (mean * np.log(share) + (1 - mean) * np.log1p(-share))
        return float(prior + right @ np.log(own) + (size - right) @ np.log1p(-own))

    found, own = shared.accuracy(right, size, mean, strength)
    assert 0 < found < 1
    assert (own <= shared.ceiling).all()
    assert value(found) >= max(value(share) for share in np.linspace(0.001, 0.999, 400)) - 1e-9


@given(votes_(), st.integers(0, 99))
def test_a_ceiling_is_what_the_share_of_a_class_leaves_to_the_items_its_rules_speak_on(votes, seed):
    balance = np.random.default_rng(seed).dirichlet(np.ones(3))
    found = one_number(votes, np.zeros(len(votes.sources), bool), balance, balance)
    assert (found.ceiling >= 1 / 3 - 1e-12).all() and (found.ceiling <= 1).all()
    assert (found.ceiling[~found.which] == 1).all()
    for who in np.flatnonzero(found.which):
        said = votes.label[votes.source == who][0]
        spoken = {
            int(votes.item[v]) for v in range(len(votes)) if found.which[votes.source[v]] and votes.label[v] == said
        }
        hit, miss = balance[said] * found.ceiling[who], (1 - balance[said]) * (1 - found.ceiling[who]) / 2
        assert hit / (hit + miss) == pytest.approx(min(1, balance[said] * len(votes.rows) / len(spoken)))


@given(votes_(), st.sampled_from(["auto", "one-coin", "confusion"]), st.sampled_from(["learned", "uniform"]), st.data())
def test_the_likelihood_never_falls(votes, source, balance, data):
    gold = data.draw(st.dictionaries(st.sampled_from(votes.rows.tolist()), st.sampled_from(CLASSES), max_size=2))
    prior = Prior(mean=data.draw(st.floats(0.3, 0.9)), strength=data.draw(st.floats(0.1, 5)))
    labels = LabelModel(source, balance, prior).fit(votes, gold)
    assert np.diff(labels.likelihoods).min(initial=0) >= -1e-9
    np.testing.assert_allclose(labels.probabilities.sum(1), 1)
    assert all(labels.names[np.searchsorted(votes.rows, row)] == name for row, name in gold.items())


@given(votes_(), st.randoms(use_true_random=False), st.sampled_from(["auto", "one-coin", "confusion"]))
def test_the_order_of_votes_sources_and_classes_does_not_matter(votes, random, source):
    model = LabelModel(source, "learned", merge_above=None)
    expected = model.fit(votes).probabilities
    new_source = random.sample(range(len(votes.sources)), len(votes.sources))
    new_class = random.sample(range(3), 3)
    order = random.sample(range(len(votes)), len(votes))
    names = [votes.sources[new_source.index(place)] for place in range(len(new_source))]
    moved = Votes.from_arrays(
        votes.rows[votes.item][order],
        np.array(new_source, np.int64)[votes.source][order],
        np.array(new_class, np.int64)[votes.label][order],
        classes=[CLASSES[new_class.index(place)] for place in range(3)],
        sources=names,
        rows=votes.rows,
    )
    np.testing.assert_allclose(model.fit(moved).probabilities[:, new_class], expected, atol=1e-6)


@given(votes_(), votes_())
def test_votes_that_come_later_never_lower_the_likelihood_either(first, more):
    model = LabelModel()
    labels = model.update(model.fit(first), more)
    assert np.diff(labels.likelihoods).min(initial=0) >= -1e-9
    joined = {(r, s): c for v in (first, more) for r, s, c in map(tuple, zip(*_cells(v), strict=True))}
    assert {(r, s): c for r, s, c in zip(*_cells(labels.votes), strict=True)} == joined


def _cells(votes):
    table = votes.table()
    return [table[name].to_pylist() for name in ("_row", "source", "label")]


@given(st.lists(st.lists(st.floats(-50, 50) | st.none(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_numbers_never_lower_their_likelihood_and_shift_with_the_votes(cells):
    matrix = np.array([[np.nan if cell is None else cell for cell in row] for row in cells])
    found = NumberModel(2.0, 1.0).fit(Votes.from_matrix(matrix, classes=()))
    assert np.diff(found.likelihoods).min(initial=0) >= -1e-6 * max(1, abs(found.likelihoods[-1]))
    moved = NumberModel(2.0, 1.0).fit(Votes.from_matrix(matrix + 7.0, classes=()))
    np.testing.assert_allclose(moved.values, found.values + 7.0, atol=1e-2)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from("xyz")), min_size=1, max_size=25),
    st.randoms(use_true_random=False),
)
def test_truth_discovery_never_lowers_its_likelihood_and_knows_no_order(claims, random):
    def found(rows):
        item, source, value = zip(*rows, strict=True)
        return discover(item, source, pa.array(value))

    truths = found(claims)
    assert np.diff(truths.likelihoods).min(initial=0) >= -1e-9
    again = found(random.sample(claims, len(claims)))
    np.testing.assert_allclose(truths.confidence, again.confidence, atol=1e-6)
    clear = truths.confidence > 0.5 + 1e-6
    assert truths.value.filter(pa.array(clear)).equals(again.value.filter(pa.array(clear)))
    said = {(item, value) for item, _, value in claims}
    assert set(zip(truths.item.tolist(), truths.value.to_pylist(), strict=True)) <= said


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=6), st.integers(0, 99))
def test_weighing_candidates_equals_its_twin(candidates, seed):
    rng = np.random.default_rng(seed)
    begin = np.append(0, np.cumsum([len(one) for one in candidates]))
    cut = len(candidates) // 2
    indptr = np.array([0, len(candidates)] if cut == 0 else [0, cut, len(candidates)])
    source = np.array([who for one in candidates for who in one])
    hit, miss = np.log(rng.uniform(0.1, 0.9, 4)), np.log(rng.uniform(0.01, 0.1, 4))
    fast, slow = np.ones(len(candidates)), np.ones(len(candidates))
    one, two = (f(indptr, begin, source, hit, miss, b) for f, b in ((_weigh, fast), (weigh_reference, slow)))
    np.testing.assert_allclose(one, two, atol=1e-9)
    np.testing.assert_allclose(fast, slow, atol=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_the_error_of_a_jury_is_that_of_all_its_outcomes(shares):
    total = 0.0
    for outcome in itertools.product((True, False), repeat=len(shares)):
        if 2 * sum(outcome) <= len(shares):
            total += float(np.prod([p if right else 1 - p for p, right in zip(shares, outcome, strict=True)]))
    assert jury_error(shares) == pytest.approx(total, abs=1e-12)


@given(st.lists(st.floats(0.3, 0.99), min_size=1, max_size=7), st.integers(1, 7))
def test_no_odd_jury_errs_less_where_all_cost_the_same(shares, budget):
    accuracy = {f"w{number}": share for number, share in enumerate(shares)}
    sizes = range(1, min(budget, len(shares)) + 1, 2)
    best = min(jury_error(some) for size in sizes for some in itertools.combinations(shares, size))
    found = jury(accuracy, budget)
    assert found.error == pytest.approx(best, abs=1e-12)
    assert found.cost == len(found.members) <= budget


@given(st.integers(0, 10**6))
def test_an_answer_tells_at_most_what_is_unknown_and_an_experts_tells_it_all(seed):
    rng = np.random.default_rng(seed)
    posterior, says = rng.dirichlet(np.ones(3), 5), rng.dirichlet(np.ones(3), 3)
    entropy = -(posterior * np.log(posterior)).sum(1)
    gain = information(posterior, says)
    assert (gain >= 0).all() and (gain <= entropy + 1e-12).all()
    np.testing.assert_allclose(information(posterior, np.eye(3)), entropy, atol=1e-9)
    np.testing.assert_allclose(information(posterior, np.full((3, 3), 1 / 3)), 0, atol=1e-12)
