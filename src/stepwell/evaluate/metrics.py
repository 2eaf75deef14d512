"""Metrics of ranked answers, exact where scores tie.

Every function takes plain arrays. Equal scores are never ordered by accident: average precision and ROC AUC treat a
tied group as one threshold, and a rank among candidates is the mean of its best and worst place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stepwell.core.errors import InvalidValueError

_Float64 = npt.NDArray[np.float64]
_Bool = npt.NDArray[np.bool_]


def average_precision(target: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Return the average precision: the sum over thresholds of (recall gained) x (precision there).

    Equal to scikit-learn's `average_precision_score`, ties included.

    Args:
        target: 1 for a true answer, else 0, `[S]`.
        score: Higher means more likely, `[S]`.

    Raises:
        InvalidValueError: If lengths differ, a score is NaN, or no target is 1.

    Cost:
        O(S log S).
    """
    truth, scores = _checked(target, score)
    if not truth.any():
        raise InvalidValueError("target", "no 1", "1 at least once")
    hits, seen = _thresholds(truth, scores)
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / seen))


def roc_auc(target: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Return the area under the ROC curve: how often a true answer outranks a false one, a tie counting half.

    Equal to scikit-learn's `roc_auc_score`, ties included.

    Args:
        target: 1 for a true answer, else 0, `[S]`.
        score: Higher means more likely, `[S]`.

    Raises:
        InvalidValueError: If lengths differ, a score is NaN, or only one of 0 and 1 occurs.

    Cost:
        O(S log S).
    """
    truth, scores = _checked(target, score)
    num_true = int(truth.sum())
    num_false = len(truth) - num_true
    if not num_true or not num_false:
        raise InvalidValueError("target", f"{num_true} ones of {len(truth)}", "both 0 and 1, each at least once")
    hits, seen = _thresholds(truth, scores)
    misses = seen - hits
    won = np.diff(hits, prepend=0.0) * (num_false - misses + 0.5 * np.diff(misses, prepend=0.0))
    return float(won.sum() / (num_true * num_false))


def ranks(score: npt.ArrayLike, valid: npt.NDArray[np.bool_] | None = None) -> _Float64:
    """Return the rank of column 0 among the candidates of its row, ties at the mean of best and worst place.

    `rank = 1 + (#(others > first) + #(others >= first)) / 2`, TGB's rule.

    Args:
        score: `[B, C]`, column 0 the true answer.
        valid: Which candidates count, `[B, C]`; None counts all. Column 0 always counts.

    Returns:
        float64 `[B]`, from 1 to C, in halves.

    Raises:
        InvalidValueError: If a score that counts is NaN or `score` is no matrix.

    Cost:
        O(B C), one pass.

    References:
        Huang et al., "Temporal Graph Benchmark", NeurIPS 2023, arXiv:2307.01026, its `Evaluator`.
    """
    scores = np.asarray(score)
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise InvalidValueError("score", list(scores.shape), "a matrix [B, C] with C >= 1")
    counted = np.isnan(scores) if valid is None else np.isnan(scores) & valid
    if counted.any() or np.isnan(scores[:, 0]).any():
        row = int(np.flatnonzero(counted.any(axis=1) | np.isnan(scores[:, 0]))[0])
        raise InvalidValueError("score", f"NaN in row {row}", "a number everywhere")
    first, others = scores[:, :1], scores[:, 1:]
    above, level = others > first, others >= first
    if valid is not None:
        above &= valid[:, 1:]
        level &= valid[:, 1:]
    return np.asarray(1.0 + 0.5 * (above.sum(axis=1) + level.sum(axis=1)), dtype=np.float64)


def mean_reciprocal_rank(rank: npt.ArrayLike) -> float:
    """Return the mean of `1 / rank`; `rank` as `ranks` gives it, not empty."""
    return float(np.mean(1.0 / _ranked(rank)))


def hits_at(rank: npt.ArrayLike, k: int) -> float:
    """Return the share of ranks of at most `k`; a tie that reaches beyond `k` on average does not count."""
    if k < 1:
        raise InvalidValueError("k", k, "at least 1")
    return float(np.mean(_ranked(rank) <= k))


def _ranked(rank: npt.ArrayLike) -> _Float64:
    values = np.asarray(rank, dtype=np.float64)
    if not values.size:
        raise InvalidValueError("rank", "no ranks", "at least one")
    return values


def _checked(target: npt.ArrayLike, score: npt.ArrayLike) -> tuple[_Bool, _Float64]:
    truth, scores = np.asarray(target), np.asarray(score, dtype=np.float64)
    if truth.shape != scores.shape or truth.ndim != 1:
        raise InvalidValueError("score", list(scores.shape), f"one number a target ({list(truth.shape)})")
    if np.isnan(scores).any():
        raise InvalidValueError("score", f"NaN at {int(np.flatnonzero(np.isnan(scores))[0])}", "a number everywhere")
    return truth.astype(bool), scores


def _thresholds(truth: _Bool, scores: _Float64) -> tuple[_Float64, _Float64]:
    """Return (true answers, answers) at or above each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last_of_group = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], np.True_))
    hits = np.cumsum(truth[order], dtype=np.float64)[last_of_group]
    return hits, (last_of_group + 1).astype(np.float64)
