"""A study as a plan: predicted from the rates of the first units, measured in all of them."""

from __future__ import annotations

from typing import cast

from stepwell.core.plan import Cost, PlanNode
from stepwell.select.hopper import Phase
from stepwell.select.records import Config, Records
from stepwell.select.table import worker_use


def study_plan(records: Records) -> PlanNode:
    """Return the tree of a study.

    The prediction is the rate of each configuration's first training unit (the mean of those that have one, for the
    others) times the rows of all its epochs; the measured column is the sum of its units. Seconds are those of all
    workers together.
    """
    rows = cast("int", records.settings.get("rows", 0))
    rates = _first_rates(records)
    mean = sum(rates.values()) / len(rates) if rates else None
    nodes = tuple(_config_node(records, one, rates.get(one.name, mean), rows) for one in records.configs.values())
    predicted = sum((node.predicted for node in nodes), Cost())
    measured = sum((node.measured for node in nodes if node.measured is not None), Cost())
    score = _phase_cost(records, ("peek", "validate"))
    hop = Cost(seconds=sum(span.hop_s for span in records.spans), calls=len(records.spans))
    states = sum(one.size_bytes for one in records.configs.values())
    use = ", ".join(f"{share:.0%}" for share in worker_use(records).values())
    settings = records.settings
    fused = max((len(span.configs) for span in records.spans if span.phase == "train"), default=1)
    how = f"up to {fused} configurations as one batched model" if fused > 1 else "each configuration by itself"
    why = f"{records.partitions} partitions of {settings.get('data', '')}; order {settings.get('order')}; {how}"
    return PlanNode(
        "Study",
        f"{settings.get('searcher')} over {len(records.configs)} configurations; workers at work {use or 'not yet'}",
        predicted,
        measured + score,
        (
            PlanNode("Train", why, predicted, measured, nodes[:_MOST]),
            PlanNode("Score", "read-only visits, any worker", Cost(), score),
            PlanNode("Hop", f"states of {states / 1024:.0f} KiB in all move, the data stay", Cost(), hop),
        ),
    )


_MOST = 24


def core_hours(records: Records) -> float:
    """Return the core-hours that all units took."""
    threads = cast("int", records.settings.get("threads", 1))
    return sum(span.end - span.begin for span in records.spans) * threads / 3600


def _first_rates(records: Records) -> dict[str, float]:
    """Return seconds a row of the first training unit of each configuration, without its hop."""
    rates: dict[str, float] = {}
    for span in records.spans:
        if span.phase == "train" and span.rows:
            for name in span.configs:
                rates.setdefault(name, max(span.end - span.begin - span.hop_s, 0.0) / span.rows)
    return rates


def _config_node(records: Records, config: Config, rate: float | None, rows: int) -> PlanNode:
    total = rows * config.until
    params = ", ".join(f"{name}={value}" for name, value in config.params.items())
    predicted = Cost(rows=total, seconds=None if rate is None else rate * total)
    measured = Cost(rows=config.train_rows, seconds=config.train_s, calls=config.version) if config.version else None
    return PlanNode(config.name, f"{params}; {config.status}", predicted, measured)


def _phase_cost(records: Records, phases: tuple[Phase, ...]) -> Cost:
    spans = [span for span in records.spans if span.phase in phases]
    seconds = sum(span.end - span.begin for span in spans)
    return Cost(rows=sum(span.rows for span in spans), seconds=seconds, calls=len(spans))
