"""Computed embeddings that serve again: how they are kept, which rows a batch pulls and pushes, and their values.

Who stays is decided ahead of the model, batch after batch (`Slots`, on the host); the values live beside the model
(`HistoricalStore`, on its device). A batch carries from one to the other what to pull and what to push (`Reused`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numba import njit

from stepwell.buffer.policy import Moves, policies
from stepwell.core.batch import Array, Ids
from stepwell.core.errors import CheckpointError, InvalidValueError, UnknownNameError
from stepwell.core.state import StateReader, StateWriter

Gradient = Literal["block", "share", "clip"]


@dataclass(frozen=True, slots=True)
class EmbeddingReuse:
    """Embeddings of the layers below the last serve as constants where a recursion would compute them anew.

    Args:
        rows: Embeddings kept from earlier batches, a layer.
        policy: Who stays, a name in `policies`; `"mrd"` plans an epoch with the fewest recomputations.
        max_age: Kept embeddings older than so many batches are computed anew; None: none is too old.
        causal: A target reads no embedding of a later time than its own. False is what the paper does: all read a
            node's latest embedding of the batch, which may have aggregated the very event under prediction.
        gradient: `"block"`: neighbours' embeddings are constants, those computed in the same batch too. `"share"`: the
            latter pass gradient on. `"clip"`: they do, at norm 1 at most a layer and batch.

    Raises:
        InvalidValueError: If a number or the gradient is out of range.
        UnknownNameError: If there is no such policy.

    References:
        Li et al., "Orca: Scalable Temporal Graph Neural Network Training with Theoretical Guarantees", SIGMOD 2023.
        Differs: causal by default; misses are computed at the time of the first target that needs them.
    """

    rows: int = 1000
    policy: str = "mrd"
    max_age: int | None = None
    causal: bool = True
    gradient: Gradient = "block"

    def __post_init__(self) -> None:
        if self.rows < 0:
            raise InvalidValueError("rows", self.rows, "at least 0")
        if self.max_age is not None and self.max_age < 1:
            raise InvalidValueError("max_age", self.max_age, "at least 1 batch, or None")
        if self.gradient not in ("block", "share", "clip"):
            raise InvalidValueError("gradient", self.gradient, "'block', 'share' or 'clip'")
        if self.policy not in policies:
            raise UnknownNameError("policy", self.policy, policies)

    def __str__(self) -> str:
        parts = [f"rows={self.rows}", self.policy]
        parts += [] if self.max_age is None else [f"max_age={self.max_age}"]
        parts += [] if self.causal else ["not causal"]
        return ", ".join([*parts, f"gradient={self.gradient}"])


@dataclass(frozen=True, slots=True)
class ReuseCounts:
    """How neighbours were served, over one layer of one batch or any sum of such.

    Args:
        in_batch: Distinct nodes of which some place was served by an embedding of the same batch's targets.
        hits: Distinct nodes served from the store.
        misses: Distinct nodes computed anew.
        in_batch_slots: Places served by an embedding of the same batch's targets.
        hit_slots: Places served from the store.
        miss_slots: Places served by what was computed anew.
        age: Sum of the ages of the hits, in batches.
    """

    in_batch: int = 0
    hits: int = 0
    misses: int = 0
    in_batch_slots: int = 0
    hit_slots: int = 0
    miss_slots: int = 0
    age: int = 0

    def __add__(self, other: ReuseCounts) -> ReuseCounts:
        return ReuseCounts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def hit_rate(self) -> float:
        """Share of the distinct needs beyond the batch that the store served, 0 to 1."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def in_batch_share(self) -> float:
        """Share of the places served by an embedding of the same batch's targets, 0 to 1."""
        return self.in_batch_slots / max(1, self.in_batch_slots + self.hit_slots + self.miss_slots)

    @property
    def mean_age(self) -> float:
        """Mean age of the hits in batches."""
        return self.age / max(1, self.hits)

    def __str__(self) -> str:
        slots = max(1, self.in_batch_slots + self.hit_slots + self.miss_slots)
        return (
            f"{self.in_batch_share:.1%} of places served in the batch, {self.hit_slots / slots:.1%} from the store; "
            f"{self.hit_rate:.1%} of distinct needs beyond the batch hit ({self.hits:,} of "
            f"{self.hits + self.misses:,}), {self.mean_age:.1f} batches old on average"
        )


@dataclass(frozen=True, slots=True)
class Reused:
    """What the neighbours of one level read from the level below: its computed rows, then P pulled ones.

    Args:
        pull_slot: Slots of the pulled rows, int64 `[P]`.
        pull_node: Their nodes, int64 `[P]`.
        pull_age: How many batches ago each was made, int64 `[P]`.
        push_row: Computed rows to be kept once the batch is observed, int64 `[Q]`.
        push_slot: Where, int64 `[Q]`; distinct.
        push_node: Their nodes, int64 `[Q]`.
        first: Whether the batch is its epoch's first: nothing kept is valid.
        capacity: Slots of the store.
        gradient: Whether computed rows pass gradient to those who read them as neighbours.
        counts: How the places were served.
    """

    pull_slot: Array
    pull_node: Array
    pull_age: Array
    push_row: Array
    push_slot: Array
    push_node: Array
    first: bool
    capacity: int
    gradient: Gradient
    counts: ReuseCounts


class Slots:
    """Where each node's kept embedding stands: at most one a node, at most `capacity` in all.

    Args:
        num_nodes: Nodes.
        capacity: Slots.

    Cost:
        4 bytes a node, 16 a slot; O(rows touched) a batch.
    """

    def __init__(self, num_nodes: int, capacity: int) -> None:
        self.slot_of = np.full(num_nodes, -1, np.int32)
        self.made_in = np.full(capacity, -1, np.int64)
        self._free = np.arange(capacity, dtype=np.int64)[::-1].copy()
        self._num_free = capacity

    def apply(self, moves: Moves, node: Ids, time: Ids, batch: int) -> tuple[Ids, Ids]:
        """Let rows come and go, then note which computed rows are written where.

        Args:
            moves: What the policy decided.
            node: Nodes of the rows that batch number `batch` computed, int64 `[R]`; a node may repeat.
            time: The rows' times, int64 `[R]`.
            batch: Its number.

        Returns:
            Rows and their slots, int64 `[Q]` each: of each resident node among them its newest row.
        """
        rows, slots, self._num_free = _apply(
            moves.admit, moves.evict, node, time, batch, self.slot_of, self.made_in, self._free, self._num_free
        )
        return rows, slots


@njit(cache=True, nogil=True)
def _apply(
    admit: np.ndarray,
    evict: np.ndarray,
    node: np.ndarray,
    time: np.ndarray,
    batch: int,
    slot_of: np.ndarray,
    made_in: np.ndarray,
    free: np.ndarray,
    num_free: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    for gone in evict:
        free[num_free] = slot_of[gone]
        num_free += 1
        made_in[slot_of[gone]] = -1
        slot_of[gone] = -1
    for new in admit:
        num_free -= 1
        slot_of[new] = free[num_free]
    rows, slots = np.empty(len(node), np.int64), np.empty(len(node), np.int64)
    place = np.full(len(made_in), -1, np.int64)
    count = 0
    for row in range(len(node)):
        slot = slot_of[node[row]]
        if slot < 0:
            continue
        if place[slot] < 0:
            place[slot] = count
            rows[count], slots[count] = row, slot
            made_in[slot] = batch
            count += 1
        elif time[row] > time[rows[place[slot]]]:
            rows[place[slot]] = row
    return rows[:count], slots[:count], num_free


class HistoricalStore:
    """The kept embeddings of one layer: `capacity` rows, and whose each is.

    Guarantee: what is pulled carries no gradient, and is the newest row pushed for its node.

    Args:
        capacity: Rows.
        dim: Width.
        device: Where the rows are.
        dtype: Their precision.

    Cost:
        `4 dim + 8` bytes a row, allocated once.
    """

    def __init__(
        self, capacity: int, dim: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.values = torch.zeros(capacity, dim, device=device, dtype=dtype)
        self.node = torch.full((capacity,), -1, device=device)

    def clear(self) -> None:
        """Forget all rows."""
        self.node.fill_(-1)

    @torch.no_grad()
    def pull(self, slots: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Return a copy of the rows in `slots`, int64 `[P]`, which must be those of `nodes`: `[P, dim]`.

        Raises:
            CheckpointError: If they are not (checked on the CPU): batches were left out, or a state was not restored.
        """
        if self.node.device.type == "cpu" and not torch.equal(self.node[slots], nodes):
            raise CheckpointError(
                "Embeddings to be reused are not in the model's store. Allowed: every batch of the epoch observed in "
                "order since `forget()` or since a restored state. Start the epoch anew, or restore both together."
            )
        return self.values[slots]

    @torch.no_grad()
    def push(self, slots: torch.Tensor, nodes: torch.Tensor, rows: torch.Tensor) -> None:
        """Keep `rows` `[Q, dim]` of `nodes` in distinct `slots`."""
        self.values[slots] = rows
        self.node[slots] = nodes

    def save(self, writer: StateWriter) -> None:
        """Record the rows and whose they are."""
        writer.tensor("values", self.values)
        writer.tensor("node", self.node)

    @classmethod
    def saved(cls, reader: StateReader, device: torch.device | str) -> HistoricalStore:
        """Return the store that was recorded."""
        values, node = reader.tensor("values"), reader.tensor("node")
        return cls.of(values, node, device)

    @classmethod
    def of(cls, values: torch.Tensor, node: torch.Tensor, device: torch.device | str) -> HistoricalStore:
        """Return a store of these rows and nodes, copied."""
        store = cls(values.shape[0], values.shape[1], device, values.dtype)
        store.values.copy_(values)
        store.node.copy_(node)
        return store
