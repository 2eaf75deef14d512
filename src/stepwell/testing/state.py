"""The rule of state: save, stop, load, go on gives the same bits as never having stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from stepwell.core.shapes import Stateful
from stepwell.core.state import StateReader, StateWriter, read_state, write_state
from stepwell.testing.compare import assert_same_bits

S = TypeVar("S", bound=Stateful)


def check_stateful(make: Callable[[], S], step: Callable[[S, int], object], *, num_steps: int = 6) -> None:
    """Fail unless an object resumes from any step with the same bits.

    For each stop from 0 to `num_steps`: run that many steps, save to disk, load into a new object and into one that
    has already run, and run the rest. What the steps return and the final state must equal those of the
    uninterrupted run.

    Args:
        make: Returns a new object, the same each time.
        step: Does step `i` and returns what it showed (arrays, tensors, batches, dataclasses) or None.
        num_steps: Length of the uninterrupted run.

    Raises:
        AssertionError: If an answer or the state differs.
    """
    whole = make()
    shown = [step(whole, i) for i in range(num_steps)]
    final = _state(whole)
    for stop in range(num_steps + 1):
        first = make()
        for i in range(stop):
            assert_same_bits(step(first, i), shown[i], f"step {i} of a second run")
        reader = _on_disk(first)
        used = make()
        for i in range(min(2, num_steps)):
            step(used, i)
        for name, resumed in (("new", make()), ("used", used)):
            where = f"a {name} object resumed after {stop} steps"
            resumed.load(reader)
            assert_same_bits(_state(resumed), _state(first), f"{where}: state as loaded")
            for i in range(stop, num_steps):
                assert_same_bits(step(resumed, i), shown[i], f"{where}: step {i}")
            assert_same_bits(_state(resumed), final, f"{where}: final state")


def _state(thing: Stateful) -> dict[str, object]:
    writer = StateWriter()
    thing.save(writer)
    return {name: part for kind in (writer.tensors, writer.values) for name, part in sorted(kind.items())}


def _on_disk(thing: Stateful) -> StateReader:
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder) / "state", thing.save)
        return read_state(Path(folder) / "state")
