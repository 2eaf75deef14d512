"""Label issues: the published rule, probabilities of rows that were held out, and real flips found."""

import numpy as np
import pytest

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.prepare.clean.label_issues import OutOfSample, Probe, confident_joint, label_issues, out_of_sample


def nearest_mean():
    """A probe that one can check by hand: softmax of minus the squared distance to each class's mean."""

    def fit(features, labels):
        return np.stack([features[labels == k].mean(0) for k in np.unique(labels)])

    def predict_proba(means, features):
        scores = -((features[:, None] - means[None]) ** 2).sum(-1)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        return scores / scores.sum(1, keepdims=True)

    return Probe(fit, predict_proba)


def test_an_issue_is_confidently_of_another_class():
    given = np.array([0, 0, 0, 1, 1, 1])
    p1 = np.array([0.1, 0.3, 0.9, 0.9, 0.7, 0.2])
    predicted = OutOfSample(np.stack([1 - p1, p1], 1), np.zeros(6, np.int64))
    # thresholds: class 0 (.9 + .7 + .1) / 3 = .567, class 1 (.9 + .7 + .2) / 3 = .6
    issues = label_issues(given, predicted, rows=np.arange(6) * 10)
    assert issues.select(["_row", "label", "suggested"]).to_pylist() == [
        {"_row": 20, "label": 0, "suggested": 1},
        {"_row": 50, "label": 1, "suggested": 0},
    ]
    assert confident_joint(given, predicted).tolist() == [[2, 1], [1, 2]]


def test_no_row_is_predicted_by_a_model_that_saw_it():
    seen = []

    def fit(features, labels):
        seen.append(set(features[:, 0].astype(int)))
        return seen[-1]

    def predict_proba(model, features):
        assert not model & set(features[:, 0].astype(int))
        return np.full((len(features), 2), 0.5)

    features, labels = np.arange(40.0)[:, None], np.arange(40) % 2
    predicted = out_of_sample(Probe(fit, predict_proba), features, labels, folds=4)
    assert len(seen) == 4
    assert np.bincount(predicted.fold).tolist() == [10] * 4
    for part in range(4):
        assert np.bincount(labels[predicted.fold == part]).tolist() == [5, 5]


def test_groups_are_held_out_together():
    groups = np.arange(60) // 3
    features = np.random.default_rng(0).normal(size=(60, 2))
    predicted = out_of_sample(nearest_mean(), features, np.arange(60) % 2, groups=groups)
    assert all(len(set(predicted.fold[groups == g])) == 1 for g in range(20))


def test_bare_probabilities_and_scores_are_refused():
    with pytest.raises(InvalidValueError, match="in-sample"):
        label_issues(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]]))
    scores = Probe(lambda x, y: None, lambda model, x: np.ones((len(x), 2)))
    with pytest.raises(DataError, match="softmax"):
        out_of_sample(scores, np.ones((8, 1)), np.arange(8) % 2, folds=2)


def flipped_digits():
    sklearn = pytest.importorskip("sklearn.datasets")
    pixels, labels = sklearn.load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    flip = rng.random(len(labels)) < 0.15
    given = np.where(flip, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    return pixels / 16, given, flip


def test_most_flipped_digits_are_found_and_little_else():
    pixels, given, flip = flipped_digits()
    model = pytest.importorskip("sklearn.linear_model").LogisticRegression
    probe = Probe(lambda x, y: model(max_iter=500).fit(x, y), lambda fitted, x: fitted.predict_proba(x))
    predicted = out_of_sample(probe, pixels, given)
    found = np.zeros(len(given), bool)
    found[label_issues(given, predicted).column("_row").to_numpy()] = True
    assert (found & flip).sum() / flip.sum() >= 0.8
    assert (found & flip).sum() / found.sum() >= 0.9


def test_the_issues_are_those_of_cleanlab():
    cleanlab = pytest.importorskip("cleanlab.filter")
    pixels, given, _ = flipped_digits()
    predicted = out_of_sample(nearest_mean(), pixels, given)
    theirs = set(
        cleanlab.find_label_issues(given, predicted.probabilities, filter_by="confident_learning").nonzero()[0]
    )
    ours = set(label_issues(given, predicted).column("_row").to_pylist())
    assert len(ours & theirs) / len(ours | theirs) >= 0.95
