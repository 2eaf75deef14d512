"""What a preparation will take, before it runs: exact where a step is cached, else tried on a sample and scaled."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from stepwell.core import Cost
from stepwell.core.log import logger
from stepwell.prepare.cache import OUT, Stored, find, writing
from stepwell.prepare.execute import Runner, read_key, step_key
from stepwell.prepare.row_ids import ids_schema, key_ids
from stepwell.prepare.step import Keyed, Report, SqlStep, Step

log = logger(__name__)

SAMPLE_ROWS = 2048
_WRITE_BYTES_PER_S = 2.5e8
"""What writing and checking rows has been seen to take."""


def known_results(root: Path, source: Keyed, steps: Sequence[Step | SqlStep]) -> list[Stored | None]:
    """Return what is cached of the source and of each step."""
    key = read_key(source)
    found = [find(root, key)]
    for step in steps:
        key = step_key(step, key)
        found.append(find(root, key))
    return found


def predicted_costs(
    runner: Runner, source: Keyed, steps: Sequence[Step | SqlStep], known: Sequence[Stored | None]
) -> list[Cost]:
    """Return the cost of reading the source and of each step.

    A step that is not cached is run twice, on up to 2,048 rows of what the last cached one gave; rows, bytes and
    seconds are scaled to the whole, seconds by what the last seven eighths of the sample added. A step that sees all
    rows is run on one eighth of the sample only, because it may cost more than its share. Steps whose attribute
    `sampled` is False (they ask people or paid services) are not tried, and nothing is said of them and of what
    follows.

    Cost:
        Each step on the sample, in a temporary folder.
    """
    costs = [_cost(stored.report) if stored is not None else Cost() for stored in known]
    last = max((place for place, stored in enumerate(known) if stored is not None), default=-1)
    if last == len(steps):
        return costs
    with tempfile.TemporaryDirectory(prefix="stepwell-sample-") as folder:
        trial = Runner(Path(folder), runner.budget_bytes, runner.time, runner.root)
        sample, total = _sample(known[last] if last >= 0 else None, source)
        if last < 0:
            costs[0] = _reading(source, sample)
        small = _stored(trial, sample.slice(0, len(sample) // 8), "small")
        given = _stored(trial, sample, "sample")
        for place in range(max(last, 0), len(steps)):
            step = steps[place]
            if not getattr(step, "sampled", True):
                break
            whole = isinstance(step, Step) and step.sees == "all"
            given = small if whole else given
            try:
                small, less_s = _timed(trial, step, small)
                found, more_s = (small, less_s) if whole else _timed(trial, step, given)
            except Exception as error:  # whatever it is, the run itself will say it
                log.info("%s could not be tried on a sample: %s", step.name, error)
                break
            rows = given.report.rows_out
            less_s = 0.0 if whole else less_s
            scale = total / max(1, rows)
            slope = max(0.0, more_s - less_s) / max(1, rows - rows // 8)
            write_s = found.report.size_bytes * scale / _WRITE_BYTES_PER_S
            seconds = max(0.0, more_s - slope * rows) + slope * total + write_s
            total = found.report.rows_out * scale
            costs[place + 1] = Cost(total, found.report.size_bytes * scale, seconds)
            given = found
    return costs


def _timed(trial: Runner, step: Step | SqlStep, given: Stored) -> tuple[Stored, float]:
    begin = time.perf_counter()
    found = trial.run(step, given)
    return found, time.perf_counter() - begin


def _cost(report: Report) -> Cost:
    return Cost(report.rows_out, report.size_bytes, 0.0)


def _sample(stored: Stored | None, source: Keyed) -> tuple[pa.Table, float]:
    """Return some rows with ids, and how many rows there are."""
    if stored is not None:
        batches = stored.batches(rows=SAMPLE_ROWS)
        first = next(batches, None)
        table = stored.schema.empty_table() if first is None else pa.Table.from_batches([first])
        return table, float(stored.report.rows_out)
    head = source.table.head(SAMPLE_ROWS)
    if "_row" not in head.schema.names:
        numbers = pa.array(range(len(head)), pa.int64())
        head = head.add_column(0, ids_schema(source.table).field(0), [pa.array(key_ids("sample", [numbers]))])
    return head, float(len(source.table))


def _reading(source: Keyed, sample: pa.Table) -> Cost:
    rows = len(source.table)
    size = sample.nbytes * rows / max(1, len(sample))
    return Cost(rows, size, 2 * size / _WRITE_BYTES_PER_S)


def _stored(trial: Runner, sample: pa.Table, key: str) -> Stored:
    with writing(trial.root, key, "sample") as writer:
        writer.add(OUT, sample)
        report = Report("sample", len(sample), len(sample), size_bytes=sample.nbytes)
        writer.report(report)
    return Stored(key, trial.root / key, report)
