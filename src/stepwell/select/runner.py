"""What a worker does with a unit: fetch the state, visit the partition, hand the state back."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from stepwell.core.batch import Batch, move
from stepwell.core.errors import CheckpointError, InvalidValueError, StepwellError
from stepwell.select.data import Source
from stepwell.select.fuse import train_fused
from stepwell.select.hopper import EVERYWHERE, Unit
from stepwell.select.prefix import Features, prefix_key
from stepwell.select.space import Params
from stepwell.select.trainee import Live, Trainee, as_trainee, checksum, pack, seeded, unpack
from stepwell.select.work import Failed, Outcome, Reached, Task, Work

_SCORE_BATCH = 1024


@dataclass
class Runner:
    """Does units one after the other; keeps the last states ready, within a number of bytes.

    Args:
        task: What is the same for all.
        source: The data.
        slot: Its number among the workers.
    """

    task: Task
    source: Source
    slot: int = 0
    _live: OrderedDict[str, tuple[Live, int]] = field(default_factory=OrderedDict)
    _live_bytes: int = 0

    def run(self, work: Work) -> Outcome:
        """Do one unit; whatever a configuration raises becomes its failure."""
        begin, cpu = time.time(), time.thread_time()
        threads = torch.get_num_threads()
        if threads != self.task.threads:
            torch.set_num_threads(self.task.threads)
        hop = 0.0
        results: tuple[Reached | Failed, ...]
        try:
            if work.unit.phase != "train":
                results = tuple(self._scored(work, number) for number in range(len(work.params)))
            elif len(work.params) == 1:
                one, hop = self._trained(work)
                results = (one,)
            else:
                results, hop = self._trained_fused(work)
        finally:
            if threads != self.task.threads:
                torch.set_num_threads(threads)
        return Outcome(self.slot, work.unit, results, begin, time.time(), hop, time.thread_time() - cpu)

    def fetch(self, work: Work, number: int) -> Live:
        """Return a configuration's trainee in the state that the unit starts from.

        Raises:
            CheckpointError: If the state is torn or does not fit.
        """
        name, version = work.unit.configs[number], work.versions[number]
        held = self._take(name)
        if held is not None and held[0].version == version and not work.warm[number]:
            return held[0]
        state = work.states[number]
        if held is not None and state is not None and not work.warm[number]:
            live = held[0]
        else:
            params = work.params[number]
            with seeded(self.task.seed) as made:
                trainee = as_trainee(self.task.build(params), params)
            trainee.model.to(self.task.device)
            live = Live(trainee, 0, made.after)
        if state is not None:
            blob = state if isinstance(state, bytes) else _read(state)
            unpack(live, blob, warm=work.warm[number])
        live.version = version
        return live

    def _keep(self, name: str, live: Live, size: int) -> None:
        self._live[name] = (live, size)
        self._live_bytes += size
        while self._live_bytes > self.task.live_bytes:
            self._take(next(iter(self._live)))

    def _take(self, name: str) -> tuple[Live, int] | None:
        held = self._live.pop(name, None)
        self._live_bytes -= 0 if held is None else held[1]
        return held

    def _trained(self, work: Work) -> tuple[Reached | Failed, float]:
        name = work.unit.configs[0]
        try:
            start = time.perf_counter()
            live = self.fetch(work, 0)
            hop = time.perf_counter() - start
            with seeded(self.task.seed, live.generators) as run:
                loss, rows = self._visit(live.trainee, work)
            live.generators, live.version = run.after, live.version + 1
            if not math.isfinite(loss):
                return Failed(name, "diverged", f"the loss became {loss:g} in epoch {work.unit.epoch + 1}"), hop
            start = time.perf_counter()
            reached = self._hand_back(work, 0, live, loss, rows)
            return reached, hop + time.perf_counter() - start
        except Exception as error:
            return _failure(name, error), 0.0

    def _hand_back(self, work: Work, number: int, live: Live, loss: float, rows: int) -> Reached:
        name = work.unit.configs[number]
        blob = pack(live)
        self._keep(name, live, len(blob))
        return Reached(name, blob, checksum(blob), len(blob), loss, rows)

    def _visit(self, trainee: Trainee, work: Work) -> tuple[float, int]:
        model, optimizer, step = trainee.model, trainee.optimizer, self.task.step
        if work.begins and hasattr(model, "forget"):
            model.forget()  # type: ignore[operator]
        model.train()
        each_batch = trainee.schedule is not None and trainee.schedule_each == "batch"
        total, rows = torch.zeros((), dtype=torch.float64), 0
        for batch in self._batches(trainee, work.unit, work.params[0]):
            loss = step(model, batch)
            if optimizer is not None:
                _learn(trainee, optimizer, loss)
            if each_batch:
                trainee.schedule.step()  # type: ignore[union-attr]
            count = rows_of(batch)
            total += loss.detach() * count
            rows += count
        if work.ends and trainee.schedule is not None and not each_batch:
            trainee.schedule.step()
        return float(total) / max(rows, 1), rows

    def _batches(self, trainee: Trainee, unit: Unit, params: Params) -> Iterator[object]:
        source: Source | Features = self.source
        if trainee.prefix is not None:
            folder = self.task.features / prefix_key(trainee.prefix)
            source = Features(self.source, trainee.prefix, folder)
        size = int(params.get("batch_size") or self.task.batch_size)
        if unit.phase == "train":
            found = source.train(unit.partition, unit.epoch, size)
        else:
            numbers = range(len(self.source.slice_rows)) if unit.partition == EVERYWHERE else [unit.partition]
            wide = size if self.source.in_time else max(size, _SCORE_BATCH)
            found = (batch for number in numbers for batch in source.slice(number, wide))
        if self.task.device == "cpu":
            return found
        return (to_device(batch, torch.device(self.task.device)) for batch in found)

    def _scored(self, work: Work, number: int) -> Reached | Failed:
        name = work.unit.configs[number]
        try:
            live = self.fetch(work, number)
            model, params = live.trainee.model, work.params[number]
            model.eval()
            with seeded(reader=live.generators), torch.no_grad():
                batches = self._batches(live.trainee, work.unit, params)
                values = [self._score(model, batch) for batch in batches]
            if not hasattr(model, "observe"):  # scoring moved such a model on: its state is fetched anew
                self._keep(name, live, self._size(live))
            found = torch.cat(values).float().cpu().numpy()
            return Reached(name, None, 0, 0, math.nan, len(found), found)
        except Exception as error:
            return _failure(name, error)

    def _score(self, model: torch.nn.Module, batch: object) -> torch.Tensor:
        values = self.task.score(model, batch)
        if values.ndim != 1:
            raise InvalidValueError("score(model, batch)", list(values.shape), "one value an example, [rows]")
        return values.detach()

    def _size(self, live: Live) -> int:
        return 3 * sum(int(one.numel() * one.element_size()) for one in live.trainee.model.state_dict().values())

    def _trained_fused(self, work: Work) -> tuple[tuple[Reached | Failed, ...], float]:
        names = work.unit.configs
        try:
            start = time.perf_counter()
            lives = [self.fetch(work, number) for number in range(len(names))]
            hop = time.perf_counter() - start
            batches = self._batches(lives[0].trainee, work.unit, work.params[0])
            trainees = [live.trainee for live in lives]
            with seeded(self.task.seed, lives[0].generators) as run:
                total, rows = train_fused(trainees, self.task.step, batches, rows_of, ends_epoch=work.ends)
        except Exception as error:
            for name in names:
                self._take(name)
            return tuple(Failed(name, "fusion", f"{type(error).__name__}: {error}") for name in names), 0.0
        start = time.perf_counter()
        results: list[Reached | Failed] = []
        for number, live in enumerate(lives):
            loss = float(total[number]) / max(rows, 1)
            live.generators, live.version = run.after, live.version + 1
            if math.isfinite(loss):
                results.append(self._hand_back(work, number, live, loss, rows))
            else:
                reason = f"the loss became {loss:g} in epoch {work.unit.epoch + 1}"
                results.append(Failed(names[number], "diverged", reason))
        return tuple(results), hop + time.perf_counter() - start


def _learn(trainee: Trainee, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """One step of the optimiser."""
    optimizer.zero_grad()
    if trainee.scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        trainee.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        trainee.scaler.unscale_(optimizer)
    if trainee.clip is not None:
        torch.nn.utils.clip_grad_norm_(trainee.model.parameters(), trainee.clip)
    if trainee.scaler is None:
        optimizer.step()
    else:
        trainee.scaler.step(optimizer)
        trainee.scaler.update()


def rows_of(batch: object) -> int:
    """Count a batch's rows."""
    if isinstance(batch, torch.Tensor | Batch):
        return len(batch)
    if isinstance(batch, Mapping):
        return rows_of(next(iter(batch.values())))
    if isinstance(batch, tuple | list):
        return rows_of(batch[0])
    raise InvalidValueError("batch", type(batch).__name__, "a tensor, a tuple or mapping of tensors, or a Batch")


def to_device(batch: object, device: torch.device) -> object:
    """Return the batch on a device."""
    if isinstance(batch, Batch):
        return batch.to(device)
    return move(tuple(batch) if isinstance(batch, list) else batch, device)


def write_blob(path: Path, blob: bytes) -> None:
    """Put a state where readers see the old one or the whole new one."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(blob)
    aside.replace(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"No state at {path}: {error}. Use an older one.") from error


def _failure(name: str, error: Exception) -> Failed:
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return Failed(name, "memory", f"out of memory ({text})")
    if isinstance(error, CheckpointError):
        return Failed(name, "state", text)
    return Failed(name, "error", str(error) if isinstance(error, StepwellError) else text)
