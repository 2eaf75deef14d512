"""Checks agree with the plain definition of what they check, for any table."""

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.kernels.agree import FirstValues, Members, SeenTwice, seen_twice_reference, torn_reference
from stepwell.prepare.clean.constraints import Determines, ForeignKey, Matches, Unique
from stepwell.prepare.clean.scan import check

small = st.lists(st.integers(0, 40), max_size=60)
cells = st.sampled_from(["", "a", "b", None])
pairs = st.lists(st.tuples(cells, cells), min_size=1, max_size=20)


@given(small, st.integers(1, 7))
def test_keys_seen_twice_are_those_of_the_reference(values, block):
    keys = np.array(values, np.uint64)
    seen = SeenTwice(64)
    blocks = [keys[i : i + block] for i in range(0, len(keys), block)]
    for one in blocks:
        seen.add(one)
    for one in blocks:
        seen.collect(one)
    assert np.array_equal(seen.repeated(), seen_twice_reference(keys))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 2)), max_size=60), st.integers(1, 50), st.booleans())
def test_torn_keys_are_those_of_the_reference_however_far_the_table_grew(rows, block, grown):
    wide = [(i, 0) for i in range(4000)] if grown else []
    keys, values = (np.array([row[j] for row in [*wide, *rows]], np.uint64) for j in (0, 1))
    first = FirstValues()
    for i in range(0, len(keys), block * 40 if grown else block):
        end = i + (block * 40 if grown else block)
        first.add(keys[i:end], values[i:end])
    assert np.array_equal(first.torn(), torn_reference(keys, values))


@given(st.lists(st.integers(-9, 9), min_size=1), st.lists(st.integers(-12, 12)))
def test_a_map_of_whole_numbers_lacks_what_is_not_among_them(there, asked):
    members = Members(min(there), max(there))
    members.add(np.array(there, np.int64))
    assert members.lacks(np.array(asked, np.int64)) == (not set(asked) <= set(there))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3) | st.none(), min_size=1), st.lists(st.integers(-3, 3) | st.none()), st.booleans())
def test_foreign_keys_agree_with_their_definition_as_numbers_and_as_texts(mine, others, as_text):
    kind = pa.string() if as_text else pa.int32()
    table = pa.table({"_row": range(len(mine)), "a": pa.array(mine, pa.int32()).cast(kind)})
    other = pa.table({"b": pa.array(others, pa.int64()).cast(pa.string() if as_text else pa.int64())})
    checked = check(table, [ForeignKey(("a",), "other", ("b",))], others={"other": other})
    lost = [row for row, value in enumerate(mine) if value is not None and value not in others]
    assert checked.violations["_row"].to_pylist() == lost


@settings(max_examples=40, deadline=None)
@given(pairs)
def test_unique_and_dependency_agree_with_their_definitions(rows):
    table = pa.table({"_row": range(len(rows)), "a": [a for a, _ in rows], "b": [b for _, b in rows]})
    table = table.cast(pa.schema([("_row", pa.int64()), ("a", pa.string()), ("b", pa.string())]))
    checked = check(table, [Unique(("a", "b")), Determines(("a",), "b")])
    found = {name: set() for name in ("unique a, b", "a -> b")}
    for row in checked.violations.to_pylist():
        found[row["constraint"]].add(row["_row"])
    full = [(i, a, b) for i, (a, b) in enumerate(rows) if a is not None and b is not None]
    assert found["unique a, b"] == {i for i, a, b in full if sum((a, b) == row[1:] for row in full) > 1}
    wrong = set()
    for i, a, b in full:
        counts = {y: sum(row[1:] == (a, y) for row in full) for y in {row[2] for row in full if row[1] == a}}
        top = [y for y, count in counts.items() if count == max(counts.values())]
        wrong |= {i} if b not in top or len(top) > 1 else set()
    assert found["a -> b"] == wrong


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text("ab1\n", max_size=4), min_size=1, max_size=8),
    st.sampled_from(["a*", "a|b", "[ab]{1,2}", "a.b", "", "(a|ab)(1|b1)?", "\\w+"]),
)
def test_matches_means_the_whole_text(texts, pattern):
    table = pa.table({"_row": range(len(texts)), "a": texts})
    found = set(check(table, [Matches("a", pattern)]).violations.column("_row").to_pylist())
    assert found == {i for i, text in enumerate(texts) if not re.fullmatch(pattern, text)}
