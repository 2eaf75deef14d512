"""A study written to MLflow: one parent run, a child a configuration, metrics in batches. Needs the extra `mlflow`."""

from __future__ import annotations

import math
import time
from importlib import import_module
from typing import Any, cast

from stepwell.core.errors import MissingExtraError
from stepwell.core.state import Json
from stepwell.select.log import Event
from stepwell.select.records import Records

_EVERY_S = 2.0


class ToMLflow:
    """Hears of a study and writes it down: pass it to `search(..., watchers=[ToMLflow("sqlite:///mlflow.db")])`.

    Metrics are collected and sent in batches, every two seconds and at the end. Data, settings and the realised
    schedule are tags and an artefact of the parent.

    Args:
        uri: The tracking store.
        experiment: The experiment's name.

    Raises:
        MissingExtraError: If MLflow is not installed.
    """

    def __init__(self, uri: str, experiment: str = "stepwell") -> None:
        try:
            mlflow: Any = import_module("mlflow")
            entities: Any = import_module("mlflow.entities")
        except ImportError as error:
            raise MissingExtraError("ToMLflow", "mlflow", "mlflow") from error
        self._metric: Any = entities.Metric
        self._client: Any = mlflow.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = found.experiment_id if found else self._client.create_experiment(experiment)
        self._parent = ""
        self._children: dict[str, str] = {}
        self._waiting: dict[str, list[Any]] = {}
        self._sent = time.monotonic()

    def hear(self, records: Records, event: Event) -> None:
        if not self._parent:
            tags = {"study": str(records.folder), "data": str(records.settings.get("data"))}
            run = self._client.create_run(self._experiment, run_name=records.folder.name, tags=tags)
            self._parent = run.info.run_id
            for name, value in records.settings.items():
                self._client.log_param(self._parent, name, str(value)[:500])
        if event["kind"] == "unit":
            for one in cast("list[dict[str, Json]]", event["results"]):
                self._note(records, event, one)
        if time.monotonic() - self._sent > _EVERY_S:
            self._send()

    def _note(self, records: Records, event: Event, one: dict[str, Json]) -> None:
        name = str(one["config"])
        config = records.configs[name]
        if name not in self._children:
            run = self._client.create_run(self._experiment, run_name=name, tags={"mlflow.parentRunId": self._parent})
            self._children[name] = run.info.run_id
            for param, value in config.params.items():
                self._client.log_param(run.info.run_id, param, value)
        key = {"train": "train_loss", "validate": str(records.settings["metric"]), "peek": "early"}[str(event["phase"])]
        value = cast("float", one["loss"] if event["phase"] == "train" else one["value"])
        if math.isfinite(value):
            at = int(time.time() * 1000)
            self._waiting.setdefault(name, []).append(self._metric(key, value, at, config.version))

    def _send(self) -> None:
        for name, metrics in self._waiting.items():
            for begin in range(0, len(metrics), 1000):
                self._client.log_batch(self._children[name], metrics=metrics[begin : begin + 1000])
        self._waiting = {}
        self._sent = time.monotonic()

    def close(self, records: Records) -> None:
        self._send()
        if not self._parent:
            return
        rows = [span._asdict() for span in records.spans]
        self._client.log_dict(self._parent, {"schedule": rows}, "schedule.json")
        for name, run in self._children.items():
            config = records.configs[name]
            self._client.set_tag(run, "status", f"{config.status} {config.reason}".strip())
            self._client.set_terminated(run, "FAILED" if config.status == "failed" else "FINISHED")
        self._client.set_terminated(self._parent)
