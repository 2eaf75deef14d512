"""Batches that late stages have seen before their turn: kept in order, and in a checkpoint with what they read then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch

from stepwell.core import Batch
from stepwell.core.errors import CheckpointError
from stepwell.core.shapes import Stage
from stepwell.core.state import StateReader, StateWriter

Fields = dict[str, torch.Tensor]


class Early:
    """Runs late stages up to `depth` batches before these are handed out.

    What a late stage gave a batch depends on when it was called, so it cannot be made again: a checkpoint holds it.
    A resumed epoch then hands out the same values as one that was never cut off.

    Args:
        late: The stages, which read the model's state or have state that is saved.
        depth: Batches that they run early.
    """

    def __init__(self, late: Sequence[Stage], depth: int) -> None:
        self._gives = sorted(frozenset[str]().union(*(stage.gives for stage in late)))
        self._depth = depth
        self._ready: deque[Batch] = deque()
        self._loaded: list[Fields] = []

    @property
    def loaded(self) -> int:
        """Batches that the late stages need not see again when the loaded epoch goes on."""
        return len(self._loaded)

    def drop(self) -> None:
        """Begin another epoch than the one loaded: nothing has been seen."""
        self._loaded = []

    def run(
        self, made: Iterator[Batch], late: Callable[[Batch], Batch], move: Callable[[Batch], Batch]
    ) -> Iterator[Batch]:
        """Yield the batches, seen by the late stages and moved.

        Args:
            made: The batches as they come to the late stages.
            late: Applies these.
            move: The last step.
        """
        known, self._loaded = deque(self._loaded), []
        ready = self._ready = deque[Batch]()  # each run's own: an earlier one may go on beside this one
        for batch in made:
            ready.append(move(batch.give(**known.popleft()) if known else late(batch)))
            if len(ready) > self._depth:
                yield ready.popleft()
        while ready:
            yield ready.popleft()

    def save(self, writer: StateWriter) -> None:
        """Record what the waiting batches were given.

        Raises:
            CheckpointError: If that is not arrays of numbers.
        """
        waiting = self._loaded or [
            {name: _numbers(name, batch[name]) for name in self._gives if name in batch} for batch in self._ready
        ]
        writer.value("count", len(waiting))
        for number, fields in enumerate(waiting):
            for name, value in fields.items():
                writer.tensor(f"{number}/{name}", value)

    def load(self, reader: StateReader) -> None:
        """Go on, in the next run, with what was recorded."""
        self._ready.clear()
        count = reader.value("count")
        self._loaded = [reader.child(str(number)).tensors() for number in range(count if isinstance(count, int) else 0)]


def _numbers(name: str, value: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    raise CheckpointError(
        f"Stages that run early gave the field {name!r}, a {type(value).__name__}. A checkpoint within an epoch holds "
        "what they gave, as arrays of numbers alone. Let the stage give arrays, or use staleness=0."
    )
