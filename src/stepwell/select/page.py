"""The page of a study: who leads and how sure that is, learning curves, what mattered, who ran where and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from stepwell.core.errors import CheckpointError
from stepwell.select.compare import metric_bounds, score_interval
from stepwell.select.intervals import at_look
from stepwell.select.plan import core_hours
from stepwell.select.records import Config, Records
from stepwell.select.table import headline, standing
from stepwell.view import Fact, Page, Preformatted, Section, Table, Text, charts

if TYPE_CHECKING:
    from stepwell.select.study import Study

_CURVES = 12
_SPANS = 2500


def study_page(study: Study, price_per_core_hour: float | None = None, refresh_s: float | None = None) -> Page:
    """Return the page.

    Args:
        study: The study.
        price_per_core_hour: If given, the page says what the study cost.
        refresh_s: If set, a served page renews itself so often.
    """
    records = study.records
    metric = study.metric
    sections = [
        Section("Who leads", (Text(_verdict(study)), _standing(records))),
        Section("Learning curves", (_curves(study),)),
        Section("Parameters", _parameters(records, metric)),
        Section("What mattered", (_importance(records), Text(_IMPORTANCE))),
        Section("Who ran where", (_timeline(records),)),
        Section("Plan", (Preformatted(str(study.plan), "plan"),)),
    ]
    return Page(
        f"Study: {study.folder.name}", headline(records), _facts(study, price_per_core_hour), sections, refresh_s
    )


_IMPORTANCE = (
    "Share of the variance of the last score that is explained by one parameter alone (its values, or five equal "
    "groups of them); over the configurations that were validated, so early stopping colours it."
)


def _facts(study: Study, price: float | None) -> list[Fact]:
    records, ranked = study.records, study.ranked()
    hours = core_hours(records)
    facts = [
        Fact(f"best {study.metric}", f"{ranked[0].value:.4f}" if ranked else "-", ranked[0].name if ranked else "")
    ]
    facts.append(Fact("configurations", len(records.configs)))
    facts.append(Fact("core-hours", f"{hours:.3g}", "" if price is None else f"costs {hours * price:.3g}"))
    facts.append(Fact("seconds", f"{records.running_s:.3g}", f"{records.sessions} sessions"))
    return facts


def _verdict(study: Study) -> str:
    try:
        return str(study.best(0.95))
    except CheckpointError as error:
        return str(error)


def _standing(records: Records) -> Table:
    names = list(dict.fromkeys(name for one in records.configs.values() for name in one.params))
    rows = [
        [
            one.name,
            *(one.params.get(name) for name in names),
            one.value,
            one.epoch,
            one.status,
            one.reason or one.parent,
        ]
        for one in standing(records)[:200]
    ]
    return Table(["name", *names, str(records.settings["metric"]), "epochs", "status", "why / parent"], rows)


def _curves(study: Study) -> charts.Chart:
    records, bounds = study.records, metric_bounds(study)
    shown = [one for one in standing(records) if one.scores or one.peeks][:_CURVES]
    series = []
    for config in shown:
        points = sorted([*config.peeks, *config.scores], key=lambda score: (score.units, score.slice < 0))
        spreads = []
        for look, score in enumerate(points, 1):
            around = score_interval(score.value, score.num_values, at_look(0.05, look), bounds)
            spreads.append(0.0 if around is None else around.spread)
        places = [score.units / records.partitions for score in points]
        exact = bounds == (0.0, 1.0)
        series.append(charts.Series(config.name, places, [s.value for s in points], spreads if exact else None))
    title = f"{study.metric} by epochs trained, the best {len(shown)}; intervals hold at every look (95 %)"
    return charts.line(title, series, x="epochs", y=study.metric)


def _parameters(records: Records, metric: str) -> tuple[charts.Chart, ...]:
    scored = [one for one in records.configs.values() if one.value is not None]
    if not scored:
        return ()
    return (parallel(records, scored, metric),)


def parallel(records: Records, scored: Sequence[Config], metric: str) -> charts.Chart:
    """Return parallel coordinates of all validated configurations, the metric as the last axis and the colour."""
    names = list(dict.fromkeys(name for one in scored for name in one.params))
    axes: list[charts.Json] = []
    for name in names:
        given = [one.params.get(name) for one in scored]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
            numbers = np.array(given, np.float64)
            wide = bool((numbers > 0).all() and numbers.max() > 30 * numbers.min())
            axes.append(
                {"label": f"log10 {name}" if wide else name, "values": _floats(np.log10(numbers) if wide else numbers)}
            )
        else:
            words = list(dict.fromkeys(str(value) for value in given))
            places: list[charts.Json] = [words.index(str(value)) for value in given]
            ticks: list[charts.Json] = list(range(len(words)))
            axes.append({"label": name, "values": places, "tickvals": ticks, "ticktext": list(words)})
    values = np.array([cast("float", one.value) for one in scored])
    axes.append({"label": metric, "values": _floats(values)})
    trace: dict[str, charts.Json] = {
        "type": "parcoords",
        "dimensions": axes,
        "line": {"color": _floats(values), "colorscale": "Viridis", "reversescale": records.sign < 0},
    }
    return charts.Chart("Each line is a configuration", [trace], {"margin": {"l": 80, "r": 60}}, height=380)


def _floats(values: np.ndarray) -> list[charts.Json]:
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]


def importance(records: Records) -> dict[str, float]:
    """Return the share of the variance of the last score that each parameter explains alone, the largest first."""
    scored = [one for one in records.configs.values() if one.value is not None and np.isfinite(one.value)]
    values = np.array([cast("float", one.value) for one in scored])
    total = float(values.var()) if len(values) else 0.0
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for one in scored for name in one.params):
        labels = _groups([one.params.get(name) for one in scored])
        within = sum(float(values[labels == label].var()) * (labels == label).sum() for label in set(labels.tolist()))
        found[name] = 1.0 - within / (total * len(values)) if total > 0 else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _groups(given: Sequence[object]) -> np.ndarray:
    words = list(dict.fromkeys(str(value) for value in given))
    if len(words) > 8 and all(isinstance(value, int | float) for value in given):
        numbers = np.array(given, np.float64)
        return np.searchsorted(np.quantile(numbers, [0.2, 0.4, 0.6, 0.8]), numbers)
    return np.array([words.index(str(value)) for value in given])


def _importance(records: Records) -> charts.Chart:
    found = importance(records)
    return charts.bars("Share of variance explained", [charts.Series("share", list(found), list(found.values()))])


def _timeline(records: Records) -> charts.Chart:
    spans = records.spans[-_SPANS:]
    many = len({span.configs for span in spans}) > 40
    pieces = [
        charts.Span(f"worker {span.worker}", span.phase if many else _label(span.configs), span.begin, span.end)
        for span in sorted(spans, key=lambda span: span.worker)
    ]
    cut = f", the last {_SPANS:,} units" if len(records.spans) > _SPANS else ""
    return charts.timeline(f"The schedule as it ran{cut}", pieces)


def _label(configs: tuple[str, ...]) -> str:
    return configs[0] if len(configs) == 1 else f"{configs[0]} to {configs[-1]}"
