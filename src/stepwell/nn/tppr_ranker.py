"""Rank candidates by temporal personalised PageRank: a strong rule without parameters that explains itself.

The score of a candidate is the chance that a temporal walk from the source stops there: the sum of its places in the
source's list. The places are the explanation: these past events, with these chances.
"""

from __future__ import annotations

import torch

from stepwell.access.tppr_stream import TPPRStream
from stepwell.core import Ids
from stepwell.core.batch import Batch
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.reading import ids_of


class TPPRRanker:
    """Score each candidate by its T-PPR from the source; float64. What the walk does not reach ties at 0.

    Args:
        k: Places of a list.
        alpha: Chance of the walk to stop at each step, in `[0, 1)`.
        beta: Decay of the chance from one event of a node to its next older one, in `(0, 1]`.

    Raises:
        InvalidValueError: If a parameter is out of range.

    Cost:
        O(k + C) an event of C candidates; see `TPPRStream` for the state.

    References:
        Li et al., "Zebra: When Temporal Graph Neural Networks Meet Temporal Personalized PageRank", PVLDB 16(6), 2023.
        Differs: there the lists feed a model; here they rank.
    """

    def __init__(self, k: int = 20, alpha: float = 0.1, beta: float = 0.5) -> None:
        self.lists = TPPRStream(k, alpha, beta)

    def __repr__(self) -> str:
        return f"TPPRRanker(k={self.lists.k}, alpha={self.lists.alpha}, beta={self.lists.beta})"

    def score(self, batch: Batch) -> torch.Tensor:
        """Return the candidates' weights in the lists that the last observed event left: `[B, C]`."""
        return torch.from_numpy(self.lists.score(ids_of(batch, "src"), ids_of(batch, "candidate")))

    def stream(self, batch: Batch) -> torch.Tensor:
        """Return the same against the state left by the event before each; learns the batch."""
        return torch.from_numpy(self.lists.score_then_observe(*_events(batch), ids_of(batch, "candidate")))

    def observe(self, batch: Batch) -> None:
        """Apply the batch's events to the lists of both ends."""
        self.lists.observe(*_events(batch))

    def forget(self) -> None:
        """Return to the state before the first event."""
        self.lists.forget()

    def save(self, writer: StateWriter) -> None:
        """Record the lists."""
        self.lists.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return to recorded lists."""
        self.lists.load(reader)


def _events(batch: Batch) -> tuple[Ids, Ids, Ids]:
    return ids_of(batch, "src"), ids_of(batch, "dst"), ids_of(batch, "time")
