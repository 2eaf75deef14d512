"""What a link-prediction run gave: its scores beside those of what needs no training, its history, its plan."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from stepwell.core import PlanNode
from stepwell.evaluate import Report, Score
from stepwell.nn.staleness import Staleness
from stepwell.train import Epoch


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave; print `table` and `plan`.

    Args:
        name: The model's name.
        history: One entry an epoch.
        reports: The model's reports under each protocol.
        baselines: What needs no training, under the same protocols.
        plan: The plan with the measured column.
        seconds: Wall time of training and validation.
        staleness: How stale the embeddings were that the last epoch reused, and what Theorem 5 bounds; None if none
            were, or none was sampled.
    """

    name: str
    history: tuple[Epoch, ...]
    reports: tuple[Report, ...]
    baselines: tuple[tuple[str, Report], ...]
    plan: PlanNode
    seconds: float
    staleness: Staleness | None = None

    @property
    def scores(self) -> tuple[Score, ...]:
        """All scores of the model."""
        return tuple(score for report in self.reports for score in report.scores)

    @property
    def predictions(self) -> pa.Table:
        """The answers to the first report's events, one row each."""
        return self.reports[0].predictions.to_arrow()

    @property
    def table(self) -> str:
        """The scores beside the baselines', one block a protocol."""
        blocks = []
        for report in self.reports:
            contestants = [(self.name, report)]
            contestants += [(name, other) for name, other in self.baselines if other.protocol == report.protocol]
            names = [(score.name, score.protocol.pooling) for score in report.scores]
            head = "".join(f"{_label(*name):>14}" for name in names)
            lines = [f"{report.protocol}; {len(report.predictions)} events", f"  {'':<12}{head}"]
            for name, other in contestants:
                cells = "".join(f"{other.score(metric, pooling).value:>14.4f}" for metric, pooling in names)
                lines.append(f"  {name:<12}{cells}")
            blocks.append("\n".join(lines))
        return "\n".join(blocks)


def _label(metric: str, pooling: str) -> str:
    return metric if pooling == "pooled" else f"{metric} (batches)"
