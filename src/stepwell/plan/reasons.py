"""Why a plan chose what it chose: one sentence a place, from the costs of all combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from stepwell.core import Cost
from stepwell.plan.answer import Alternative, Chosen
from stepwell.plan.combination import PLACES, WORTH, Combination
from stepwell.plan.options import Asked, Option, Setting
from stepwell.plan.reuse import can_reuse
from stepwell.plan.room import MemoryRoom
from stepwell.plan.state import memory_of


@dataclass(frozen=True, eq=False)
class Reasons:
    """What speaks for a combination, place by place.

    Args:
        best: The combination that was taken.
        ranked: All combinations, the fastest first.
        costs: Their predicted epochs, by their names.
        options: The options of each place, the usual one first.
        room: What fits.
        setting: What was given and not planned.
        accuracy: How exact training must stay.
        reuse_rate: Share of needs beyond a batch that the best combination's reuse serves; None without reuse.
    """

    best: Combination
    ranked: Sequence[Combination]
    costs: Mapping[tuple[str, ...], Cost]
    options: Sequence[Sequence[Option[object]]]
    room: MemoryRoom
    setting: Setting
    accuracy: Asked
    reuse_rate: float | None = None

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """All combinations with their costs, the fastest first."""
        return tuple(Alternative(one.names, self.costs[one.names], one is self.best) for one in self.ranked)

    @property
    def choices(self) -> tuple[Chosen, ...]:
        """The choice of each place, why it was made, and what the next best would take."""
        return tuple(self._chosen(i) for i in range(len(PLACES)))

    def _chosen(self, i: int) -> Chosen:
        option = cast("Option[object]", self.best[i])
        others = [one for one in self.ranked if one[i] is not option and one.differs(self.best) == [i]]
        next_name, next_s = (others[0].names[i], self.costs[others[0].names].seconds) if others else ("", None)
        why = self._why(i, option, others)
        if PLACES[i] == "reuse" and self.reuse_rate is not None:
            why += f"; {self.reuse_rate:.0%} of the needs beyond a batch are kept"
        return Chosen(PLACES[i], option.name, why, option.accuracy, next_name, next_s)

    def _why(self, i: int, option: Option[object], others: Sequence[Combination]) -> str:
        place, only, room = PLACES[i], len(self.options[i]) == 1, self.room
        if option.pinned and not (place == "state" and room.stored is not None):
            return "you chose it"
        if place == "placement" and only:
            fits = "all rows fit" if room.for_rows_bytes is None else "the rows are in memory already"
            return "no memory was named" if room.question.memory is None else fits
        if place == "state":
            return self._about_state()
        if place == "steps" and only:
            no_graphs = "no CUDA device" if not self.setting.device.startswith("cuda") else "node state is out of core"
            return f"{no_graphs}, so no graphs"
        if place == "reuse" and not can_reuse(room.model, self.setting.hops):
            return "for models of two hops or more that reuse"
        if not others:
            exact = place in ("batches", "sampler", "reuse")
            return f"the only one that keeps {self.accuracy}" if exact else "the only one"
        if option is self.options[i][0]:
            return f"the usual one; no other saves {WORTH:.0%}"
        usual = next(one for one in others if one[i] is self.options[i][0])
        here = self.costs[self.best.names].seconds or 0.0
        return f"saves {1 - here / (self.costs[usual.names].seconds or here):.0%} against {usual.names[i]}"

    def _about_state(self) -> str:
        memory, room = memory_of(self.room.model), self.room
        if memory is None:
            return "the model has no node state that could be elsewhere"
        if memory.stored is not None:
            return "the model keeps it there"
        if not room.moves_state:
            return "no memory was named" if room.question.memory is None else "it fits beside weights and index"
        return f"its {room.state_bytes:,} bytes do not fit beside {room.fixed_bytes:,} of weights and index"
