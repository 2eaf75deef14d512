"""Rules that learn nothing, ranked against all other destinations: what several claims measure alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from stepwell.core.shapes import Model
from stepwell.evaluate import evaluation_for, p3, split_for
from stepwell.storage import EventLog


class Ranking(NamedTuple):
    """MRR of a rule on both parts, and what it took.

    Args:
        mrr: Of validation and test.
        protocol: What the scores name.
        seconds: Wall seconds of both evaluations.
        candidates_per_s: Scores a wall second.
    """

    mrr: tuple[float, float]
    protocol: str
    seconds: float
    candidates_per_s: float

    def distance(self, known: tuple[float, float]) -> float:
        """Return the larger distance from known figures."""
        return max(abs(one - other) for one, other in zip(self.mrr, known, strict=True))

    @property
    def figures(self) -> dict[str, float]:
        """What a record says of it."""
        validation, test = self.mrr
        return {
            "validation_mrr": validation,
            "test_mrr": test,
            "wall_s": self.seconds,
            "candidates_per_s": self.candidates_per_s,
        }


def rank(log: EventLog, make: Callable[[], Model], state: Literal["frozen", "stream"]) -> Ranking:
    """Let a rule observe the training events, then rank the validation and the test events (P3)."""
    protocol = p3(state=state)
    split, model = split_for(log, protocol), make()
    for batch in evaluation_for(protocol.on("train"), split, streams=True).batches:
        model.observe(batch)
    begin = time.perf_counter()
    found = [evaluation_for(protocol.on(part), split, streams=True)(model) for part in ("validation", "test")]
    seconds = time.perf_counter() - begin
    first, second = (report["mrr"].value for report in found)
    scores = sum(report.num_scores for report in found)
    return Ranking((first, second), str(protocol), seconds, scores / seconds)
