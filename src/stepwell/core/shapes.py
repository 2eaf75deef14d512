"""The shapes that plugs of several packages share. Names may improve; roles may not multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.batch import Batch, Ids, Neighborhood, Slice
from stepwell.core.draws import Draw
from stepwell.core.plan import Cost, Machine, Statistics
from stepwell.core.state import StateReader, StateWriter

Accuracy = Literal["same", "bounded", "changed"]


@runtime_checkable
class Source(Protocol):
    """Rows that can be cut into batches: an event log, a table."""

    def __len__(self) -> int: ...

    def read(self, slice: Slice) -> Batch:
        """Return the rows of one slice as a batch."""

    def statistics(self) -> Statistics:
        """Return what a cost model wants to know; cheap."""


@runtime_checkable
class Stage(Protocol):
    """One box of a plan: frozen, cheap to build, printable.

    `needs` and `gives` name batch fields; order and gaps are checked before the first batch. `reads` and `writes` name
    state (memory, mail, lists). A stage that touches none may run ahead of the model, on any thread. One whose state is
    written by stages alone (a tier, a plan) runs ahead too, batch after batch. One that reads what no stage writes
    reads the model's state, and waits for the model. `accuracy` says whether values stay the `same`, differ within a
    stated bound (`bounded`), or the training is another, equally valid one (`changed`).
    """

    @property
    def needs(self) -> frozenset[str]:
        """Batch fields that must be there before it runs."""

    @property
    def gives(self) -> frozenset[str]:
        """Batch fields that it adds or replaces."""

    @property
    def reads(self) -> frozenset[str]:
        """Names of the state that it reads."""

    @property
    def writes(self) -> frozenset[str]:
        """Names of the state that it changes."""

    @property
    def accuracy(self) -> Accuracy:
        """What it does to values."""

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the fields of `gives`."""

    def cost(self, stats: Statistics, machine: Machine) -> Cost:
        """Return what one epoch of this stage is expected to take: rows, bytes, seconds; nothing is run."""


@runtime_checkable
class Foresighted(Protocol):
    """A stage that wants to know an epoch before it begins: what the batches will touch (placement, reuse)."""

    def foresee(self, epoch: int, upstream: Callable[[], Iterator[Batch]], start: int = 0) -> None:
        """Plan one epoch.

        Args:
            epoch: The epoch.
            upstream: Makes all its batches anew, from the first, as they come to this stage.
            start: The batch that will be asked for first; later ones follow in order.
        """


@runtime_checkable
class Batcher(Protocol):
    """Cuts a source into slices."""

    def cuts(self, source: Source, epoch: int, shard: tuple[int, int] = (0, 1)) -> Iterator[Slice]:
        """Yield the slices of one epoch, the same on every call.

        Args:
            source: What is cut.
            epoch: Keys what is random.
            shard: (rank, world): this rank's share of the slices, every `world`-th.
        """


class Adjacency(Protocol):
    """An index from a node to its incident events, oldest first (T-CSR).

    Row `node` is `[indptr[node], indptr[node + 1])` of the three flat arrays; positions ascend within a row. `cursor`
    remembers where each node's last query ended; it may speed up the next one and changes no result.
    """

    @property
    def indptr(self) -> npt.NDArray[np.int64]:
        """Where each node's row begins, int64 `[N + 1]`."""

    @property
    def neighbor(self) -> npt.NDArray[np.int32]:
        """The node at the other end, int32 `[entries]`."""

    @property
    def event(self) -> npt.NDArray[np.int32]:
        """Global position of the event, int32 `[entries]`."""

    @property
    def time(self) -> npt.NDArray[np.int64]:
        """Time of the event in the log's unit, int64 `[entries]`."""

    @property
    def cursor(self) -> Ids:
        """How much of its row each node's last query saw, int64 `[N]`: a hint, changed in place."""


@runtime_checkable
class Sampler(Protocol):
    """Finds a query's past: exact and stateless.

    A query sees the events at positions `< before`. The caller turns a time or a batch border into that prefix,
    so no sampler can look ahead by accident.
    """

    @property
    def k(self) -> int:
        """Events a query, at most; shorter histories are padded."""

    def __call__(self, index: Adjacency, nodes: Ids, times: Ids, before: Ids, draw: Draw, rows: Ids) -> Neighborhood:
        """Return the sampled past of each query, `[S, K]`; `rows` are the queries' global rows for `draw`."""


@runtime_checkable
class Model(Protocol):
    """Scores candidates of a batch, then learns what really happened. Any `nn.Module` fits through an adapter."""

    def score(self, batch: Batch) -> torch.Tensor:
        """Return logits `[B, C]`: how likely each source of the batch meets each candidate at its time."""

    def observe(self, batch: Batch) -> None:
        """Update the state with the batch's events, once all its answers are given."""

    def forget(self) -> None:
        """Return the state to that before the first event (the start of an epoch)."""


@runtime_checkable
class Stateful(Protocol):
    """Anything a resume needs."""

    def save(self, writer: StateWriter) -> None:
        """Write the state."""

    def load(self, reader: StateReader) -> None:
        """Take over the state that `save` wrote; the object was built with the same arguments."""


class Access(NamedTuple):
    """What one batch touches in one column family."""

    family: str
    reads: Ids
    writes: Ids
