"""A plan as a page: a bar a stage, the tree, what was chosen and why, and what else there was."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.core import PlanNode
from stepwell.view import Fact, Page, Preformatted, Section, Table, Text, charts


def plan_page(
    title: str,
    lead: str,
    tree: PlanNode,
    choices: Sequence[tuple[str, str, str, str]],
    alternatives: Sequence[tuple[str, ...]],
) -> Page:
    """Return the page of a plan.

    Args:
        title: What was asked.
        lead: What it takes.
        tree: The plan.
        choices: Place, choice, reason and next best of each place.
        alternatives: All combinations, the names of the columns first.
    """
    seconds = charts.bars("Seconds of each stage, one epoch", _bars(tree), y="seconds")
    rows = [list(row) for row in choices]
    head, *others = alternatives
    sections = [
        Section("Where the time goes", (seconds, Preformatted(str(tree), "plan"))),
        Section("Why this plan", (Table(["place", "chosen", "why", "next best"], rows, "choices of the planner"),)),
        Section(
            "What else there was",
            (
                Text("Every combination that keeps the accuracy asked for and fits the memory, fastest first."),
                Table(list(head), [list(row) for row in others[:60]], f"{len(others)} combinations"),
            ),
        ),
    ]
    facts = [Fact("seconds an epoch", f"{tree.predicted.seconds or 0.0:.3g}", "predicted")]
    if tree.measured is not None and tree.measured.seconds is not None:
        facts.append(Fact("seconds an epoch", f"{tree.measured.seconds:.3g}", "measured"))
    return Page(f"Plan: {title}", lead, facts, sections)


def _bars(tree: PlanNode) -> list[charts.Series]:
    nodes = [node for _, node in reversed(tree.rows()[1:])]
    names = [node.name for node in nodes]
    series = [charts.Series("predicted", names, [node.predicted.seconds or 0.0 for node in nodes])]
    if any(node.measured is not None for node in nodes):
        found = [(node.measured.seconds or 0.0) if node.measured is not None else 0.0 for node in nodes]
        series.append(charts.Series("measured", names, found))
    return series
