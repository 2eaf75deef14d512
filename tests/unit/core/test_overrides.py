"""Settings change by path, with their declared types."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.core.overrides import override, paths


@dataclass(frozen=True)
class Inner:
    epochs: int = 1
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    deep: bool = False
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Outer:
    loop: Inner = field(default_factory=Inner)
    name: str = "x"


def test_values_take_the_declared_type() -> None:
    changed = override(
        Outer(),
        [
            "loop.epochs=5",
            "loop.rate=1e-3",
            "loop.kind=b",
            "loop.limit=7",
            "loop.deep=yes",
            "loop.sizes=2,3",
            "name=y=z",
        ],
    )
    assert changed == Outer(Inner(5, 1e-3, "b", 7, True, (2, 3)), "y=z")
    assert override(changed, ["loop.limit=none"]).loop.limit is None


def test_paths_lists_every_setting() -> None:
    assert list(paths(Outer()))[:2] == ["loop.epochs", "loop.rate"]


@pytest.mark.parametrize("text", ["loop.epochs=many", "loop.kind=c", "loop.deep=perhaps", "loop.epochs"])
def test_values_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match=r"loop\.|--set"):
        override(Outer(), [text])


def test_an_unknown_path_suggests_the_near_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        override(Outer(), ["loop.epoch=5"])
