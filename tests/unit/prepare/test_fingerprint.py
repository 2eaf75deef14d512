"""A fingerprint changes when what is computed changes, and only then."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
import torch

from stepwell.core.errors import InvalidValueError
from stepwell.prepare.fingerprint import fingerprint

FACTOR = 2


def helper(value):
    return value * FACTOR


def uses_helper(value):
    return helper(value) + 1


def build(text, name="f"):
    space = {"__name__": "__main__"}
    exec(text, space)
    return space[name]


@dataclass(frozen=True)
class Settings:
    width: int
    names: tuple[str, ...] = ()


def test_comments_do_not_count_and_code_does():
    one = build("def f(x):\n    return x + 1\n")
    same = build("def f(x):\n    # why\n\n    return x + 1\n")
    other = build("def f(x):\n    return x + 2\n")
    default = build("def f(x, y=1):\n    return x + 1\n")
    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(f) for f in (one, other, default)}) == 3


def test_functions_that_are_called_and_constants_count(monkeypatch):
    before = fingerprint(uses_helper)
    assert fingerprint(uses_helper) == before
    monkeypatch.setitem(globals(), "FACTOR", 3)
    assert fingerprint(uses_helper) != before


def test_closures_partials_methods_and_recursion_count():
    def scaled(factor):
        def inner(x):
            return inner(x - 1) * factor if x else 1

        return inner

    assert fingerprint(scaled(2)) == fingerprint(scaled(2)) != fingerprint(scaled(3))
    assert fingerprint(functools.partial(helper, 1)) != fingerprint(functools.partial(helper, 2))
    assert fingerprint("ab".join) != fingerprint("ab".split)


def test_values_count_by_content():
    kinds = [
        *(1, 1.0, "1", True, None, b"1", (1,), {"a": 1}, {1}, Settings(1), Settings(2), Settings(1, ("a",))),
        *(np.array([1]), np.array([1.0]), np.array([[1]]), torch.tensor([2]), pa.array([1]), pa.table({"a": [1]})),
        *(pa.table({"b": [1]}), pa.int64(), pa.schema([("a", pa.int64())])),
    ]
    assert len({fingerprint(kind) for kind in kinds}) == len(kinds)
    assert fingerprint(pa.chunked_array([[1], [2]])) == fingerprint(pa.chunked_array([[1, 2]]))
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_what_has_no_content_is_refused():
    with pytest.raises(InvalidValueError, match="a step's parameter"):
        fingerprint(iter([1]))
