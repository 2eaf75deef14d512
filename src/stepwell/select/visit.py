"""One configuration's training on one partition, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Model
from stepwell.core.state import StateReader, StateWriter
from stepwell.select.trainee import Live, Step, Trainee, seed_all
from stepwell.train.state import load_generators, save_generators


@dataclass
class Visit:
    """What is learnt of a partition so far.

    Args:
        live: The configuration.
        step: Returns the loss of a batch.
    """

    live: Live
    step: Step
    rows: int = 0
    total: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def begin(self, *, epoch: bool) -> None:
        """Set the model to training; at the begin of an epoch let it forget what it observed."""
        model = self.live.trainee.model
        if epoch and hasattr(model, "forget"):
            model.forget()  # type: ignore[operator]
        model.train()

    def learn(self, batch: object) -> None:
        """Learn one batch."""
        trainee = self.live.trainee
        loss = self.step(trainee.model, batch)
        _learn(trainee, loss, batch)
        if trainee.schedule is not None and trainee.schedule_each == "batch":
            trainee.schedule.step()
        count = rows_of(batch)
        self.total = self.total + loss.detach() * count
        self.rows += count

    def end(self, *, epoch: bool) -> float:
        """Step a schedule that steps once an epoch, if one ends; return the mean loss."""
        trainee = self.live.trainee
        if epoch and trainee.schedule is not None and trainee.schedule_each == "epoch":
            trainee.schedule.step()
        return float(self.total) / max(self.rows, 1)


def _learn(trainee: Trainee, loss: torch.Tensor, batch: object) -> None:
    """Differentiate, let a temporal model observe with the parameters that scored, then change them."""
    optimizer, scaler = trainee.optimizer, trainee.scaler
    if optimizer is not None:
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
        if trainee.clip is not None:
            torch.nn.utils.clip_grad_norm_(trainee.model.parameters(), trainee.clip)
    if trainee.sampling is not None:
        with torch.no_grad():
            cast("Model", trainee.model).observe(cast("Batch", batch))
    if optimizer is not None and scaler is None:
        optimizer.step()
    elif optimizer is not None and scaler is not None:
        scaler.step(optimizer)
        scaler.update()


class Turns:
    """The global generators of one of several configurations that take turns.

    Args:
        seed: What they are seeded with, if there is no state to go on with.
        reader: The state, or None.
    """

    def __init__(self, seed: int, reader: StateReader | None) -> None:
        self._seed, self.reader = seed, reader

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Run the block with this configuration's generators; whoever comes next loads its own."""
        if self.reader is None:
            seed_all(self._seed)
        else:
            load_generators(self.reader)
        yield
        writer = StateWriter()
        save_generators(writer)
        self.reader = writer.reader()


def rows_of(batch: object) -> int:
    """Count a batch's rows."""
    if isinstance(batch, torch.Tensor | Batch):
        return len(batch)
    if isinstance(batch, Mapping):
        return rows_of(next(iter(batch.values())))
    if isinstance(batch, tuple | list):
        return rows_of(batch[0])
    raise InvalidValueError("batch", type(batch).__name__, "a tensor, a tuple or mapping of tensors, or a Batch")
