"""Metrics: equal to scikit-learn's where it has them, to a count by hand where it has not; ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from stepwell.core.errors import InvalidValueError
from stepwell.evaluate.metrics import average_precision, hits_at, mean_reciprocal_rank, ranks, roc_auc

answers = st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(target for target, _ in rows) < len(rows)
)


@settings(max_examples=50, deadline=None)
@given(answers)
def test_average_precision_equals_scikit_learns_with_ties(rows):
    target, score = map(list, zip(*rows, strict=True))
    assert average_precision(target, score) == pytest.approx(average_precision_score(target, score), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(answers)
def test_roc_auc_equals_scikit_learns_with_ties(rows):
    target, score = map(list, zip(*rows, strict=True))
    assert roc_auc(target, score) == pytest.approx(roc_auc_score(target, score), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=10), st.integers(0, 2**12))
def test_a_rank_is_the_mean_of_its_best_and_worst_place(rows, bits):
    score = np.array(rows)
    valid = np.array([[True] + [bool(bits >> (3 * i + j) & 1) for j in range(3)] for i in range(len(rows))])
    for row, found in enumerate(ranks(score, valid)):
        others = [score[row, j] for j in range(1, 4) if valid[row, j]]
        best = 1 + sum(other > score[row, 0] for other in others)
        worst = 1 + sum(other >= score[row, 0] for other in others)
        assert found == (best + worst) / 2


def test_reciprocal_rank_and_hits_follow_from_ranks():
    rank = ranks([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert rank.tolist() == [1.0, 2.5]
    assert mean_reciprocal_rank(rank) == (1 + 1 / 2.5) / 2
    assert (hits_at(rank, 1), hits_at(rank, 2), hits_at(rank, 3)) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: average_precision([0, 0], [0.1, 0.2]),
        lambda: roc_auc([1, 1], [0.1, 0.2]),
        lambda: roc_auc([1, 0], [0.1, float("nan")]),
        lambda: average_precision([1], [0.1, 0.2]),
        lambda: ranks([[0.0, float("nan")]]),
        lambda: ranks([0.0, 1.0]),
        lambda: mean_reciprocal_rank([]),
        lambda: hits_at([1.0], 0),
    ],
)
def test_what_has_no_metric_is_refused(call):
    with pytest.raises(InvalidValueError):
        call()


def test_a_padded_nan_does_not_count():
    assert ranks([[1.0, float("nan")]], np.array([[True, False]])).tolist() == [1.0]
