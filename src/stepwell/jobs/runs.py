"""From a configuration to a folder with everything about the run, and from that folder back to a trained model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.progress import progress
from stepwell.evaluate import Report
from stepwell.jobs.data import open_data
from stepwell.jobs.experiment import Experiment, ModelConfig, ProtocolName, SamplingConfig, read_experiment
from stepwell.jobs.link_prediction import LinkPrediction
from stepwell.jobs.node_classification import NodeClassification
from stepwell.jobs.planning import chosen_by, plan_job
from stepwell.jobs.report import write_run, write_text
from stepwell.jobs.result import Result
from stepwell.plan.options import Asked
from stepwell.storage import EventLog
from stepwell.train import Loop

Job = LinkPrediction | NodeClassification


def link_prediction(
    log: EventLog,
    model: str = "tgn",
    *,
    memory: str | int | None = None,
    accuracy: Asked | None = None,
    experiment: Experiment | None = None,
    folder: Path | str | None = None,
) -> LinkPrediction:
    """Return a link-prediction job on a log; no training runs yet.

    With `memory` or `accuracy` the planner chooses what the experiment leaves at its defaults (batcher, sampler,
    reuse, placement, prefetch), for which it tries a few batches; the choice stands in the job's experiment.

    Args:
        log: The events.
        model: The model's name, if no experiment is given.
        memory: Memory for features, node state and index, as `"2GiB"`.
        accuracy: `"exact"`, `"bounded"` or `"changed"`: what the planner may choose.
        experiment: The whole configuration.
        folder: Where checkpoints go; None keeps the best state in memory.

    Example:
        >>> job = link_prediction(log, model="tgn")  # doctest: +SKIP
        >>> print(job.plan)  # doctest: +SKIP
        >>> result = job.fit()  # doctest: +SKIP
    """
    chosen = experiment or Experiment(model=ModelConfig(model), sampling=_usual_sampling(model))
    made = LinkPrediction(log, chosen, None if folder is None else Path(folder))
    if memory is None and accuracy is None:
        return made
    plan = plan_job(made, memory=memory, accuracy=accuracy or "exact")
    return LinkPrediction(log, chosen_by(plan, chosen, memory), made.folder)


def node_classification(
    log: EventLog, model: str = "tgn", *, experiment: Experiment | None = None, folder: Path | str | None = None
) -> NodeClassification:
    """Return a job that learns the log's state labels from embeddings trained on its links; nothing runs yet.

    Args:
        log: The events, with labels.
        model: The model's name, if no experiment is given.
        experiment: The whole configuration.
        folder: Where checkpoints go; None keeps the best state in memory.
    """
    return NodeClassification(link_prediction(log, model, experiment=experiment, folder=folder))


def job(experiment: Experiment, folder: Path | None = None) -> Job:
    """Return the job of a configuration, its data opened or ingested."""
    made = LinkPrediction(open_data(experiment.data), experiment, folder)
    return made if experiment.task == "link_prediction" else NodeClassification(made)


def run(experiment: Experiment, folder: Path, *, resume: bool = False) -> Result:
    """Train a configuration and write its folder: checkpoints, predictions, result and report.

    Args:
        experiment: The configuration.
        folder: The run's folder.
        resume: Continue the folder's run from its last checkpoint.

    Raises:
        InvalidValueError: If the folder already holds a run and `resume` is false.
    """
    if (folder / "experiment.json").exists() and not resume:
        raise InvalidValueError(
            "folder", str(folder), "a new folder (--out on the command line), or that of a run to continue (--resume)"
        )
    lake = experiment.data.lake
    here = lake if "://" in lake else str(Path(lake).resolve())
    experiment = replace(experiment, data=replace(experiment.data, lake=here))
    write_text(folder / "experiment.json", experiment.to_json())
    made = job(experiment, folder)
    result = made.fit(resume=resume)
    links = made if isinstance(made, LinkPrediction) else made.links
    if links.training.measured or not (folder / "result.json").exists():
        write_run(result, experiment, folder, notes=links.log.notes)
    return result


class Run:
    """A trained run, opened from its folder."""

    def __init__(self, folder: Path) -> None:
        self.experiment = read_experiment(folder)
        self.links = LinkPrediction(open_data(self.experiment.data), self.experiment, folder)

    def evaluate(self, protocol: ProtocolName) -> Report:
        """Score the test events under a protocol, with the best state."""
        return self.links.evaluate(protocol)

    def predict(self, pairs: pa.Table) -> pa.Table:
        """Score rows of (src, dst, time), in the user's own keys.

        Args:
            pairs: Columns `src`, `dst` (own keys) and `time` (the log's unit, not before its last event).

        Returns:
            The same rows with a column `score`, a probability.

        Raises:
            DataError: If a column is missing or a key was never seen.
        """
        missing = {"src", "dst", "time"} - set(pairs.column_names)
        if missing:
            raise DataError(
                "pairs",
                f"no column {', '.join(sorted(missing))} among {', '.join(pairs.column_names)}",
                "src, dst and time",
                "rename the columns.",
            )
        log = self.links.log
        src = _nodes(log, pairs["src"], log.src, "src")
        dst = _nodes(log, pairs["dst"], log.dst, "dst")
        scores = self.links.predict(src, dst, pairs["time"].to_numpy().astype(np.int64))
        return pairs.append_column("score", pa.array(scores))


def open_run(folder: Path) -> Run:
    """Open the folder of a trained run."""
    return Run(folder)


def time_parts(experiment: Experiment, batches: int = 60) -> dict[str, float]:
    """Time the parts of a training epoch on this machine: batches alone, then whole steps.

    Args:
        experiment: The configuration.
        batches: Batches to time, after five to warm up.

    Returns:
        Events per second of each part, and milliseconds a batch.
    """
    made = job(experiment)
    links = made if isinstance(made, LinkPrediction) else made.links
    size = experiment.batches.size
    loop = Loop(links.model, links.training, experiment.loop)
    found: dict[str, float] = {}
    for name, work in (("batches alone", lambda _: None), ("training steps", loop.step)):
        seconds: list[float] = []
        with progress(name, batches + 5, "batches") as task:
            stream = iter(links.training.epoch(0))
            while len(seconds) < batches + 5:
                begin = time.perf_counter()
                batch = next(stream, None)
                if batch is None:
                    break
                work(batch)
                seconds.append(time.perf_counter() - begin)
                task.advance()
        middle = float(np.median(seconds[5:] or seconds))
        found[f"{name}, ms a batch"] = 1e3 * middle
        found[f"{name}, events/s"] = size / middle
    return found


def _usual_sampling(model: str) -> SamplingConfig:
    if model == "tgat":
        return SamplingConfig(k=20, hops=2)
    if model == "zebra":
        return SamplingConfig("tppr", k=40, alpha=(0.3, 0.1), beta=(0.5, 0.95))
    return SamplingConfig(k=20 if model == "graphmixer" else 10)


def _nodes(log: EventLog, keys: pa.ChunkedArray, seen: npt.NDArray[np.int32], what: str) -> npt.NDArray[np.int64]:
    """Return the nodes of the user's keys, among those of the key space that this end of the events uses."""
    nodes = np.arange(log.num_nodes)
    if log.node_type is not None and len(seen):
        nodes = nodes[log.node_type == log.node_type[seen[0]]]
    known = {key: int(node) for key, node in zip(log.keys(nodes).tolist(), nodes, strict=True)}
    kind = type(next(iter(known), 0))
    wanted = [kind(key) for key in keys.to_pylist()]
    unknown = next((row for row, key in enumerate(wanted) if key not in known), None)
    if unknown is not None:
        raise DataError(
            f"pairs, row {unknown}, column {what}",
            f"{wanted[unknown]!r} never occurred in {log.name}",
            "keys that the log has seen",
            "drop the row, or append the events of this key first.",
        )
    return np.array([known[key] for key in wanted], np.int64)
