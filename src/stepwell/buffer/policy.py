"""Who is resident in a faster tier: one protocol for planned and online policies, placement and reuse alike.

A policy decides after each batch which of the rows just touched stay and which residents leave. It moves no bytes and
changes no value: a store asks it, and fetches what is not there. A row enters only if the batch touched it, so that
filling a tier costs no extra read.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from stepwell.buffer.trace import Trace
from stepwell.core.batch import Ids
from stepwell.core.registry import Registry


class Moves(NamedTuple):
    """What changes in a tier after one batch.

    Args:
        admit: Rows that enter, int64; each was touched by the batch and was not resident.
        evict: Rows that leave, int64; each was resident.
    """

    admit: Ids
    evict: Ids


class Replacement(Protocol):
    """One tier's residents over the batches of one epoch; at most `capacity` after every step."""

    def step(self, ids: Ids) -> Moves:
        """Take the distinct rows that the next batch touched and return who comes and goes. O(rows touched)."""


@runtime_checkable
class Policy(Protocol):
    """How a tier is kept: frozen settings; `begin` starts one epoch.

    `memory` is the budget in bytes over all families, a number or text like `"2GiB"`. `foresight` says whether `begin`
    needs the epoch's trace; an online policy ignores it.
    """

    @property
    def memory(self) -> int | str:
        """Budget in bytes over all families, a number or text."""

    @property
    def foresight(self) -> bool:
        """Whether `begin` needs the epoch's trace."""

    def begin(self, num_rows: int, capacity: int, trace: Trace | None = None) -> Replacement:
        """Return an empty tier for one family of rows.

        Args:
            num_rows: Rows of the family; ids are in `[0, num_rows)`.
            capacity: Rows that the tier holds at most.
            trace: What each batch of the epoch touches; needed where `foresight` is True, ignored elsewhere.

        Raises:
            InvalidValueError: If the policy needs a trace and there is none, or `capacity` is negative.
        """


policies: Registry[type[Policy]] = Registry("policy")
"""Policies by name; third parties join by the entry point `stepwell.policy`."""
