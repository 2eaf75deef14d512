"""One page about one run: scores beside baselines, the plan, the learning curve, and how scores are distributed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from stepwell.core import PlanNode
from stepwell.core.files import whole_file
from stepwell.core.plan import Cost
from stepwell.evaluate import Score
from stepwell.jobs.experiment import Experiment
from stepwell.jobs.result import Result
from stepwell.nn.staleness import Staleness
from stepwell.plan import largest_miss
from stepwell.view import Fact, Page, Preformatted, Section, Table, Text, charts


def write_run(result: Result, experiment: Experiment, folder: Path, *, notes: tuple[str, ...] = ()) -> None:
    """Write `result.json`, `predictions.parquet` and `report.html` into a run's folder.

    Args:
        result: What the run gave.
        experiment: Its whole setting.
        folder: The run's folder; it exists.
        notes: What happened to the data on the way in.
    """
    write_predictions(result.predictions, folder / "predictions.parquet")
    rows = {
        "scores": score_rows(result.scores),
        "plan": plan_rows(result.plan),
        "seconds": result.seconds,
        "staleness": None if result.staleness is None else asdict(result.staleness),
    }
    write_text(folder / "result.json", json.dumps(rows, indent=2))
    report_page(result, experiment, notes=notes).write(folder / "report.html")


def report_page(result: Result, experiment: Experiment, *, notes: tuple[str, ...] = ()) -> Page:
    """Return the page of a run.

    Args:
        result: What the run gave.
        experiment: Its configuration.
        notes: What happened to the data on the way in.
    """
    miss = largest_miss(result.plan)
    sections = [
        Section("Scores", tuple(_score_table(result, index) for index in range(len(result.reports)))),
        Section("Learning curve", _curves(result)),
        Section("How scores are distributed", (_distribution(result),)),
        Section(
            "Plan",
            (
                Text("Each line is a stage, above what feeds it; predicted before the run, measured in it, one epoch."),
                Preformatted(str(result.plan), "plan of the run"),
                *([] if miss is None else [Text(f"{str(miss).capitalize()}.")]),
            ),
        ),
        *_staleness(result.staleness),
        Section("Setting", (Preformatted(experiment.to_json(), "configuration of the run"),)),
    ]
    if notes:
        sections.append(Section("Notes on the data", tuple(Text(note) for note in notes)))
    first = result.reports[0]
    last = result.reports[-1]
    facts = [
        Fact("test AP", first["ap"].value, "P1, pooled"),
        Fact("test AUC", first["auc"].value, "P1, pooled"),
        Fact("test MRR", last["mrr"].value, "P3, one against all destinations"),
        Fact("training", f"{np.median([e.events_per_s for e in result.history]):,.0f} events/s", "median over epochs"),
    ]
    lead = f"{result.name} on {first.protocol.data}: {len(result.history)} epochs in {result.seconds:.1f} s."
    return Page("Link prediction", lead, facts, sections)


def score_rows(scores: tuple[Score, ...]) -> list[dict[str, str | float | int]]:
    """Return scores as plain rows, each with its protocol in words."""
    return [
        {
            "metric": s.name,
            "value": s.value,
            "pooling": s.protocol.pooling,
            "protocol": str(s.protocol),
            "events": s.num,
        }
        for s in scores
    ]


def plan_rows(plan: PlanNode) -> list[dict[str, object]]:
    """Return a plan as plain rows, root first."""

    def cost(value: Cost | None) -> dict[str, float | None] | None:
        if value is None:
            return None
        return {"rows": value.rows, "bytes": value.size_bytes, "seconds": value.seconds, "hit_rate": value.hit_rate}

    return [
        {"depth": d, "name": n.name, "why": n.why, "predicted": cost(n.predicted), "measured": cost(n.measured)}
        for d, n in plan.rows()
    ]


def write_predictions(table: pa.Table, path: Path) -> Path:
    """Write a table as Parquet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        pa.parquet.write_table(table, aside)
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as aside:
        aside.write_text(text)


def _score_table(result: Result, index: int) -> Table:
    report = result.reports[index]
    names = [(s.name, s.protocol.pooling) for s in report.scores]
    contestants = [(result.name, report), *((n, r) for n, r in result.baselines if r.protocol == report.protocol)]
    rows: list[list[str | float]] = [
        [name, *(other.score(*metric).value for metric in names)] for name, other in contestants
    ]
    columns = ["model", *(m if pooling == "pooled" else f"{m}, mean over batches" for m, pooling in names)]
    return Table(columns, rows, f"{report.protocol}; {len(report.predictions):,} events")


def _staleness(found: Staleness | None) -> tuple[Section, ...]:
    """Return what there is to say of reused embeddings, if there were any."""
    if found is None:
        return ()
    columns = ["layer", "age in batches", "places", "off, mean", "off, worst", "norm"]
    rows: list[list[str | float]] = [
        [str(g.layer), f"{g.youngest} to {g.oldest}", str(g.num), g.mean, g.worst, g.norm] for g in found.groups
    ]
    table = Table(columns, rows, "norm of the difference between a reused embedding and the same computed anew")
    return (Section("Reused embeddings", (table, Text(f"Outputs: {found.outputs}."), Text(found.conditions))),)


def _curves(result: Result) -> tuple[charts.Chart, ...]:
    epochs = [epoch.epoch + 1 for epoch in result.history]
    loss = charts.line("Training loss", [charts.Series("loss", epochs, [e.loss for e in result.history])], x="epoch")
    metrics = [name for name in result.history[0].scores if "/" not in name]
    series = [charts.Series(name, epochs, [e.scores[name] for e in result.history]) for name in metrics]
    return (loss, charts.line("Validation", series, x="epoch")) if series else (loss,)


def _distribution(result: Result) -> charts.Chart:
    answers = result.reports[0].predictions
    groups = {"true destinations": answers.score, "false destinations": answers.negative_mean}
    return charts.distribution("Scores of true and of false destinations (P1)", groups, x="logit")
