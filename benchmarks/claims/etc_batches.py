"""Adaptive batches: the numbers of batches that the bound of fixed ones gives, on every stream at hand."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import Claim, Result
from benchmarks.streams import stream
from stepwell.access import AdaptiveBatches, FixedBatches
from stepwell.access.adaptive import split, update_distance
from stepwell.core.errors import StepwellError
from stepwell.storage import EventLog

KNOWN = {  # stream: size of fixed batches: (bound, fixed batches, adaptive batches), first 70 % of the events
    "jodie-wikipedia": {
        **{200: (308, 552, 468), 600: (976, 184, 167), 1000: (1635, 111, 104)},
        **{2000: (3357, 56, 54), 4000: (6911, 28, 28)},
    },
    "collegemsg": {
        **{200: (345, 210, 177), 600: (1074, 70, 64), 1000: (1798, 42, 40)},
        **{2000: (3707, 21, 21), 4000: (7554, 11, 11)},
    },
    "slashdot": {
        **{200: (257, 493, 387), 600: (799, 165, 145), 1000: (1291, 99, 93)},
        **{2000: (2678, 50, 48), 4000: (5483, 25, 25)},
    },
    "enron": {
        **{200: (393, 439, 409), 600: (1178, 147, 142), 1000: (1973, 88, 86)},
        **{2000: (3960, 44, 44), 4000: (7930, 22, 22)},
    },
}
FILES = {  # public files that are no registered data set: columns of source, destination and time
    "slashdot": ("slashdot/ia-slashdot-reply-dir.edges", (0, 1, 3)),
    "enron": ("enron/ml_enron.txt", (0, 1, 2)),
}
CLAIMS = [
    Claim(
        "etc_batch_counts",
        "Adaptive batches with the bound of fixed batches of 200, 600, 1000, 2000 and 4000 events, on the first 70 % "
        "of jodie-wikipedia, collegemsg, slashdot and enron, as far as the files are here: share of bounds and counts "
        "equal to the known ones",
        1.0,
        "",
    ),
    Claim(
        "etc_split_rate",
        "Adaptive cuts of 20 M generated events, one thread: events/s",
        50e6,
        "events/s",
    ),
]


def measure(quick: bool) -> list[Result]:  # noqa: FBT001 - the one argument of every claim
    """Count batches on each stream, and time the split of a generated stream."""
    found: dict[str, dict[str, float | str]] = {}
    equal, cells, missing = 0, 0, []
    for name, table in KNOWN.items():
        log = _stream(name)
        if log is None:
            missing.append(name)
            continue
        train = log[: int(0.7 * len(log))]
        found[name] = {"events": float(len(train)), "update distance": update_distance(train)}
        for size, known in table.items():
            batches = AdaptiveBatches(like=size)
            got = (batches.bound(train), *(len(list(b.cuts(train, 0))) for b in (FixedBatches(size), batches)))
            found[name][f"like {size}"] = f"bound {got[0]}: {got[1]} -> {got[2]} batches"
            equal, cells = equal + (got == known), cells + 1
    where = f"Not here: {', '.join(missing)}." if missing else "All four streams were here."
    counts = Result("etc_batch_counts", equal / max(1, cells), found, {"cells": float(cells)}, why=where)
    return [counts, _rate(1_000_000 if quick else 20_000_000)]


def _rate(num_events: int) -> Result:
    random = np.random.default_rng(0)
    src, dst = (random.zipf(1.5, num_events) % 100_000 for _ in range(2))
    split(src[:10], dst[:10], 1, 100_000)
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        borders = split(src, dst, 2_000, 100_000)
        taken.append(time.perf_counter() - begin)
    seconds = sorted(taken)[2]
    return Result(
        "etc_split_rate",
        num_events / seconds,
        {"stepwell": {"wall_s": seconds, "batches": float(len(borders) - 1)}},
        seeds=(0,),
        why="Median of five passes; ends are drawn from a power law, so that a few nodes are in many events.",
    )


def _stream(name: str) -> EventLog | None:
    if name not in FILES:
        try:
            return stream(name)
        except (StepwellError, OSError):
            return None
    file, columns = FILES[name]
    path = Path(os.environ.get("STEPWELL_DATA", "")) / file
    if not path.exists():
        return None
    table = np.loadtxt(path, comments="%")[:, list(columns)]
    table = table[np.argsort(table[:, 2], kind="stable")].astype(np.int64)
    return EventLog.from_arrays(table[:, 0], table[:, 1], table[:, 2])
