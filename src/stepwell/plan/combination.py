"""One option for each place of a pipeline, and which of all such combinations to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core.shapes import Batcher, Sampler
from stepwell.plan.options import Option

PLACES = ("batches", "sampler", "reuse", "placement", "prefetch", "state", "steps")
WORTH = 0.03
"""Share of an epoch that another option than the usual one must save to be taken."""

Key = tuple[str, str, str]


class Combination(NamedTuple):
    """One option a place, in the order of `PLACES`."""

    batches: Option[Batcher]
    sampler: Option[Sampler]
    reuse: Option[EmbeddingReuse | None]
    placement: Option[Policy | None]
    prefetch: Option[int]
    state: Option[Policy | None]
    steps: Option[bool]

    @property
    def possible(self) -> bool:
        """Whether the options go together: graphs want batches of one shape and nothing kept beside the model."""
        plain = self.batches.name == "fixed" and self.reuse.value is None and self.state.value is None
        return plain or not self.steps.value

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each place's option."""
        return tuple(option.name for option in self)

    @property
    def probed(self) -> Key:
        """What of it a probe depends on."""
        return str(self.batches.value), str(self.sampler.value), str(self.reuse.value)

    def differs(self, other: Combination) -> list[int]:
        """Return the places, counted from 0, at which another combination has another option."""
        return [i for i, (a, b) in enumerate(zip(self, other, strict=True)) if a is not b]


def best_of(every: Sequence[Combination], seconds: Mapping[tuple[str, ...], float]) -> Combination:
    """Return the fastest combination, or of those about as fast (`WORTH`) the one nearest to the usual one.

    Args:
        every: All combinations, the usual one first.
        seconds: What an epoch takes, by the combinations' names.
    """
    least = min(seconds.values())
    usual = every[0]
    near = [one for one in every if seconds[one.names] <= least * (1 + WORTH)]
    return min(near, key=lambda one: (len(one.differs(usual)), seconds[one.names]))
