"""What is handed to a worker and what comes back: a study's task, a unit of work, and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from stepwell.select.hopper import Unit
from stepwell.select.space import Params
from stepwell.select.trainee import Build, Step

Score: TypeAlias = "Callable[[torch.nn.Module, object], torch.Tensor]"
Blob: TypeAlias = "Path | bytes | None"


@dataclass(frozen=True)
class Task:
    """What is the same for all units of a study.

    Args:
        build: Makes a model (or a `Trainee`) of parameters.
        step: Returns the loss of a batch.
        score: Returns one value an example of a validation batch.
        batch_size: Rows a batch, unless a configuration has a parameter of that name.
        seed: Seeds weights, dropout and everything else that draws; the same for every configuration.
        threads: Compute threads of a worker; results are bitwise equal for equal threads.
        device: Where models and batches live.
        live_bytes: States that a worker may keep ready in memory besides the one at work.
        features: Folder for the outputs of frozen prefixes.
    """

    build: Build
    step: Step
    score: Score
    batch_size: int = 64
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    live_bytes: int = 256 << 20
    features: Path = Path("features")


class Work(NamedTuple):
    """One unit to do.

    Args:
        unit: What to visit.
        params: Parameters of each configuration.
        states: Where each state is; None builds a fresh one.
        versions: Training units behind each state.
        warm: Whether a state is that of a parent.
        writes: Where to put the new states; None returns them as bytes.
        begins: Whether this is the first training unit of the epoch.
        ends: Whether it is the last.
        together: Whether several configurations train side by side, each by itself, over the same batches; else they
            are one fused model.
    """

    unit: Unit
    params: tuple[Params, ...]
    states: tuple[Blob, ...]
    versions: tuple[int, ...]
    warm: tuple[bool, ...]
    writes: tuple[Path | None, ...]
    begins: bool = False
    ends: bool = False
    together: bool = False


class Reached(NamedTuple):
    """What a unit made of one configuration.

    Args:
        config: Its name.
        state: The new state: bytes, or where it lies; None if the unit only scored.
        checksum: Of the state.
        size_bytes: Of the state.
        loss: Mean training loss over the rows.
        rows: Rows visited.
        values: One value an example, if the unit scored.
    """

    config: str
    state: Blob
    checksum: int
    size_bytes: int
    loss: float
    rows: int
    values: npt.NDArray[np.float32] | None = None


class Failed(NamedTuple):
    """Why a configuration ends.

    Args:
        config: Its name.
        kind: What happened.
        reason: In words.
    """

    config: str
    kind: Literal["error", "diverged", "memory", "state", "lost", "fusion"]
    reason: str


class Outcome(NamedTuple):
    """What a worker reports.

    Args:
        slot: The worker.
        unit: The unit.
        results: One a configuration.
        begin: When it began, seconds since 1970.
        end: When it ended.
        hop_s: Seconds of it spent on fetching and handing back states.
        cpu_s: CPU seconds.
    """

    slot: int
    unit: Unit
    results: tuple[Reached | Failed, ...]
    begin: float
    end: float
    hop_s: float = 0.0
    cpu_s: float = 0.0
