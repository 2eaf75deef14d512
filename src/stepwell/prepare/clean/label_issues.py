"""Labels that are probably wrong, by confident learning, and the out-of-sample probabilities that it needs.

References:
    Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.draws import Draw
from stepwell.core.errors import DataError, InvalidValueError

Floats = npt.NDArray[np.floating]
Ids = npt.NDArray[np.int64]
ISSUES = pa.schema(
    [("_row", pa.int64()), ("label", pa.int64()), ("suggested", pa.int64()), ("confidence", pa.float64())]
)


@dataclass(frozen=True)
class Probe:
    """A model of any kind, as two functions.

    Args:
        fit: Takes features `[n, F]` and labels `[n]` and returns a fitted model.
        predict_proba: Takes that model and features `[m, F]` and returns probabilities `[m, K]`; the columns are the
            classes 0 to K - 1, or the classes that the model saw, in order.
    """

    fit: Callable[[Floats, Ids], object]
    predict_proba: Callable[[object, Floats], Floats]


@dataclass(frozen=True)
class OutOfSample:
    """Probabilities that no row's own label helped to make.

    Args:
        probabilities: `[N, K]`.
        fold: Which fold each row was held out in, `[N]`.
    """

    probabilities: Floats
    fold: Ids


def out_of_sample(
    probe: Probe, features: Floats, labels: Ids, *, folds: int = 5, groups: Ids | None = None, seed: int = 0
) -> OutOfSample:
    """Predict every row by a model that was fitted without it.

    Args:
        probe: The model.
        features: `[N, F]`.
        labels: Classes from 0, `[N]`.
        folds: Parts; each class is spread over all of them.
        groups: Rows of one group (an entity, a duplicate) are held out together, `[N]`.
        seed: Of the parts.

    Raises:
        DataError: If a class is missing from a training part, or the model gives no probabilities.

    Cost: `folds` fits on `1 - 1/folds` of the rows.
    """
    _check_labels(labels, len(features))
    if not 2 <= folds <= len(labels):
        raise InvalidValueError("folds", folds, f"from 2 to the {len(labels)} rows")
    num_classes = int(labels.max()) + 1
    fold = _folds(labels, folds, seed) if groups is None else _group_folds(groups, folds, seed)
    out = np.zeros((len(labels), num_classes))
    for part in range(folds):
        held, rest = fold == part, fold != part
        known = np.unique(labels[rest])
        found = np.asarray(probe.predict_proba(probe.fit(features[rest], labels[rest]), features[held]))
        if found.shape != (held.sum(), num_classes) and found.shape != (held.sum(), len(known)):
            allowed = f"[{held.sum()}, {num_classes}]"
            raise DataError("probe", f"gave probabilities of shape {found.shape}", allowed, "correct `predict_proba`")
        out[np.ix_(held, known if found.shape[1] == len(known) else np.arange(num_classes))] = found
    if not np.isfinite(out).all() or (out < 0).any() or not np.allclose(out.sum(1), 1, atol=1e-3):
        fix = "return softmax, not scores"
        raise DataError("probe", "gave rows that do not sum to 1", "probabilities", fix)
    return OutOfSample(out, fold)


def label_issues(labels: Ids, predicted: OutOfSample, *, rows: Ids | None = None) -> pa.Table:
    """Return the labels that are probably wrong, the most doubtful first.

    A class's threshold is the mean probability of that class over the rows labelled so. A row is an issue if, among the
    classes whose probability reaches their threshold, the most probable is not its label, and its label is not the most
    probable class of all either.

    Args:
        labels: Classes from 0, `[N]`.
        predicted: From `out_of_sample`; probabilities of rows that helped to fit are not accepted.
        rows: Ids of the rows, `[N]`; by default their positions.

    Returns:
        `_row`, `label`, `suggested` (the class found instead), `confidence` (the probability of the label given).

    Cost: O(N K).
    """
    if not isinstance(predicted, OutOfSample):
        allowed = "the result of `out_of_sample`: in-sample probabilities repeat wrong labels"
        raise InvalidValueError("predicted", type(predicted).__name__, allowed)
    probabilities = predicted.probabilities
    _check_labels(labels, len(probabilities))
    confident = _confident_class(labels, probabilities)
    wrong = np.flatnonzero((confident >= 0) & (confident != labels) & (probabilities.argmax(1) != labels))
    own = probabilities[np.arange(len(labels)), labels]
    wrong = wrong[np.argsort(own[wrong], kind="stable")]
    ids = np.arange(len(labels)) if rows is None else rows
    return pa.table([ids[wrong], labels[wrong], confident[wrong], own[wrong].astype(np.float64)], schema=ISSUES)


def confident_joint(labels: Ids, predicted: OutOfSample) -> npt.NDArray[np.int64]:
    """Return how many rows of each given label (row) confidently belong to each class (column), `[K, K]`."""
    confident = _confident_class(labels, predicted.probabilities)
    num_classes = predicted.probabilities.shape[1]
    known = confident >= 0
    flat = np.bincount(labels[known] * num_classes + confident[known], minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def _confident_class(labels: Ids, probabilities: Floats) -> Ids:
    """Return the most probable class among those at or above their threshold, or -1."""
    own = probabilities[np.arange(len(labels)), labels]
    num_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, weights=own, minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf) - 1e-6
    above = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = above.argmax(1)
    return np.where(above[np.arange(len(labels)), best] >= 0, best, -1).astype(np.int64)


def _check_labels(labels: Ids, size: int) -> None:
    if len(labels) != size or not len(labels):
        raise InvalidValueError("labels", f"{len(labels)} labels", f"one for each of {size} rows, at least one")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise InvalidValueError("labels", f"{labels.dtype} from {labels.min()}", "integers from 0")


def _folds(labels: Ids, folds: int, seed: int) -> Ids:
    """Deal the rows of each class to the folds in turn, in a random order."""
    key = Draw(seed, "label issues").bits(np.arange(len(labels)), 1)[:, 0]
    order = np.lexsort((key, labels))
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def _group_folds(groups: Ids, folds: int, seed: int) -> Ids:
    _, inverse = np.unique(groups, return_inverse=True)
    return Draw(seed, "label issues").integers(np.arange(int(inverse.max()) + 1), 1, folds)[:, 0][inverse]
