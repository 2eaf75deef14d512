"""The most that placement can save on two public streams: known optima of distinct rows and of samples."""

from __future__ import annotations

from benchmarks.harness import Claim, Result
from benchmarks.streams import stream
from stepwell.access import FixedBatches, Pipeline, Recent
from stepwell.access.placement import Family, collect_traces
from stepwell.buffer import Trace
from stepwell.buffer.belady import soonest
from stepwell.buffer.interval import densest, end_counts
from stepwell.testing.oracle import most_saved

# stream, batch size, family: intervals, and by rows of the tier the optimum of distinct rows and of samples
KNOWN = {
    ("jodie-wikipedia", 2000, "node_feature"): (74_174, {184: (10_120, 1_295_197), 922: (48_656, 1_878_380)}),
    ("jodie-wikipedia", 2000, "event_feature"): (221_166, {2204: (115_514, 573_983), 11023: (216_959, 793_399)}),
    ("collegemsg", 1000, "node_feature"): (18_754, {37: (1_517, 407_946), 189: (7_717, 712_376)}),
    ("collegemsg", 1000, "event_feature"): (80_330, {837: (33_832, 203_836), 4188: (79_519, 286_164)}),
}
CLAIMS = [
    Claim(
        "interval_optima",
        "Belady's rule and the linear programme reach the known optima of distinct rows and of samples, and the counts "
        "of intervals, of jodie-wikipedia (batch 2000) and collegemsg (batch 1000), first 70 % of the events, one hop, "
        "ten neighbours, no negatives: figures that differ",
        0,
        "figures",
        "<=",
    ),
    Claim(
        "interval_optima_greedy",
        "SIMPLE's greedy as published reaches, of its own objective's optimum on these traces, at least",
        0.998,
        "x",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001
    """Count intervals and optima; `quick` leaves out the linear programmes of jodie-wikipedia."""
    differ, worst = 0, 1.0
    baseline: dict[str, dict[str, float | str]] = {}
    for (name, size, family), (intervals, optima) in KNOWN.items():
        trace = _trace(name, size, family)
        differ += int((trace.next_use < len(trace)).sum()) != intervals
        profit = end_counts(trace)
        for capacity, (unit, count) in optima.items():
            belady, greedy = soonest(trace, capacity), densest(trace, capacity, profit)
            figures: dict[str, float | str] = {
                "Belady rows": int(belady.sum()),
                "published greedy rows": int(greedy.sum()),
                "published greedy samples": int(profit[greedy].sum()),
                "known rows": unit,
                "known samples": count,
            }
            differ += int(belady.sum()) != unit
            if not quick or name == "collegemsg":
                rows, samples = most_saved(trace, capacity), most_saved(trace, capacity, profit)
                differ += (abs(rows - unit) > 0.1) + (abs(samples - count) > 0.1)
                figures |= {"programme rows": rows, "programme samples": samples}
            worst = min(worst, float(profit[greedy].sum()) / count)
            baseline[f"{name} {family} {capacity} rows"] = figures
    return [Result("interval_optima", differ, baseline), Result("interval_optima_greedy", worst, baseline)]


def _trace(name: str, size: int, family: str) -> Trace:
    log = stream(name)
    log = log[: int(0.7 * len(log))]
    rows = {family: Family(len(log) if family == "event_feature" else log.num_nodes, 4)}
    batches = Pipeline(log, FixedBatches(size), sampler=Recent(10), prefetch=0)
    return collect_traces(batches, rows, counts=True)[family]
