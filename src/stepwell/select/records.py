"""What is known of a study: its log, replayed. A running study changes its records by the events that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, cast

from stepwell.core.state import Json
from stepwell.select.hopper import Phase
from stepwell.select.log import Event
from stepwell.select.space import Params

Status = Literal["waiting", "paused", "finished", "stopped", "failed"]


class Score(NamedTuple):
    """What a validation gave.

    Args:
        epoch: Epochs trained before it.
        value: Mean over the examples.
        num_values: How many there were.
        slice: The validation slice of a peek, -1 for the whole.
        units: Training units before it.
        at_s: When, seconds of running time.
    """

    epoch: int
    value: float
    num_values: int
    slice: int = -1
    units: int = 0
    at_s: float = 0.0


class Span(NamedTuple):
    """A unit as it ran.

    Args:
        worker: Where.
        configs: Which configurations.
        partition: What was visited.
        epoch: In which epoch.
        phase: Whether it trained or scored.
        begin: When it began, seconds of running time.
        end: When it ended.
        hop_s: Seconds of it spent on fetching and handing back states.
        cpu_s: CPU seconds.
        rows: Rows visited.
    """

    worker: int
    configs: tuple[str, ...]
    partition: int
    epoch: int
    phase: Phase
    begin: float
    end: float
    hop_s: float
    cpu_s: float
    rows: int


@dataclass(slots=True)
class Config:
    """One configuration and how it fares.

    Args:
        name: Its name.
        number: Its number, from 0.
        params: Its parameters.
        until: Epochs after which it pauses.
        parent: The configuration that it was cloned from, or none.
        searched: Whether the searcher hears of it.
        status: `waiting` for workers or at work, `paused` for the searcher, `finished`, `stopped` or `failed`.
        reason: Why it ended.
        epoch: Finished epochs.
        version: Training units behind its state.
        warm: The version of the parent's state that it started from, -1 if it started fresh.
        visits: Partitions in the order of its visits, all epochs.
        peeked: Peeks since the last training unit.
        scores: Validations, one an epoch.
        peeks: Early scores on single slices.
        losses: Mean training loss of each unit.
        states: Checksum of the states on disk, by version.
        size_bytes: Of its state.
        told: Epochs at which the searcher heard of it.
        train_s: Seconds of training.
        train_rows: Rows trained on.
        lost: Units that came to nothing.
    """

    name: str
    number: int
    params: Params
    until: int
    parent: str = ""
    searched: bool = True
    status: Status = "waiting"
    reason: str = ""
    epoch: int = 0
    version: int = 0
    warm: int = -1
    visits: list[int] = field(default_factory=list)
    peeked: bool = False
    scores: list[Score] = field(default_factory=list)
    peeks: list[Score] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    states: dict[int, int] = field(default_factory=dict)
    size_bytes: int = 0
    told: set[int] = field(default_factory=set)
    train_s: float = 0.0
    train_rows: int = 0
    lost: int = 0

    @property
    def value(self) -> float | None:
        """Its latest validation, or None."""
        return self.scores[-1].value if self.scores else None

    @property
    def alive(self) -> bool:
        """Whether it may train on."""
        return self.status in ("waiting", "paused")


@dataclass(slots=True)
class Records:
    """Everything the log says.

    Args:
        folder: The study's folder.
        settings: What the study was begun with.
        configs: Configurations by name.
        spans: Units that ran.
        num_commands: Commands obeyed.
        running_s: Running time over all sessions.
        sessions: How often it was run.
        over: Whether the search has come to its end.
        offset_s: Running time before the present session.
        waiting: Names of the configurations that wait for workers or are at work.
        train_s: Seconds of training, all configurations.
        train_rows: Rows trained on, all configurations.
    """

    folder: Path
    settings: Mapping[str, Json] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    num_commands: int = 0
    running_s: float = 0.0
    sessions: int = 0
    over: bool = False
    offset_s: float = 0.0
    waiting: dict[str, None] = field(default_factory=dict)
    train_s: float = 0.0
    train_rows: int = 0

    @property
    def partitions(self) -> int:
        """Training partitions."""
        return cast("int", self.settings.get("partitions", 1))

    @property
    def sign(self) -> float:
        """1 if larger values are better, -1 if smaller ones are."""
        return -1.0 if self.settings.get("mode") == "min" else 1.0

    def state_path(self, config: str, version: int) -> Path:
        """Return where a state lies."""
        return self.folder / "states" / f"{config}-{version:06d}.safetensors"

    def values_path(self, config: str, epoch: int) -> Path:
        """Return where the values of a validation lie, one an example."""
        return self.folder / "scores" / f"{config}-{epoch:04d}.npy"

    def apply(self, event: Event) -> None:
        """Change the records by one event; kinds that say nothing about them are passed over."""
        handler = _HANDLERS.get(str(event["kind"]))
        if handler is None:
            return
        handler(self, event)
        name = str(event.get("config", event.get("name", "")))
        if name in self.configs:
            if self.configs[name].status == "waiting":
                self.waiting[name] = None
            else:
                self.waiting.pop(name, None)


def _study(records: Records, event: Event) -> None:
    records.settings = cast("Mapping[str, Json]", event["settings"])


def _session(records: Records, event: Event) -> None:
    records.sessions += 1
    records.offset_s = records.running_s
    records.over = False


def _config(records: Records, event: Event) -> None:
    parent = str(event.get("parent", ""))
    made = Config(
        name=str(event["name"]),
        number=cast("int", event["number"]),
        params=cast("Params", event["params"]),
        until=cast("int", event["until"]),
        parent=parent,
        searched=bool(event["searched"]),
    )
    if event.get("warm"):
        old = records.configs[parent]
        made.version = made.warm = cast("int", event["version"])
        made.epoch, made.visits = made.version // records.partitions, old.visits[: made.version]
        made.states = {made.version: old.states[made.version]}
        made.scores = [score for score in old.scores if score.epoch <= made.epoch]
        made.losses = old.losses[: made.version]
    records.configs[made.name] = made


def _go(records: Records, event: Event) -> None:
    config = records.configs[str(event["config"])]
    config.status, config.until, config.reason = "waiting", cast("int", event["until"]), ""


def _end(records: Records, event: Event) -> None:
    config = records.configs[str(event["config"])]
    config.status, config.reason = cast("Status", event["status"]), str(event.get("reason", ""))
    if event.get("leaves"):
        config.searched = False


def _pause(records: Records, event: Event) -> None:
    config = records.configs[str(event["config"])]
    config.told.add(cast("int", event["epoch"]))
    if config.status == "waiting":
        config.status = "finished" if event["verdict"] == "finish" else "paused"


def _unit(records: Records, event: Event) -> None:
    begin, end = cast("float", event["begin"]), cast("float", event["end"])
    phase, epoch = cast("Phase", event["phase"]), cast("int", event["epoch"])
    results = cast("list[dict[str, Json]]", event["results"])
    names = tuple(str(one["config"]) for one in results)
    rows = sum(cast("int", one["rows"]) for one in results)
    place = (cast("int", event["worker"]), names, cast("int", event["partition"]), epoch, phase)
    records.spans.append(Span(*place, begin, end, cast("float", event["hop"]), cast("float", event["cpu"]), rows))
    records.running_s = max(records.running_s, end)
    for one in results:
        config = records.configs[str(one["config"])]
        if phase == "train":
            config.version += 1
            config.visits.append(place[2])
            config.losses.append(cast("float", one["loss"]))
            config.states[config.version] = cast("int", one["checksum"])
            config.size_bytes = cast("int", one["size"])
            config.peeked = False
            config.train_s += (end - begin) / len(results)
            config.train_rows += cast("int", one["rows"])
            records.train_s += (end - begin) / len(results)
            records.train_rows += cast("int", one["rows"])
            for old in [version for version in config.states if version < config.version - 1]:
                del config.states[old]
        else:
            whole = phase == "validate"
            config.epoch += whole
            config.peeked = not whole
            value, count = cast("float", one["value"]), cast("int", one["rows"])
            score = Score(config.epoch, value, count, place[2], config.version, end)
            if whole:
                config.scores = [old for old in config.scores if old.epoch < config.epoch]
            (config.scores if whole else config.peeks).append(score)


def _lost(records: Records, event: Event) -> None:
    for name in cast("list[str]", event["configs"]):
        records.configs[name].lost += 1


def _back(records: Records, event: Event) -> None:
    config, version = records.configs[str(event["config"])], cast("int", event["version"])
    config.version, config.epoch = version, version // records.partitions
    config.visits, config.losses = config.visits[:version], config.losses[:version]
    config.states = {old: check for old, check in config.states.items() if old <= version}
    validated = any(score.epoch == config.epoch for score in config.scores)
    if version and version % records.partitions == 0 and not validated:
        config.epoch -= 1
    config.peeked = False


def _command(records: Records, event: Event) -> None:
    records.num_commands = cast("int", event["number"])


def _over(records: Records, event: Event) -> None:
    records.over = bool(event["over"])
    records.running_s = max(records.running_s, cast("float", event["at"]))


_HANDLERS = {
    "study": _study,
    "session": _session,
    "config": _config,
    "go": _go,
    "end": _end,
    "told": _pause,
    "unit": _unit,
    "lost": _lost,
    "back": _back,
    "command": _command,
    "rest": _over,
}
