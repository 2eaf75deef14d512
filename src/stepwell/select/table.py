"""The live table of a study in a terminal: who leads, how sure that is, how far each is, how busy the workers are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stepwell.core.settings import settings
from stepwell.select.compare import score_interval
from stepwell.select.intervals import at_look
from stepwell.select.log import Event
from stepwell.select.records import Config, Records

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_EVERY_S = 0.25
_ROWS = 20


def standing(records: Records) -> list[Config]:
    """Return all configurations, the best first, those without a result last."""

    def key(one: Config) -> tuple[bool, bool, float, int]:
        found = latest(one)
        return (one.status == "failed", found is None, 0.0 if found is None else -records.sign * found[0], one.number)

    return sorted(records.configs.values(), key=key)


def latest(config: Config) -> tuple[float, int, int] | None:
    """Return value, number of examples and look number of a configuration's latest score, early ones too."""
    if config.scores:
        return config.scores[-1].value, config.scores[-1].num_values, config.scores[-1].epoch
    if config.peeks:
        return config.peeks[-1].value, config.peeks[-1].num_values, len(config.peeks)
    return None


def worker_use(records: Records) -> dict[int, float]:
    """Return the share of the running time for which each worker was at work."""
    busy: dict[int, float] = {}
    for span in records.spans:
        busy[span.worker] = busy.get(span.worker, 0.0) + span.end - span.begin
    return {worker: seconds / max(records.running_s, 1e-9) for worker, seconds in sorted(busy.items())}


def rows(records: Records, most: int = _ROWS) -> list[list[str]]:
    """Return the table's cells: name, parameters, metric, interval, progress, status."""
    found = []
    bounds = records.settings.get("bounds")
    exact = bounds == [0.0, 1.0]
    for config in standing(records)[:most]:
        now = latest(config)
        value = "" if now is None else f"{now[0]:.4f}"
        around = score_interval(now[0], now[1], at_look(0.05, now[2]), (0.0, 1.0)) if now and exact else None
        spread = "" if around is None else f"{around.low:.3f} to {around.high:.3f}"
        units = config.version / records.partitions
        params = ", ".join(f"{name}={_short(value)}" for name, value in config.params.items())
        status = config.status + (f": {config.reason}" if config.reason else "")
        found.append([config.name, params, value, spread, f"{units:.2f}/{config.until}", status])
    return found


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headline(records: Records) -> str:
    """Return one line about the whole study."""
    counts: dict[str, int] = {}
    for config in records.configs.values():
        counts[config.status] = counts.get(config.status, 0) + 1
    states = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    use = ", ".join(f"{share:.0%}" for share in worker_use(records).values())
    return f"{len(records.configs)} configurations ({states or 'none yet'}), {records.running_s:.1f} s, workers {use}"


def study_text(records: Records) -> str:
    """Return the study as text."""
    head = ["name", "parameters", str(records.settings.get("metric", "")), "95 %", "epochs", "status"]
    lines = [head, *rows(records)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    more = len(records.configs) - _ROWS
    return "\n".join([headline(records), *body, *([f"... {more} more"] if more > 0 else [])])


class LiveTable:
    """Draws the table anew a few times a second.

    Args:
        live: What draws.
    """

    def __init__(self, live: Live) -> None:
        self._live, self._drawn = live, 0.0

    def hear(self, records: Records, event: Event) -> None:
        now = time.monotonic()
        if now - self._drawn >= _EVERY_S:
            self._drawn = now
            self._live.update(_table(records), refresh=True)

    def close(self, records: Records) -> None:
        self._live.update(_table(records), refresh=True)


def _table(records: Records) -> Table:
    from rich.table import Table

    table = Table(title=headline(records), title_justify="left", expand=False)
    for name in ("name", "parameters", str(records.settings.get("metric", "")), "95 %", "epochs", "status"):
        table.add_column(name, overflow="fold")
    for row in rows(records):
        table.add_row(*row)
    return table


@contextmanager
def live_table() -> Iterator[list[LiveTable]]:
    """Yield a live table where stderr is a terminal and progress is wanted, nothing elsewhere."""
    if not settings().progress or not sys.stderr.isatty():
        yield []
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        yield [LiveTable(live)]
