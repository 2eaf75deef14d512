"""What a column's values look like: shapes that nearly all share, and misspellings of frequent values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from stepwell.kernels.edit import Letters, edit_distance, letters

_USUAL, _RARE, _CLOSED = 0.05, 0.01, 0.95
_OFTEN, _SHARE = 10, 0.2
_WORD = re.compile(r"[^\W\d_]+")


def shape(value: str) -> str:
    """Return the kinds of a value's characters, runs as one: `"12.0 oz"` is `"9.9 a"`, `"3x590"` is `"9a9"`."""
    kinds = ("9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in value)
    return "".join(kind for kind, _ in groupby(kinds))


def words(value: str) -> list[str]:
    """Return the runs of letters in a value."""
    return _WORD.findall(value)


def odd_shapes(values: Mapping[str, int]) -> set[str]:
    """Return values whose shape is rare in a column where the usual shapes cover nearly everything.

    Args:
        values: Each distinct value with its count.
    """
    total = sum(values.values())
    shapes: Counter[str] = Counter()
    for value, count in values.items():
        shapes[shape(value)] += count
    usual = sum(count for count in shapes.values() if count >= _USUAL * total)
    if usual < _CLOSED * total:
        return set()
    return {value for value in values if shapes[shape(value)] < _RARE * total}


def misspelt(values: Mapping[str, int]) -> dict[str, str]:
    """Return rare values with the much more frequent one that each is a misspelling of.

    A value is one of another at least ten times as frequent if few of its letters differ (at most a fifth of them, one
    in a short word), and not by digits alone: 2014 is no misspelling of 2013.

    Cost: O(D F) distances for D rare and F frequent values.
    """
    total = sum(values.values())
    frequent = [(value, letters(value)) for value, count in values.items() if count >= _OFTEN]
    found = {}
    for value, count in values.items():
        if count >= max(_OFTEN, _RARE * total) * 3 or len(value) < 2:
            continue
        near = _nearest(letters(value), frequent, values, count * _OFTEN)
        if near and _squeeze(near) != _squeeze(value):
            found[value] = near
    return found


def misspelt_words(values: Mapping[str, int]) -> dict[str, str]:
    """Return values with a misspelt word in a column of few words, each with the word put right."""
    seen: Counter[str] = Counter()
    for value, count in values.items():
        for word in words(value):
            seen[word] += count
    if not seen or len(seen) > 0.1 * sum(seen.values()):
        return {}
    right = {word: good for word, good in misspelt(seen).items() if len(word) >= 4}
    if not right:
        return {}
    out = {value: _WORD.sub(lambda found: right.get(found[0], found[0]), value) for value in values}
    return {value: better for value, better in out.items() if better != value}


def _squeeze(value: str) -> str:
    """Return a value with its numbers alike."""
    return re.sub(r"\d+", "9", value)


def _nearest(
    value: Letters, frequent: Sequence[tuple[str, Letters]], values: Mapping[str, int], least: int
) -> str | None:
    best, most = None, max(1, int(_SHARE * len(value)))
    for text, other in frequent:
        if values[text] < least:
            continue
        distance = edit_distance(value, other, most)
        if 0 < distance < most or (distance == most and (best is None or values[text] > values[best])):
            best, most = text, int(distance)
    return best
