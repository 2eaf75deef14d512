"""Truth discovery: several sources give values for the same thing, and each source errs at its own rate.

The label engine for open sets of values: every item has its own candidates, namely what was said of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core import Ids
from stepwell.core.errors import InvalidValueError
from stepwell.prepare.label.engine import Prior
from stepwell.prepare.label.votes import Floats

CLAIMS = Prior(mean=0.8, strength=4.0)
"""What is believed of a source of values beforehand: more than of a voter, because it was published or typed in."""


@dataclass(frozen=True, eq=False)
class Truths:
    """The most probable value of each item.

    Args:
        item: Ids of the items that have a value, ascending, `[N]`.
        value: The value of each.
        confidence: Its probability, `[N]`.
        accuracy: How often each source is right, `[m]`.
        likelihoods: Penalised log likelihood of the claims at each iteration.
    """

    item: Ids
    value: pa.Array
    confidence: Floats
    accuracy: Floats
    likelihoods: tuple[float, ...]

    def table(self) -> pa.Table:
        """Return `_row`, `value`, `confidence`."""
        return pa.table({"_row": self.item, "value": self.value, "confidence": self.confidence})


def discover(
    item: npt.ArrayLike,
    source: npt.ArrayLike,
    value: pa.Array | pa.ChunkedArray,
    *,
    num_false: float = 10.0,
    prior: Prior = CLAIMS,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> Truths:
    """Return the most probable value of each item among those that were claimed.

    Guarantee: the penalised likelihood of the claims never falls; equal claims give equal results in any order, and a
    tie goes to the value that sorts first as text.

    Args:
        item: Which thing is spoken of (an entity, or a pair of entity and attribute), `[V]`.
        source: Numbers of the sources from 0, `[V]`.
        value: What is claimed, of any type that can be cast to text and compared; null is no claim, `[V]`.
        num_false: How many false values a careless source picks from, for an item; a value that two sources share is
            the more convincing the more there are.
        prior: What is believed of a source beforehand; only its mean and strength count.
        max_iterations: Most iterations.
        tolerance: A fit ends when no probability moves by more.

    Raises:
        InvalidValueError: If lengths differ or `num_false` is below 1.

    Cost: O(V log V) once, then O(V) an iteration.

    References:
        Dong, Berti-Equille and Srivastava, "Integrating conflicting data: the role of source dependence", PVLDB 2(1),
        2009, section 3.2. Differs: expectation maximisation with a prior on sources; dependence is left out.

    Example:
        >>> found = discover([1, 1, 1, 2], [0, 1, 2, 0], pa.array(["Rome", "Rome", "Milan", "Oslo"]))
        >>> found.value.to_pylist()
        ['Rome', 'Oslo']
    """
    ids, who = np.asarray(item, np.int64), np.asarray(source, np.int64)
    cells = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value
    if not (len(ids) == len(who) == len(cells)):
        raise InvalidValueError("item, source and value", (len(ids), len(who), len(cells)), "of one length")
    if num_false < 1 or (len(who) and who.min() < 0):
        raise InvalidValueError("num_false, source", (num_false, who.min(initial=0)), "at least 1, and at least 0")
    num_sources = int(who.max(initial=-1)) + 1
    claims = _claims(ids, who, cells)
    belief = np.full(len(claims.first), 1.0)
    right = np.bincount(claims.source, claims.share, num_sources)
    size = np.bincount(claims.source, minlength=num_sources)
    trace: list[float] = []
    accuracy = np.full(num_sources, prior.mean)
    for _ in range(max_iterations):
        accuracy = (right + prior.mean * prior.strength) / (size + prior.strength)
        hit, miss = np.log(accuracy), np.log1p(-accuracy)
        penalty = prior.strength * (prior.mean * hit + (1 - prior.mean) * miss)[size > 0].sum()
        likelihood, change = _weigh(claims.indptr, claims.begin, claims.source, hit, miss - np.log(num_false), belief)
        trace.append(float(likelihood + penalty))
        right = np.bincount(claims.source, belief[claims.candidate], num_sources)
        if change < tolerance:
            break
    return _truths(claims, belief, cells, accuracy, tuple(trace))


@dataclass(frozen=True, eq=False)
class _Claims:
    """Claims sorted by item and value: items own ranges of candidates, candidates own ranges of claims."""

    item: Ids  # of each item [N]
    indptr: Ids  # where an item's candidates begin [N + 1]
    begin: Ids  # where a candidate's claims begin [C + 1]
    first: Ids  # place in the input of a claim of each candidate [C]
    source: Ids  # of each claim [V]
    candidate: Ids  # of each claim [V]
    share: Floats  # of each claim: the share of its item's claims that its value got [V]


def _claims(ids: Ids, who: Ids, cells: pa.Array) -> _Claims:
    text = cells.cast(pa.string())
    known = np.flatnonzero(np.asarray(text.is_valid()))
    words = text.take(pa.array(known)).dictionary_encode()
    rank = np.empty(len(words.dictionary), np.int64)
    rank[np.argsort(np.array(words.dictionary.to_pylist(), dtype=object))] = np.arange(len(rank))
    code = rank[words.indices.to_numpy()] if len(known) else np.empty(0, np.int64)
    order = np.lexsort((known, who[known], code, ids[known]))
    places, code = known[order], code[order]
    item, source = ids[places], who[places]
    fresh = np.ones(len(places), bool)  # a source that repeats itself says it once
    same = (item[1:] == item[:-1]) & (code[1:] == code[:-1])
    fresh[1:] = ~(same & (source[1:] == source[:-1]))
    places, code, item, source = places[fresh], code[fresh], item[fresh], source[fresh]
    starts = np.ones(len(places), bool)
    starts[1:] = (item[1:] != item[:-1]) | (code[1:] != code[:-1])
    begin = np.append(np.flatnonzero(starts), len(places)).astype(np.int64)
    owner = item[begin[:-1]]
    items, at = np.unique(owner, return_index=True)
    candidate = np.cumsum(starts) - 1
    per_item = np.bincount(np.searchsorted(items, item), minlength=len(items))
    share = np.diff(begin)[candidate] / per_item[np.searchsorted(items, item)]
    indptr = np.append(at, len(owner)).astype(np.int64)
    return _Claims(items, indptr, begin, places[begin[:-1]], source, candidate.astype(np.int64), share)


@numba.njit(cache=True, nogil=True)
def _weigh(indptr: Ids, begin: Ids, source: Ids, hit: Floats, miss: Floats, belief: Floats) -> tuple[float, float]:
    """Overwrite the probability of each candidate; return the log likelihood and the largest change."""
    likelihood = 0.0
    change = 0.0
    for item in range(len(indptr) - 1):
        base, top = 0.0, -np.inf
        first, last = indptr[item], indptr[item + 1]
        log = np.zeros(last - first)
        for place in range(first, last):
            for claim in range(begin[place], begin[place + 1]):
                base += miss[source[claim]]
                log[place - first] += hit[source[claim]] - miss[source[claim]]
            top = max(top, log[place - first])
        total = 0.0
        for place in range(first, last):
            total += np.exp(log[place - first] - top)
        likelihood += base + top + np.log(total / (last - first))
        for place in range(first, last):
            value = np.exp(log[place - first] - top) / total
            change = max(change, abs(value - belief[place]))
            belief[place] = value
    return likelihood, change


def weigh_reference(
    indptr: Ids, begin: Ids, source: Ids, hit: Floats, miss: Floats, belief: Floats
) -> tuple[float, float]:
    """State, one candidate at a time, what `_weigh` must compute."""
    likelihood, change = 0.0, 0.0
    for item in range(len(indptr) - 1):
        places = range(indptr[item], indptr[item + 1])
        claims = [(p, source[c]) for p in places for c in range(begin[p], begin[p + 1])]
        joint = np.array([sum(hit[who] if p == truth else miss[who] for p, who in claims) for truth in places])
        evidence = float(np.logaddexp.reduce(joint))
        likelihood += evidence - float(np.log(len(joint)))
        found = np.exp(joint - evidence)
        change = max(change, float(np.abs(found - belief[places.start : places.stop]).max()))
        belief[places.start : places.stop] = found
    return likelihood, change


def _truths(claims: _Claims, belief: Floats, cells: pa.Array, accuracy: Floats, trace: tuple[float, ...]) -> Truths:
    top = np.maximum.reduceat(belief, claims.indptr[:-1]) if len(claims.item) else np.empty(0)
    owner = np.repeat(np.arange(len(claims.item)), np.diff(claims.indptr))
    winners = np.flatnonzero(belief >= top[owner] - 1e-12) if len(owner) else np.empty(0, np.int64)
    _, first = np.unique(owner[winners], return_index=True)
    chosen = winners[first]
    value = cells.take(pa.array(claims.first[chosen]))
    return Truths(claims.item, value, belief[chosen], accuracy, trace)
