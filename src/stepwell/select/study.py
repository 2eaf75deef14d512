"""A study: many configurations, one folder, no server. `search` runs one; `Study` looks at it and steers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.errors import CheckpointError, UnknownNameError
from stepwell.core.plan import PlanNode
from stepwell.select.compare import Verdict, verdict
from stepwell.select.log import read_log
from stepwell.select.records import Config, Records
from stepwell.select.space import Params
from stepwell.select.steer import Command, send
from stepwell.select.trainee import Build, Live, as_trainee, seeded, unpack


@dataclass
class Study:
    """A study as its folder tells it.

    Args:
        folder: The folder.
        build: Makes models of parameters; needed to load one.
    """

    folder: Path
    build: Build | None = field(default=None, repr=False)
    records: Records = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if not (self.folder / "log.jsonl").exists():
            raise CheckpointError(f"No study at {self.folder}. Begin one with stepwell.search(..., folder=...).")
        self.refresh()

    def refresh(self) -> None:
        """Read the log anew: a study that runs elsewhere has gone on."""
        self.records = replay(self.folder)

    @property
    def configs(self) -> Sequence[Config]:
        """All configurations, in the order in which they began."""
        return list(self.records.configs.values())

    def __getitem__(self, name: str) -> Config:
        try:
            return self.records.configs[name]
        except KeyError:
            raise UnknownNameError("configuration", name, self.records.configs) from None

    @property
    def metric(self) -> str:
        """The metric's name."""
        return str(self.records.settings["metric"])

    def values(self, name: str) -> npt.NDArray[np.float32]:
        """Return the values of a configuration's latest validation, one an example, in the same order for all.

        Raises:
            CheckpointError: If it was not validated yet.
        """
        config = self[name]
        path = self.records.values_path(name, config.scores[-1].epoch) if config.scores else None
        if path is not None and not path.exists() and config.parent:
            path = self.records.values_path(config.parent, config.scores[-1].epoch)
        if path is None or not path.exists():
            raise CheckpointError(f"{name} has no validation yet. Let it finish an epoch.")
        found: npt.NDArray[np.float32] = np.load(path).astype(np.float32)
        return found

    def ranked(self) -> list[Config]:
        """Return the validated configurations, best first; failed ones are left out."""
        scored = [one for one in self.configs if one.value is not None and one.status != "failed"]
        return sorted(scored, key=lambda one: (-self.records.sign * cast("float", one.value), one.number))

    def best(self, confidence: float | None = None, *, over: str = "new") -> Config | Verdict:
        """Return the best configuration; with a confidence, who is best beyond chance, or that it is not decided yet.

        Args:
            confidence: How sure the answer must be, such as 0.95. None just takes the best mean.
            over: What the answer is about: `new` examples of the same kind, or the `validation` set itself.

        Raises:
            CheckpointError: If nothing was validated yet.
        """
        ranked = self.ranked()
        if not ranked:
            raise CheckpointError(f"Nothing in {self.folder} was validated yet. Let a configuration finish an epoch.")
        if confidence is None:
            return ranked[0]
        return verdict(self, ranked, confidence, over)

    def model(self, name: str = "", build: Build | None = None) -> torch.nn.Module:
        """Return a configuration's model as trained so far, in evaluation mode.

        Args:
            name: The configuration; the best one if empty.
            build: What made it; the study's own if None.

        Raises:
            CheckpointError: If there is no state of it, or nobody knows how to build it.
        """
        made = build or self.build
        if made is None:
            raise CheckpointError("A study opened from its folder does not know how to build models. Pass build=.")
        config = self[name] if name else cast("Config", self.best())
        with seeded(cast("int", self.records.settings["seed"])):
            trainee = as_trainee(made(config.params), config.params)
        if config.version:
            unpack(Live(trainee), self.records.state_path(config.name, config.version).read_bytes())
        if trainee.prefix is not None:
            return torch.nn.Sequential(trainee.prefix, trainee.model).eval()
        return trainee.model.eval()

    @property
    def plan(self) -> PlanNode:
        """What is done how, predicted and measured."""
        from stepwell.select.plan import study_plan

        return study_plan(self.records)

    def to_html(self, path: str | Path = "") -> Path:
        """Write the study's page and return its path; `study.html` in the folder if none is given."""
        from stepwell.select.page import study_page

        return study_page(self).write(path or self.folder / "study.html")

    # Steering ------------------------------------------------------------------------------------------------------

    def stop(self, name: str) -> None:
        """Stop a configuration at its next unit boundary; it may be resumed."""
        self._send(Command("stop", self[name].name))

    def resume(self, name: str, epochs: int = 0) -> None:
        """Let a configuration that was stopped, paused or finished train on, outside the searcher's plan."""
        self._send(Command("resume", self[name].name, epochs=epochs))

    def clone(self, name: str, changes: Params, *, warm: bool = True, epochs: int = 0) -> None:
        """Begin a changed copy, from the weights and optimiser of its parent or afresh."""
        self._send(Command("clone", self[name].name, changes, warm, epochs))

    def add(self, params: Params) -> None:
        """Begin a configuration of one's own."""
        self._send(Command("add", params=params))

    def _send(self, command: Command) -> None:
        send(self.folder, command)

    def __str__(self) -> str:
        from stepwell.select.table import study_text

        return study_text(self.records)


def replay(folder: Path) -> Records:
    """Return what a study's log says."""
    records = Records(folder)
    for event in read_log(folder / "log.jsonl"):
        records.apply(event)
    return records
