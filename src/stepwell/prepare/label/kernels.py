"""One pass of expectation maximisation over patterns of votes, and its slow twin.

A source with one number has two log probabilities, `hit[s]` for its vote being right and `miss[s]` for any one wrong
label; a source with a confusion matrix has a place `slot[s] >= 0` in `tables[slot, label, class]`. `K` is the number
of classes, `P` of patterns, `V` of their votes. A pattern's weight says how many items have it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from stepwell.core import Ids
from stepwell.prepare.label.patterns import Patterns
from stepwell.prepare.label.votes import Floats


class Voters(NamedTuple):
    """What is believed of the sources, as log probabilities.

    Args:
        hit: Log probability that a source's vote is right, `[m]`.
        miss: Log probability of each wrong label, `[m]`.
        slot: Place of a source's confusion matrix in `tables`, -1 if it has none, `[m]`.
        tables: Log probability of a label given a class, `[c, K, K]` with the label first.
    """

    hit: Floats
    miss: Floats
    slot: Ids
    tables: Floats


class Counts(NamedTuple):
    """Expected counts, from which the next belief is made.

    Args:
        right: Expected number of right votes of each source, `[m]`; not counted for sources with a slot.
        tables: Expected votes by label and class of the sources that have a slot, `[c, K, K]`.
    """

    right: Floats
    tables: Floats


def expect(patterns: Patterns, voters: Voters, log_prior: Floats, posterior: Floats) -> tuple[float, float, Counts]:
    """Overwrite `posterior` by the classes' probabilities given the votes, and count what follows for the sources.

    Args:
        patterns: The votes.
        voters: What is believed of the sources.
        log_prior: Log probability of each class, `[K]`.
        posterior: `[P, K]`, overwritten; where there are neither votes nor gold it becomes the prior.

    Returns:
        The log likelihood of all votes and gold, the largest change of a probability of a pattern with weight, and
        the counts.

    Cost: O(V + P K) for sources with one number, O(V K) for those with confusion matrices; allocates the counts.
    """
    right, tables = np.zeros_like(voters.hit), np.zeros_like(voters.tables)
    votes = (patterns.indptr, patterns.source, patterns.label, patterns.gold, patterns.weight)
    found = _expect(*votes, *voters, log_prior, posterior, right, tables)
    return float(found[0]), float(found[1]), Counts(right, tables)


def count(patterns: Patterns, slot: Ids, posterior: Floats) -> Counts:
    """Count what given probabilities mean for the sources, as `expect` does after its own.

    Args:
        patterns: The votes.
        slot: Place of each source's confusion matrix, -1 if it has none, `[m]`.
        posterior: Probabilities, `[P, K]`.

    Cost: O(V) or, with confusion matrices, O(V K).
    """
    classes = posterior.shape[1]
    right = np.zeros(len(slot))
    tables = np.zeros((int(slot.max(initial=-1)) + 1, classes, classes))
    _count(patterns.indptr, patterns.source, patterns.label, patterns.weight, slot, posterior, right, tables)
    return Counts(right, tables)


@numba.njit(cache=True, nogil=True)
def _expect(
    indptr: Ids,
    source: Ids,
    label: Ids,
    gold: Ids,
    weight: Floats,
    hit: Floats,
    miss: Floats,
    slot: Ids,
    tables: Floats,
    log_prior: Floats,
    posterior: Floats,
    right: Floats,
    counted: Floats,
) -> tuple[float, float]:
    log = np.empty(len(log_prior))
    likelihood = 0.0
    change = 0.0
    for item in range(len(indptr) - 1):
        begin, end = indptr[item], indptr[item + 1]
        base = _join(source[begin:end], label[begin:end], hit, miss, slot, tables, log_prior, log)
        evidence, moved = _settle(log, gold[item], posterior[item])
        if weight[item] > 0:
            change = max(change, moved)
            likelihood += weight[item] * (base + evidence)
    _count(indptr, source, label, weight, slot, posterior, right, counted)
    return likelihood, change


@numba.njit(cache=True, nogil=True)
def _join(
    source: Ids, label: Ids, hit: Floats, miss: Floats, slot: Ids, tables: Floats, log_prior: Floats, log: Floats
) -> float:
    """Write the joint log probability of a row of votes and each class, less what is returned."""
    base = 0.0  # what all classes have in common
    for k in range(len(log)):
        log[k] = log_prior[k]
    for vote in range(len(source)):
        who, said = source[vote], label[vote]
        place = slot[who]
        if place < 0:
            base += miss[who]
            log[said] += hit[who] - miss[who]
        else:
            for k in range(len(log)):
                log[k] += tables[place, said, k]
    return base


@numba.njit(cache=True, nogil=True)
def _settle(log: Floats, known: int, posterior: Floats) -> tuple[float, float]:
    """Write one posterior, and scratch over `log`; return the log evidence and the largest change."""
    top = log[0]
    for k in range(1, len(log)):
        top = max(top, log[k])
    joint = log[known] if known >= 0 else 0.0
    total = 0.0
    for k in range(len(log)):
        log[k] = np.exp(log[k] - top)
        total += log[k]
    change = 0.0
    for k in range(len(log)):
        value = log[k] / total
        if known >= 0:
            value = 1.0 if k == known else 0.0
        change = max(change, abs(value - posterior[k]))
        posterior[k] = value
    return (joint if known >= 0 else top + np.log(total)), change


@numba.njit(cache=True, nogil=True)
def _count(
    indptr: Ids,
    source: Ids,
    label: Ids,
    weight: Floats,
    slot: Ids,
    posterior: Floats,
    right: Floats,
    counted: Floats,
) -> None:
    for item in range(len(indptr) - 1):
        for vote in range(indptr[item], indptr[item + 1]):
            who, said = source[vote], label[vote]
            place = slot[who]
            if place < 0:
                right[who] += weight[item] * posterior[item, said]
            else:
                for k in range(posterior.shape[1]):
                    counted[place, said, k] += weight[item] * posterior[item, k]


def log_evidence(counts: Floats, pseudo: Floats) -> Floats:
    """Return how probable each row of counts is when its probabilities are unknown, as a logarithm, `[n]`.

    The density of the probabilities is proportional to their product, each to the power of its pseudo-count; it is
    integrated out in closed form.

    Args:
        counts: Counts of each outcome, in a fixed order of events, `[n, L]`.
        pseudo: Pseudo-counts of the outcomes, `[L]`.

    Cost: O(n L).
    """
    out = np.empty(len(counts))
    _log_evidence(counts, pseudo + 1.0, out)
    return out


@numba.njit(cache=True, nogil=True)
def _log_evidence(counts: Floats, alpha: Floats, out: Floats) -> None:
    whole = alpha.sum()
    for row in range(len(counts)):
        found = math.lgamma(whole)
        total = whole
        for k in range(len(alpha)):
            found += math.lgamma(alpha[k] + counts[row, k]) - math.lgamma(alpha[k])
            total += counts[row, k]
        out[row] = found - math.lgamma(total)


def expect_reference(
    patterns: Patterns, voters: Voters, log_prior: Floats, posterior: Floats
) -> tuple[float, float, Counts]:
    """State, one pattern at a time, what `expect` must compute; `posterior` is overwritten likewise."""
    classes = len(log_prior)
    before = posterior.copy()
    likelihood, change = 0.0, 0.0
    for item, known in enumerate(patterns.gold):
        votes = range(patterns.indptr[item], patterns.indptr[item + 1])
        says = [(patterns.source[vote], patterns.label[vote]) for vote in votes]
        joint = [log_prior[k] + sum(_says(voters, who, said, k) for who, said in says) for k in range(classes)]
        evidence = float(np.logaddexp.reduce(joint))
        posterior[item] = np.eye(classes)[known] if known >= 0 else np.exp(np.array(joint) - evidence)
        if patterns.weight[item] > 0:
            likelihood += patterns.weight[item] * (joint[known] if known >= 0 else evidence)
            change = max(change, float(np.abs(posterior[item] - before[item]).max()))
    return likelihood, change, count_reference(patterns, voters.slot, posterior)


def _says(voters: Voters, who: int, said: int, truth: int) -> float:
    if voters.slot[who] >= 0:
        return float(voters.tables[voters.slot[who], said, truth])
    return float(voters.hit[who] if said == truth else voters.miss[who])


def count_reference(patterns: Patterns, slot: Ids, posterior: Floats) -> Counts:
    """State, one vote at a time, what `count` must compute."""
    classes = posterior.shape[1]
    right, tables = np.zeros(len(slot)), np.zeros((int(slot.max(initial=-1)) + 1, classes, classes))
    for item, weight in enumerate(patterns.weight):
        for vote in range(patterns.indptr[item], patterns.indptr[item + 1]):
            who, said = patterns.source[vote], patterns.label[vote]
            if slot[who] < 0:
                right[who] += weight * posterior[item, said]
            else:
                tables[slot[who], said] += weight * posterior[item]
    return Counts(right, tables)
