"""What a worker does with a unit: fetch the state, visit the partition, hand the state back."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from stepwell.core.batch import Batch, move
from stepwell.core.errors import CheckpointError, InvalidValueError, StepwellError
from stepwell.select.data import Source
from stepwell.select.fuse import train_fused
from stepwell.select.hopper import EVERYWHERE, Unit
from stepwell.select.prefix import Features, prefix_key
from stepwell.select.sampled import Sampled
from stepwell.select.space import Params
from stepwell.select.trainee import Live, Trainee, as_trainee, checksum, pack, seeded, unpack
from stepwell.select.visit import Turns, Visit, rows_of
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
                results = self._scored_together(work) if len(work.params) > 1 else (self._scored(work, 0),)
            elif len(work.params) > 1 and work.together:
                results, hop = self._trained_together(work)
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
            visit = Visit(live, self.task.step)
            with seeded(self.task.seed, live.generators) as run:
                visit.begin(epoch=work.begins)
                for batch in self._batches(live.trainee, work.unit, work.params[0]):
                    visit.learn(batch)
                loss = visit.end(epoch=work.ends)
            live.generators = run.after
            start = time.perf_counter()
            reached = self._hand_back(work, 0, live, loss, visit.rows)
            return reached, hop + time.perf_counter() - start
        except Exception as error:
            return _failure(name, error), 0.0

    def _trained_together(self, work: Work) -> tuple[tuple[Reached | Failed, ...], float]:
        """Train configurations of equal sampling side by side; each has its own generators and its own failures."""
        results: dict[int, Reached | Failed] = {}
        start = time.perf_counter()
        lives = self._fetched(work, results)
        hop = time.perf_counter() - start
        visits = {number: Visit(live, self.task.step) for number, live in lives.items()}
        turns = {number: Turns(self.task.seed, live.generators) for number, live in lives.items()}
        with seeded():
            for number, visit in visits.items():
                _guarded(work, number, results, partial(visit.begin, epoch=work.begins))
            for batch in self._shared_batches(work, lives, results):
                for number in sorted(visits.keys() - results.keys()):
                    with turns[number].turn():
                        _guarded(work, number, results, partial(visits[number].learn, batch))
        start = time.perf_counter()

        def hand_back(number: int) -> None:
            live, visit = lives[number], visits[number]
            live.generators, loss = turns[number].reader, visit.end(epoch=work.ends)
            results[number] = self._hand_back(work, number, live, loss, visit.rows)

        for number in sorted(visits.keys() - results.keys()):
            _guarded(work, number, results, partial(hand_back, number))
        ordered = tuple(results[number] for number in range(len(work.params)))
        return ordered, hop + time.perf_counter() - start

    def _scored_together(self, work: Work) -> tuple[Reached | Failed, ...]:
        """Score configurations of one group over the same batches, each read or sampled once."""
        results: dict[int, Reached | Failed] = {}
        lives = self._fetched(work, results)
        values: dict[int, list[torch.Tensor]] = {number: [] for number in lives}
        turns = {number: Turns(self.task.seed, live.generators) for number, live in lives.items()}
        kept = {number: _snapshot(live) for number, live in lives.items()}

        def score(number: int, batch: object) -> None:
            values[number].append(self._score(lives[number].trainee, batch))

        with seeded(), torch.no_grad():
            for live in lives.values():
                live.trainee.model.eval()
            for batch in self._shared_batches(work, lives, results):
                for number in sorted(values.keys() - results.keys()):
                    with turns[number].turn():
                        _guarded(work, number, results, partial(score, number, batch))
        for number in sorted(values.keys() - results.keys()):
            live, name = lives[number], work.unit.configs[number]
            snapshot = kept[number]
            if snapshot is not None:
                live.trainee.model.restore(snapshot)  # type: ignore[operator]
            if snapshot is not None or not hasattr(live.trainee.model, "observe"):
                self._keep(name, live, self._size(live))
            found = torch.cat(values[number]).float().cpu().numpy()
            results[number] = Reached(name, None, 0, 0, math.nan, len(found), found)
        return tuple(results[number] for number in range(len(work.params)))

    def _fetched(self, work: Work, results: dict[int, Reached | Failed]) -> dict[int, Live]:
        """Fetch the configurations of a unit; the failure of one that cannot be had goes to `results`."""
        lives: dict[int, Live] = {}

        def fetch(number: int) -> None:
            lives[number] = self.fetch(work, number)

        for number in range(len(work.params)):
            _guarded(work, number, results, partial(fetch, number))
        return lives

    def _shared_batches(
        self, work: Work, lives: dict[int, Live], results: dict[int, Reached | Failed]
    ) -> Iterator[object]:
        """Yield a unit's batches while anybody takes them; a failure to make one is everybody's."""
        try:
            if lives:
                for batch in self._batches(next(iter(lives.values())).trainee, work.unit, work.params[0]):
                    if not lives.keys() - results.keys():
                        return
                    yield batch
        except Exception as error:
            for number in lives.keys() - results.keys():
                results[number] = _failure(work.unit.configs[number], error)

    def _hand_back(self, work: Work, number: int, live: Live, loss: float, rows: int) -> Reached | Failed:
        """Return a trained configuration's state, or that it diverged."""
        name = work.unit.configs[number]
        if not math.isfinite(loss):
            return Failed(name, "diverged", f"the loss became {loss:g} in epoch {work.unit.epoch + 1}")
        live.version += 1
        blob = pack(live)
        self._keep(name, live, len(blob))
        return Reached(name, blob, checksum(blob), len(blob), loss, rows)

    def _batches(self, trainee: Trainee, unit: Unit, params: Params) -> Iterator[object]:
        source: Source | Features | Sampled = self.source
        if trainee.sampling is not None:
            source = Sampled(self.source, trainee.sampling)
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
            kept = _snapshot(live)
            with seeded(reader=live.generators), torch.no_grad():
                batches = self._batches(live.trainee, work.unit, params)
                values = [self._score(live.trainee, batch) for batch in batches]
            if kept is not None:
                model.restore(kept)  # type: ignore[operator]
            if kept is not None or not hasattr(model, "observe"):  # else scoring moved it on: it is fetched anew
                self._keep(name, live, self._size(live))
            found = torch.cat(values).float().cpu().numpy()
            return Reached(name, None, 0, 0, math.nan, len(found), found)
        except Exception as error:
            return _failure(name, error)

    def _score(self, trainee: Trainee, batch: object) -> torch.Tensor:
        values = self.task.score(trainee.model, batch)
        if values.ndim != 1:
            raise InvalidValueError("score(model, batch)", list(values.shape), "one value an example, [rows]")
        if trainee.sampling is not None:
            trainee.model.observe(batch)  # type: ignore[operator]
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
            live.generators = run.after
            results.append(self._hand_back(work, number, live, loss, rows))
        return tuple(results), hop + time.perf_counter() - start


def _snapshot(live: Live) -> object | None:
    """Return what a temporal model has observed, to bring it back after a validation; None if it keeps nothing."""
    model = live.trainee.model
    if live.trainee.sampling is None or not hasattr(model, "snapshot") or not hasattr(model, "restore"):
        return None
    found: object = model.snapshot()  # type: ignore[operator]
    return found


def _guarded(work: Work, number: int, results: dict[int, Reached | Failed], do: Callable[[], None]) -> None:
    """Do something for one configuration of several; what it raises becomes its failure."""
    try:
        do()
    except Exception as error:
        results[number] = _failure(work.unit.configs[number], error)


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
