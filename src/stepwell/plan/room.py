"""What a training run needs to hold, and what a named memory leaves for rows of features and for node state.

Weights, events and the index stay in memory in any case. If features and node state do not fit beside them, they share
what is left; node state goes out of core only where it does not even fit without the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch

from stepwell.access.placement import Family
from stepwell.buffer.policy import Policy
from stepwell.core.shapes import Model
from stepwell.plan.answer import Question
from stepwell.plan.reads import families_below
from stepwell.plan.state import BESIDE_BYTES, memory_of, needed_bytes
from stepwell.storage import EventLog
from stepwell.storage.units import to_bytes


@dataclass(frozen=True, eq=False)
class MemoryRoom:
    """The bytes of one training run, counted at first use; nothing is read.

    Args:
        log: The training events.
        model: The model.
        question: The memory that was named, and whether the place of node state is pinned.
        device: Where the model runs.
    """

    log: EventLog
    model: Model
    question: Question
    device: str

    @cached_property
    def below(self) -> dict[str, Family]:
        """The families of feature rows that lie below the tier that a placement fills, by name."""
        return families_below(self.log, self.device)

    @cached_property
    def feature_bytes(self) -> int:
        """Bytes of all features of events and nodes."""
        return sum(m.nbytes for m in (self.log.event_feature, self.log.node_feature) if m is not None)

    @cached_property
    def fixed_bytes(self) -> int:
        """Bytes that must be in memory in any case: weights, events and index."""
        ends = 1 if self.log.snapshot.directed else 2
        return self._sizes[0] + len(self.log.snapshot) * (ends * 16 + 16) + 8 * self.log.num_nodes

    @property
    def state_bytes(self) -> int:
        """Bytes of node state that can go out of core."""
        return self._sizes[1]

    @property
    def need_bytes(self) -> int:
        """Bytes of features, of the model's weights and state, and of the index."""
        return self.feature_bytes + self.fixed_bytes + self.state_bytes

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Bytes of weights, and of node state."""
        return needed_bytes(cast("torch.nn.Module", self.model), memory_of(self.model))

    @property
    def stored(self) -> Policy | None:
        """The policy of a model whose state is out of core already: its probes read it, so nothing is added."""
        memory = memory_of(self.model)
        return None if memory is None or memory.stored is None else memory.stored.policy

    @cached_property
    def moves_state(self) -> bool:
        """Whether node state is out of core: already, because it was asked to, or as memory does not hold it."""
        pin, memory = self.question.state, memory_of(self.model)
        if pin is not None or memory is None:
            return pin not in (None, "host")
        if memory.stored is not None:
            return True
        if self.question.memory is None:
            return False
        return self.fixed_bytes + self.state_bytes > to_bytes(self.question.memory, "memory")

    @property
    def for_state_bytes(self) -> int | None:
        """Bytes for node state in host memory if it lies out of core; None if it does not, or no memory was named."""
        if not self.moves_state or self.question.memory is None:
            return None
        if self.stored is not None:
            return to_bytes(self.stored.memory, "memory")
        left = to_bytes(self.question.memory, "memory") - self.fixed_bytes - BESIDE_BYTES * self.log.num_nodes
        features = sum(family.num_rows * family.row_bytes for family in self.below.values())
        free = left - (self.feature_bytes - features)
        return max(0, round(free * self.state_bytes / max(1, self.state_bytes + features)))

    @property
    def for_rows_bytes(self) -> int | None:
        """Bytes left for rows of features, or None if all that is needed fits (or no memory was named)."""
        if self.question.memory is None:
            return None
        given = to_bytes(self.question.memory, "memory")
        if self.need_bytes <= given and not self.moves_state:
            return None
        state = self.state_bytes
        if self.moves_state:
            state = (self.for_state_bytes or 0) + BESIDE_BYTES * self.log.num_nodes
        return max(0, given - self.fixed_bytes - state)
