"""Whole jobs: data, model, plan, loop and scores, from one call or one configuration."""

from stepwell.jobs.experiment import Experiment, read_experiment
from stepwell.jobs.link_prediction import LinkPrediction
from stepwell.jobs.planning import plan_job
from stepwell.jobs.report import plan_rows, score_rows
from stepwell.jobs.result import Result
from stepwell.jobs.runs import job, link_prediction, node_classification, open_run, run, time_parts

__all__ = [
    "Experiment",
    "LinkPrediction",
    "Result",
    "job",
    "link_prediction",
    "node_classification",
    "open_run",
    "plan_job",
    "plan_rows",
    "read_experiment",
    "run",
    "score_rows",
    "time_parts",
]
