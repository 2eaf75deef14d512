"""The training loop: score a batch, learn from the error, let the model observe what happened, go on.

The loop knows no model by name. It drives any module with `score`, `observe` and `forget`, over any pipeline, and
writes down where it stands, so that a killed run continues with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias, cast

import torch

from stepwell.core.batch import Batch
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.log import logger
from stepwell.core.progress import Task, progress
from stepwell.core.shapes import Model, Stateful
from stepwell.core.state import Json, StateReader, StateWriter, read_state, state_exists, write_state
from stepwell.evaluate import Evaluation, Report
from stepwell.train.config import LoopConfig
from stepwell.train.graphed import GraphedStep
from stepwell.train.losses import Losses, link_loss
from stepwell.train.state import (
    Epoch,
    State,
    load_generators,
    load_model,
    load_optimizer,
    own_generators,
    save_generators,
    save_model,
    save_optimizer,
)

_log = logger(__name__)

Objective: TypeAlias = Callable[[Model, Batch], torch.Tensor]


class Batches(Protocol):
    """Batches of any epoch from any place: an `access.Pipeline`."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Batch]:
        """Return the batches of one epoch, leaving out the first `start`."""


class Callback(Protocol):
    """Told what happens in a loop; must not change the model."""

    def on_batch(self, state: State, batch: Batch) -> None:
        """Hear that a batch has been learnt."""

    def on_epoch(self, state: State, epoch: Epoch) -> None:
        """Hear that an epoch and its validation have ended."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gave.

    Args:
        history: One entry an epoch.
        best: The best epoch; the last one if nothing was validated.
        checkpoint: Folder of the best state, None if the loop has no folder.
        seconds: Wall time of training and validation, over all its resumptions.
        test: Reports of the tests made so far, see `Loop.test`.
    """

    history: tuple[Epoch, ...]
    best: Epoch
    checkpoint: Path | None
    seconds: float
    test: tuple[Report, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        head = f"{len(self.history)} epochs in {self.seconds:.1f} s; best: epoch {self.best.epoch + 1}"
        scores = ", ".join(f"{name} {value:.4f}" for name, value in self.best.scores.items())
        return "\n".join([f"{head} ({scores})" if scores else head, *(str(report) for report in self.test)])


class Loop:
    """Trains a model over a pipeline and keeps its best state.

    Each epoch begins with `model.forget()`. Each batch is scored, its loss is differentiated, the model observes it
    with the parameters that scored it, and only then they change. Validation continues from the state at the end of
    the epoch; so do tests from the state after the best validation.

    Guarantee: with a folder, a run killed at any moment and continued by `fit(resume=True)` ends on CPU, with the same
    number of threads, in the same bits as one never killed.

    Args:
        model: A module with `score`, `observe` and `forget`, already on the device of the batches.
        train: Gives the batches of each epoch. If it has `save` and `load` (a pipeline's save the state of its stages),
            they are part of every checkpoint.
        config: The settings.
        validation: What is validated after each epoch, or None.
        folder: Where `last` and `best` are kept; None keeps the best in memory and cannot resume.
        objective: The loss of a batch, differentiable.

    Example:
        >>> from stepwell.access import Pipeline, Recent, UniformNegatives
        >>> from stepwell.nn import TGN
        >>> log = EventLog.from_arrays(src=[0, 1, 0, 1], dst=[2, 2, 3, 3], time=[1, 2, 3, 4])
        >>> batches = Pipeline(log, negatives=UniformNegatives(), sampler=Recent(k=10))
        >>> loop = Loop(TGN(log.num_nodes), batches, LoopConfig(epochs=2), folder="run")
        >>> len(loop.fit(resume=True).history)
        2
    """

    def __init__(
        self,
        model: Model,
        train: Batches,
        config: LoopConfig | None = None,
        validation: Evaluation | None = None,
        folder: Path | str | None = None,
        objective: Objective = link_loss,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise InvalidValueError("model", type(model).__name__, "a torch.nn.Module; others need no training")
        self.model: Model = model
        self.train = train
        self.config = config or LoopConfig()
        self.validation = validation
        self.folder = None if folder is None else Path(folder)
        self.objective = objective
        self.state = State()
        self._module: torch.nn.Module = model
        self._optimizer = _adam(model, self.config)
        self._best: StateReader | None = None
        self._reports: list[Report] = []
        self._losses = Losses(_device_of(model))
        self._graphed = GraphedStep(self._gradients, model, self._optimizer) if self.config.graphed else None

    def fit(self, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> Result:
        """Train until the epochs are over or patience is.

        Args:
            resume: Continue from the folder's last checkpoint if there is one.
            callbacks: Who is told of each batch and epoch.

        Returns:
            The history; the model is left in its best state.

        Raises:
            DivergedError: If a loss is not finite; names epoch and batch.
            CheckpointError: If `resume` finds a checkpoint of other settings or another model.
            InvalidValueError: If `resume` is asked of a loop without a folder.
        """
        with own_generators(self.config.seed):
            if resume:
                self._resume()
            elif self.state.step:
                raise InvalidValueError(
                    "fit", f"called again after {self.state.step} steps", "called once, or with resume=True"
                )
            while self.state.epoch < self.config.epochs and not self._out_of_patience:
                self._train_epoch(callbacks)
                self._end_epoch(callbacks)
        self.restore()
        return self.result()

    def test(self, evaluation: Evaluation) -> Report:
        """Evaluate the best state; every test starts from it anew.

        Cost:
            One pass; the best state is read once more.
        """
        self.restore()
        report = evaluation(self.model)
        self._reports.append(report)
        return report

    def restore(self) -> None:
        """Put the model into its best state: parameters, and what it had observed by the end of that validation.

        Raises:
            CheckpointError: If no epoch has ended yet.
        """
        load_model(self.model, self._best_state().child("model"))

    def result(self) -> Result:
        """Return what the run gave so far.

        Raises:
            CheckpointError: If no epoch has ended yet.
        """
        history = self.state.history
        if not history:
            raise CheckpointError("No epoch has ended yet. Call fit() first.")
        best = history[self.state.best_epoch] if self.state.best_epoch >= 0 else history[-1]
        seconds = sum(epoch.seconds + epoch.validation_s for epoch in history)
        checkpoint = None if self.folder is None else self.folder / "best"
        return Result(tuple(history), best, checkpoint, seconds, tuple(self._reports))

    def save(self, writer: StateWriter) -> None:
        """Record everything a resume needs."""
        writer.value("config", cast("Json", asdict(self.config)))
        self.state.save(writer)
        save_model(self.model, writer.child("model"))
        save_optimizer(self._optimizer, writer.child("optimizer"))
        save_generators(writer.child("generators"))
        if isinstance(self.train, Stateful):
            self.train.save(writer.child("batches"))

    def load(self, reader: StateReader) -> None:
        """Continue from what `save` recorded.

        Raises:
            CheckpointError: If it was made with other settings (more epochs and another patience are allowed), or
                with other batches.
        """
        self._check_settings(cast("dict[str, Json]", reader.value("config")))
        self.state.load(reader)
        load_model(self.model, reader.child("model"))
        recordable = [group["capturable"] for group in self._optimizer.param_groups]
        load_optimizer(self._optimizer, reader.child("optimizer"))
        for group, own in zip(self._optimizer.param_groups, recordable, strict=True):
            group["capturable"] = own  # what this run's device can do, whatever the checkpoint's could
        load_generators(reader.child("generators"))
        if isinstance(self.train, Stateful) and reader.has("batches"):
            self.train.load(reader.child("batches"))

    @property
    def _out_of_patience(self) -> bool:
        return self.config.patience is not None and self.state.bad_epochs >= self.config.patience

    def _resume(self) -> None:
        if self.folder is None:
            raise InvalidValueError("folder", None, "a folder with checkpoints, to resume from")
        if state_exists(self.folder / "last"):
            self.load(read_state(self.folder / "last"))
            _log.info("continuing at epoch %d, batch %d", self.state.epoch + 1, self.state.batch)

    def _check_settings(self, saved: dict[str, Json]) -> None:
        free = {"epochs", "patience", "save_every", "graphed"}
        now = cast("dict[str, Json]", asdict(self.config))
        other = [
            f"{name}: {saved.get(name)!r}, now {now[name]!r}"
            for name in now
            if name not in free and saved.get(name) != now[name]
        ]
        if other:
            raise CheckpointError(
                f"The checkpoint was made with other settings ({'; '.join(other)}). Use those, or another folder."
            )

    def _train_epoch(self, callbacks: Sequence[Callback]) -> None:
        state, config = self.state, self.config
        self._module.train()
        if state.batch == 0:
            self.model.forget()
        started, before = time.perf_counter(), state.seconds
        total = len(self.train) if isinstance(self.train, Sized) else None
        label = f"epoch {state.epoch + 1}/{config.epochs}"
        with progress(label, total, "batches") as task:
            task.advance(state.batch)
            for batch in self.train.epoch(state.epoch, state.batch):
                self.step(batch)
                state.seconds = before + time.perf_counter() - started
                self._note(task)
                for callback in callbacks:
                    callback.on_batch(state, batch)
                if config.save_every and state.batch % config.save_every == 0:
                    self._save()
        state.loss += self._losses.flush(state.epoch, state.batch)

    def step(self, batch: Batch) -> None:
        """Learn one batch: score, differentiate, observe with the parameters that scored, then change them."""
        state = self.state
        graphed = None if self._graphed is None else self._graphed(batch)
        loss = self._gradients(batch) if graphed is None else graphed
        state.batch += 1
        state.step += 1
        state.num_events += len(batch)
        self._losses.add(loss)
        if self._losses.full:
            state.loss += self._losses.flush(state.epoch, state.batch)
        if graphed is None:
            self._optimizer.step()

    def _gradients(self, batch: Batch) -> torch.Tensor:
        """Do all of a step but the optimiser's part, and return the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.objective(self.model, batch)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.model.observe(batch)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), self.config.clip)
        return loss

    def _note(self, task: Task) -> None:
        state = self.state
        task.advance()
        rate = state.num_events / state.seconds if state.seconds else 0.0
        learnt = state.batch - self._losses.waiting
        task.note(f"loss {state.loss / max(learnt, 1):.4f}  {rate:,.0f} events/s")

    def _end_epoch(self, callbacks: Sequence[Callback]) -> None:
        state = self.state
        if state.batch == 0:
            raise InvalidValueError("train", "no batches", "at least one batch an epoch")
        epoch = Epoch(state.epoch, state.loss / state.batch, state.seconds, state.num_events)
        if self.validation is not None:
            report = self.validation(self.model)
            epoch = replace(epoch, scores=_scores(report), validation_s=report.seconds)
        epoch = replace(epoch, best=self._is_best(epoch))
        state.best_epoch = state.epoch if epoch.best else state.best_epoch
        state.bad_epochs = 0 if epoch.best else state.bad_epochs + 1
        state.history.append(epoch)
        state.epoch, state.batch, state.loss, state.num_events, state.seconds = state.epoch + 1, 0, 0.0, 0, 0.0
        if epoch.best:
            self._keep_best()
        self._save()
        _log.info(
            "epoch %d: loss %.4f, %s, %.0f events/s",
            epoch.epoch + 1,
            epoch.loss,
            dict(epoch.scores),
            epoch.events_per_s,
        )
        for callback in callbacks:
            callback.on_epoch(state, epoch)

    def _is_best(self, epoch: Epoch) -> bool:
        """Compare the monitored score with the best; without validation the last epoch is the best."""
        if self.validation is None:
            return True
        name = self.config.monitor + ("/batches" if self.config.pooling == "batches" else "")
        if name not in epoch.scores:
            raise InvalidValueError("monitor", name, f"one of {', '.join(sorted(epoch.scores))}")
        if self.state.best is not None and epoch.scores[name] <= self.state.best + self.config.tolerance:
            return False
        self.state.best = epoch.scores[name]
        return True

    def _keep_best(self) -> None:
        def record(writer: StateWriter) -> None:
            save_model(self.model, writer.child("model"))
            writer.value("epoch", self.state.epoch - 1)
            writer.value("score", self.state.best)

        if self.folder is not None:
            write_state(self.folder / "best", record)
            return
        writer = StateWriter()
        record(writer)
        self._best = writer.reader()

    def _best_state(self) -> StateReader:
        if self.folder is not None:
            return read_state(self.folder / "best")
        if self._best is None:
            raise CheckpointError("No epoch has ended yet. Call fit() first.")
        return self._best

    def _save(self) -> None:
        if self.folder is not None:
            self.state.loss += self._losses.flush(self.state.epoch, self.state.batch)
            write_state(self.folder / "last", self.save)


def _adam(model: torch.nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """Return Adam in one fused kernel a step, which beats a loop over the tensors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InvalidValueError("model", type(model).__name__, "a module with parameters to train")
    fused = all(parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    recordable = config.graphed and all(parameter.is_cuda for parameter in parameters)
    return torch.optim.Adam(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused, capturable=recordable
    )


def _device_of(model: torch.nn.Module) -> torch.device:
    return next(iter(model.parameters())).device


def _scores(report: Report) -> dict[str, float]:
    ending = {"pooled": "", "batches": "/batches"}
    return {score.name + ending[score.protocol.pooling]: score.value for score in report.scores}
