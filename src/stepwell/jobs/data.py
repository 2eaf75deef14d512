"""From a configuration to an event log: open it in the lake, ingest a registered set, or generate the default."""

from __future__ import annotations

from stepwell import datasets, storage
from stepwell.core.errors import UnknownNameError
from stepwell.datasets.synthetic import Habits, habits
from stepwell.jobs.experiment import DataConfig
from stepwell.storage import EventLog


def open_data(config: DataConfig) -> EventLog:
    """Return the log that a configuration names, ingesting it into the lake the first time.

    Raises:
        UnknownNameError: If neither the lake nor the registry knows the name.
    """
    lake = storage.open(config.lake)
    if config.name in lake.names():
        return lake.events(config.name)
    if config.name == "generated":
        table = habits(Habits())
        return lake.events(
            config.name,
            table,
            src=("user", "user"),
            dst=("item", "item"),
            time="time",
            label="label",
            features=["features"],
            budget=config.budget,
        )
    if config.name not in datasets.datasets:
        raise UnknownNameError("log or data set", config.name, {"generated", *lake.names(), *datasets.datasets})
    return datasets.datasets[config.name].ingest(lake, budget=config.budget)
