"""Numba kernels of record linkage: string similarities, sparse cosines, nearest records, bipartite marginals.

Strings are concatenated code points (`codes` int32) cut by `bounds` (int64, one more than strings). Bags of terms are
rows of a CSR matrix (`indptr`, ascending `ids`, `weights`). Pairs are two int64 arrays of row positions.
"""

# ruff: noqa: ANN001, ANN201, ANN202
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def jaro_winkler(codes_a, begin_a, end_a, codes_b, begin_b, end_b, seen_a, seen_b):
    """Return the Jaro-Winkler similarity of two strings (prefix weight .1, at most four letters).

    `seen_a` and `seen_b` are scratch space, at least as long as the strings.
    """
    n, m = end_a - begin_a, end_b - begin_b
    if n == 0 or m == 0:
        return 1.0 if n == m else 0.0
    seen_a[:n] = False
    seen_b[:m] = False
    window = max(0, max(n, m) // 2 - 1)
    common = 0
    for i in range(n):
        for j in range(max(0, i - window), min(m, i + window + 1)):
            if not seen_b[j] and codes_a[begin_a + i] == codes_b[begin_b + j]:
                seen_a[i] = seen_b[j] = True
                common += 1
                break
    if common == 0:
        return 0.0
    swapped = j = 0
    for i in range(n):
        if seen_a[i]:
            while not seen_b[j]:
                j += 1
            swapped += codes_a[begin_a + i] != codes_b[begin_b + j]
            j += 1
    jaro = (common / n + common / m + (common - swapped // 2) / common) / 3
    prefix = 0
    while prefix < min(4, n, m) and codes_a[begin_a + prefix] == codes_b[begin_b + prefix]:
        prefix += 1
    return jaro + 0.1 * prefix * (1 - jaro)


@numba.njit(cache=True, nogil=True)
def jaro_winkler_pairs(codes_a, bounds_a, codes_b, bounds_b, left, right):
    """Return the similarity of string `left[i]` of `a` and string `right[i]` of `b` for every pair."""
    seen_a = np.empty(max(1, _longest(bounds_a)), np.bool_)
    seen_b = np.empty(max(1, _longest(bounds_b)), np.bool_)
    out = np.empty(len(left))
    for p in range(len(left)):
        i, j = left[p], right[p]
        out[p] = jaro_winkler(
            codes_a, bounds_a[i], bounds_a[i + 1], codes_b, bounds_b[j], bounds_b[j + 1], seen_a, seen_b
        )
    return out


@numba.njit(cache=True, nogil=True)
def edit_pairs(codes_a, bounds_a, codes_b, bounds_b, left, right):
    """Return 1 - edit distance / the longer length for every pair of strings; two empty strings are equal."""
    row = np.empty(_longest(bounds_b) + 1, np.int64)
    out = np.empty(len(left))
    for p in range(len(left)):
        begin_a, begin_b = bounds_a[left[p]], bounds_b[right[p]]
        n, m = bounds_a[left[p] + 1] - begin_a, bounds_b[right[p] + 1] - begin_b
        for j in range(m + 1):
            row[j] = j
        for i in range(n):
            corner = row[0]
            row[0] = i + 1
            for j in range(m):
                change = corner + (codes_a[begin_a + i] != codes_b[begin_b + j])
                corner = row[j + 1]
                row[j + 1] = min(change, row[j] + 1, corner + 1)
        out[p] = 1.0 if max(n, m) == 0 else 1 - row[m] / max(n, m)
    return out


@numba.njit(cache=True, nogil=True)
def _longest(bounds):
    longest = 0
    for i in range(len(bounds) - 1):
        longest = max(longest, bounds[i + 1] - bounds[i])
    return longest


@numba.njit(cache=True, nogil=True)
def cosine_pairs(indptr_a, ids_a, weights_a, indptr_b, ids_b, weights_b, left, right):
    """Return the inner product of two bags for every pair."""
    out = np.empty(len(left))
    for p in range(len(left)):
        i, end_i = indptr_a[left[p]], indptr_a[left[p] + 1]
        j, end_j = indptr_b[right[p]], indptr_b[right[p] + 1]
        total = 0.0
        while i < end_i and j < end_j:
            if ids_a[i] == ids_b[j]:
                total += weights_a[i] * weights_b[j]
                i += 1
                j += 1
            elif ids_a[i] < ids_b[j]:
                i += 1
            else:
                j += 1
        out[p] = total
    return out


@numba.njit(cache=True, nogil=True)
def soft_pairs(codes, bounds, indptr_a, ids_a, weights_a, indptr_b, ids_b, weights_b, left, right, floor):
    """Return the cosine of two bags in which words that are nearly equal count as much as they are alike.

    Each word of the one bag meets its most similar word of the other, if their Jaro-Winkler similarity reaches
    `floor`; an initial meets any word that it begins. The result is the mean of both directions.
    """
    seen_a = np.empty(max(1, _longest(bounds)), np.bool_)
    seen_b = np.empty_like(seen_a)
    out = np.empty(len(left))
    for p in range(len(left)):
        begin_a, end_a = indptr_a[left[p]], indptr_a[left[p] + 1]
        begin_b, end_b = indptr_b[right[p]], indptr_b[right[p] + 1]
        best_b = np.zeros(end_b - begin_b)
        forth = 0.0
        for i in range(begin_a, end_a):
            best = 0.0
            for j in range(begin_b, end_b):
                same = _alike(codes, bounds, ids_a[i], ids_b[j], seen_a, seen_b, floor)
                gain = same * weights_a[i] * weights_b[j]
                best = max(best, gain)
                best_b[j - begin_b] = max(best_b[j - begin_b], gain)
            forth += best
        out[p] = min(1.0, (forth + best_b.sum()) / 2)
    return out


@numba.njit(cache=True, nogil=True)
def _alike(codes, bounds, a, b, seen_a, seen_b, floor):
    if a == b:
        return 1.0
    n, m = bounds[a + 1] - bounds[a], bounds[b + 1] - bounds[b]
    if n == 1 or m == 1:
        return floor if codes[bounds[a]] == codes[bounds[b]] and codes[bounds[a]] > 57 else 0.0
    same = jaro_winkler(codes, bounds[a], bounds[a + 1], codes, bounds[b], bounds[b + 1], seen_a, seen_b)
    return same if same >= floor else 0.0


@numba.njit(cache=True, nogil=True)
def nearest(indptr_a, ids_a, weights_a, post, rows, weights, num_rows, k, itself):
    """Return for each bag of `a` the `k` bags of the other side with the largest inner product, larger first.

    `post` and `rows`, `weights` are the other side's inverted lists by term. With `itself` both sides are one table,
    and a row is not its own neighbour. Equal products are decided by the smaller row. Places without a row hold -1.
    """
    found = np.full((len(indptr_a) - 1, k), -1, np.int64)
    products = np.zeros((len(indptr_a) - 1, k))
    score = np.zeros(num_rows)
    touched = np.empty(num_rows, np.int64)
    for i in range(len(indptr_a) - 1):
        count = 0
        for t in range(indptr_a[i], indptr_a[i + 1]):
            for q in range(post[ids_a[t]], post[ids_a[t] + 1]):
                row = rows[q]
                if itself and row == i:
                    continue
                if score[row] == 0.0:
                    touched[count] = row
                    count += 1
                score[row] += weights_a[t] * weights[q]
        filled = 0
        for c in range(count):
            row, value = touched[c], score[touched[c]]
            score[row] = 0.0
            if filled == k and not _before(value, row, products[i, k - 1], found[i, k - 1]):
                continue
            place = min(filled, k - 1)
            filled = min(filled + 1, k)
            while place > 0 and _before(value, row, products[i, place - 1], found[i, place - 1]):
                found[i, place], products[i, place] = found[i, place - 1], products[i, place - 1]
                place -= 1
            found[i, place], products[i, place] = row, value
    return found, products


@numba.njit(inline="always")
def _before(value, row, other, other_row):
    return value > other or (value == other and row < other_row)


@numba.njit(cache=True, nogil=True)
def matching_marginals(weight, order_a, bounds_a, order_b, bounds_b, rounds, tolerance):
    """Return for each pair the probability that it is in a matching drawn in proportion to the product of weights.

    Belief propagation for monomer-dimer systems, exact on forests. `order_a` lists the pairs by their left record,
    cut by `bounds_a`; `order_b` and `bounds_b` do the same for the right.
    """
    from_a = np.ones(len(weight))  # how free the left record is if this pair is left out
    from_b = np.ones(len(weight))
    for _ in range(rounds):
        change = _free(weight, order_a, bounds_a, from_b, from_a)
        change = max(change, _free(weight, order_b, bounds_b, from_a, from_b))
        if change < tolerance:
            break
    odds = weight * from_a * from_b
    return odds / (1 + odds)


@numba.njit(cache=True, nogil=True)
def _free(weight, order, bounds, other, free):
    """Update the messages of one side: 1 / (1 + weights of the record's other pairs times their partners' messages)."""
    change = 0.0
    for record in range(len(bounds) - 1):
        begin, end = bounds[record], bounds[record + 1]
        every = 1.0
        for p in range(begin, end):
            every += weight[order[p]] * other[order[p]]
        for p in range(begin, end):
            total = every - weight[order[p]] * other[order[p]]
            if total < 0.5 * every:  # digits would cancel: add the others up
                total = 1.0
                for o in range(begin, end):
                    if o != p:
                        total += weight[order[o]] * other[order[o]]
            change = max(change, abs(free[order[p]] - 1 / total))
            free[order[p]] = 1 / total
    return change
