"""Ranking and metrics: what is ranked against what, at which time, ties included."""

from stepwell.evaluate.batches import evaluation_for
from stepwell.evaluate.leak import check_leak
from stepwell.evaluate.probe import Probe
from stepwell.evaluate.protocols import Protocol, Score, p1, p2, p3
from stepwell.evaluate.report import Evaluation, Report, evaluate
from stepwell.evaluate.split import split_for

__all__ = [
    "Evaluation",
    "Probe",
    "Protocol",
    "Report",
    "Score",
    "check_leak",
    "evaluate",
    "evaluation_for",
    "p1",
    "p2",
    "p3",
    "split_for",
]
