"""Learning from a stream in one pass: a coreset of each batch, and a memory of what came before.

Each batch that arrives is answered (test), reduced to a weighted coreset, learnt together with rows replayed from the
buffer (train), and remembered. Nothing is read twice, memory has a budget, and a killed run goes on with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core import Draw, Ids
from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.log import logger
from stepwell.core.progress import progress
from stepwell.core.state import Json, StateReader, StateWriter, read_state, state_exists, write_state
from stepwell.prepare.select import Selector, output_gradient, selectors
from stepwell.prepare.select import space as space_of
from stepwell.train.arrivals import Arrivals
from stepwell.train.drift import Detector, PageHinkley
from stepwell.train.losses import DivergedError
from stepwell.train.prequential import Prequential, Scores
from stepwell.train.replay import BufferConfig, ReplayBuffer
from stepwell.train.state import (
    load_generators,
    load_optimizer,
    own_generators,
    save_generators,
    save_optimizer,
)

_log = logger(__name__)
RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """How a stream is learnt. The defaults are what measured best; `paper()` is Camel as published.

    Args:
        ratio: Share of each batch that is learnt, above 0 to 1; 1 learns every row and selects nothing.
        selector: Name of the selector: `"craig"` looks through the model at each row's gradient, `"camel"` at the raw
            rows and needs no model, `"random"` does not look.
        weighted: Whether a row of the coreset counts as often as the rows that it stands for.
        buffer: How past rows are kept; None keeps none.
        replay_rows: Past rows learnt beside each optimiser step.
        replay_weight: How much their loss counts beside that of the new rows.
        step_rows: New rows of an optimiser step.
        clip: Largest norm of the gradient; weights make steps uneven. None leaves it alone.
        test: Whether every batch is answered before it is learnt. A selector that looks through the model answers
            in the same pass.
        seed: Seeds torch, NumPy and Python in `fit`, and all that is drawn.

    Raises:
        InvalidValueError: If a value is outside its range.
    """

    ratio: float = 0.2
    selector: str = "craig"
    weighted: bool = True
    buffer: BufferConfig | None = field(default_factory=BufferConfig)
    replay_rows: int = 20
    replay_weight: float = 1.0
    step_rows: int = 10
    clip: float | None = 5.0
    test: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InvalidValueError("ratio", self.ratio, "above 0 and at most 1")
        if self.replay_rows < 0 or self.replay_weight < 0:
            raise InvalidValueError("replay_rows, replay_weight", (self.replay_rows, self.replay_weight), "at least 0")
        if self.step_rows < 1:
            raise InvalidValueError("step_rows", self.step_rows, "at least 1")
        if self.clip is not None and not self.clip > 0:
            raise InvalidValueError("clip", self.clip, "above 0, or None")
        _ = selectors[self.selector]

    @classmethod
    def paper(cls, ratio: float = 0.2, size_bytes: int = 1 << 20, seed: int = 0) -> StreamConfig:
        """Return Camel's own setting: distances between raw rows, and codes of equal rank in the buffer."""
        buffer = BufferConfig(size_bytes, coding="equal-rank", seed=seed)
        return cls(ratio, "camel", buffer=buffer, seed=seed)


@dataclass(frozen=True, slots=True)
class StreamReport:
    """What a stream gave so far.

    Args:
        scores: Test-then-train scores.
        batches: Batches learnt.
        rows: Rows that arrived.
        learnt: Rows learnt, replayed ones not counted.
        cover: Mean cover of the coresets, in the selector's space; 0 if nothing was selected.
        cover_bound: Mean distance, at most, of a row ever remembered to what stands for it now.
        buffered: Rows in the buffer.
        buffer_bytes: Bytes of the buffer.
        drifts: Batch and detector of each change found.
        seconds: Wall seconds of selection, training, remembering, and all.
    """

    scores: Scores
    batches: int
    rows: int
    learnt: int
    cover: float
    cover_bound: float
    buffered: int
    buffer_bytes: int
    drifts: tuple[tuple[int, str], ...]
    seconds: dict[str, float]

    def __str__(self) -> str:
        s = self.scores
        return (
            f"{self.rows:,} rows in {self.batches:,} batches, {self.learnt:,} learnt; accuracy {s.accuracy:.4f} "
            f"(recent {s.recent:.4f}, balanced {s.balanced:.4f}); {self.buffered:,} rows in {self.buffer_bytes:,} "
            f"bytes, cover at most {self.cover_bound:.4g}; {len(self.drifts)} drifts; "
            f"{self.seconds.get('all', 0.0):.1f} s"
        )


class StreamLearner:
    """Trains a model on a stream, each row seen once.

    Guarantee: with a folder, a run killed at any moment and continued by `fit(..., resume=True)` over the same stream
    ends on CPU, with the same number of threads, in the same bits as one never killed.

    Args:
        model: Maps rows `[B, ...]` to outputs `[B, C]`, or `[B]` for a regression. Models that must see every event in
            order (memories of temporal graphs) are for `Loop`.
        config: The settings.
        optimizer: Over the model's parameters; Adam at 1e-3 if None.
        loss: Loss of each row, `[B]`; cross-entropy for classes and squares for numbers if None.
        detectors: Hear each batch's error; what they find is reported.
        folder: Where `stream` is kept; None cannot resume.

    Example:
        >>> rows = [(torch.randn(100, 3), torch.arange(100) % 2) for _ in range(4)]
        >>> learner = StreamLearner(torch.nn.Linear(3, 2), StreamConfig(ratio=0.1))
        >>> learner.fit(rows).learnt
        40
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: StreamConfig | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        loss: RowLoss | None = None,
        detectors: Sequence[Detector] | None = None,
        folder: Path | str | None = None,
    ) -> None:
        self.model, self.config = model, config or StreamConfig()
        self.optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
        self.buffer = None if self.config.buffer is None else ReplayBuffer(self.config.buffer)
        self.scores = Prequential()
        self.detectors = [PageHinkley()] if detectors is None else list(detectors)
        self.folder = None if folder is None else Path(folder)
        self._selector: Selector = selectors[self.config.selector]
        self._loss = loss
        self._device = next(iter(model.parameters())).device
        self._batches, self._steps, self._num_rows, self._learnt = 0, 0, 0, 0
        self._cover, self._drifts = 0.0, list[tuple[int, str]]()
        self._seconds = {"select": 0.0, "train": 0.0, "remember": 0.0, "all": 0.0}

    def fit(self, stream: Arrivals | object, *, resume: bool = False, save_every: int | None = None) -> StreamReport:
        """Learn a stream to its end.

        Args:
            stream: `Arrivals`, or what they are made of: a source or an iterable of batches.
            resume: Continue from the folder's checkpoint if there is one, with the batch after the last one saved.
            save_every: Batches between checkpoints; None saves at the end only.

        Raises:
            DivergedError: If a loss is not finite.
            CheckpointError: If the checkpoint was made with other settings.
            InvalidValueError: If `resume` or `save_every` is asked of a learner without a folder.
        """
        if self.folder is None and (resume or save_every):
            raise InvalidValueError("folder", None, "a folder, to resume from and to save to")
        arrivals = stream if isinstance(stream, Arrivals) else Arrivals(stream)  # type: ignore[arg-type]
        with own_generators(self.config.seed):
            if resume and self.folder is not None and state_exists(self.folder / "stream"):
                self.load(read_state(self.folder / "stream"))
                _log.info("continuing at batch %d", self._batches)
            with progress("stream", None, "batches") as task:
                for batch in arrivals.after(self._batches):
                    self.learn(*batch)
                    task.advance()
                    task.note(f"accuracy {self.scores.scores().recent:.4f}")
                    if save_every and self._batches % save_every == 0:
                        self._save()
            self._save()
        return self.report()

    def learn(self, x: torch.Tensor, y: torch.Tensor, row: Ids | None = None) -> Scores:
        """Take one batch: answer it, choose from it, learn the choice beside replayed rows, remember it.

        Args:
            x: Rows `[B, ...]`, finite.
            y: Classes (int64) or targets (float32).
            row: Ids of the rows; counted on if None.

        Returns:
            The test-then-train scores so far.
        """
        if not len(x):
            return self.scores.scores()
        begin = time.perf_counter()
        ids = np.arange(self._num_rows, self._num_rows + len(x)) if row is None else row
        index, weight = self._choose(x, y)
        chosen = time.perf_counter()
        self._train(x[torch.from_numpy(index)], y[torch.from_numpy(index)], weight)
        trained = time.perf_counter()
        if self.buffer is not None:
            kept = torch.from_numpy(index)
            mass = weight * (len(x) / weight.sum())
            self.buffer.add(x[kept].cpu().numpy(), y[kept].cpu().numpy(), mass.astype(np.float32), ids[index])
        self._batches += 1
        self._num_rows += len(x)
        self._learnt += len(index)
        end = time.perf_counter()
        spans = {"select": chosen - begin, "train": trained - chosen, "remember": end - trained, "all": end - begin}
        self._seconds = {name: self._seconds[name] + span for name, span in spans.items()}
        return self.scores.scores()

    def report(self) -> StreamReport:
        """Return what the stream gave so far."""
        held = self.buffer
        bound = 0.0 if held is None or not held.num_seen else held.cover_bound / self._num_rows
        return StreamReport(
            self.scores.scores(),
            self._batches,
            self._num_rows,
            self._learnt,
            self._cover / max(1, self._batches),
            bound,
            0 if held is None else len(held),
            0 if held is None else held.nbytes,
            tuple(self._drifts),
            dict(self._seconds),
        )

    def _choose(self, x: torch.Tensor, y: torch.Tensor) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Answer the batch, and choose its coreset; one pass of the model serves both."""
        config, looks = self.config, self._selector.space in ("gradient", "guess")
        output = self._answer(x) if config.test or (looks and config.ratio < 1) else None
        if config.test and output is not None:
            self._test(output, y)
        if config.ratio >= 1:
            return np.arange(len(x)), np.ones(len(x), np.float32)
        if looks and output is not None:
            truth = output.argmax(1) if self._selector.space == "guess" else y.to(self._device)
            z = output_gradient(output, truth, self._row_loss(y)).cpu().numpy()
        else:
            z = space_of(self._selector.space, x.to(self._device), y, self.model, self._loss)
        if not np.isfinite(z).all():
            raise DivergedError(f"The model's output on batch {self._batches} is not finite. Lower the learning rate.")
        label = None if y.is_floating_point() else y.cpu().numpy()
        budget = max(1, ceil(config.ratio * len(x) - 1e-9))
        found = self._selector.select(z, label, budget, seed=config.seed + self._batches)
        self._cover += found.cover if np.isfinite(found.cover) else 0.0
        weight = found.mean_one if config.weighted else np.ones(len(found), np.float32)
        return found.index, weight

    @torch.no_grad()
    def _answer(self, x: torch.Tensor) -> torch.Tensor:
        self.model.eval()
        return cast("torch.Tensor", self.model(x.to(self._device)))

    def _test(self, output: torch.Tensor, y: torch.Tensor) -> None:
        answer = output if y.is_floating_point() else output.argmax(1)
        error = self.scores.add(answer.cpu().numpy(), y.cpu().numpy())
        for detector in self.detectors:
            if detector.update(error):
                self._drifts.append((self._batches, detector.name))
                _log.info("drift at batch %d (%s)", self._batches, detector.name)

    def _train(self, x: torch.Tensor, y: torch.Tensor, weight: npt.NDArray[np.float32]) -> None:
        config = self.config
        self.model.train()
        keys = Draw(config.seed, "stream order").bits(np.arange(len(x)) + np.int64(self._batches) * (1 << 32), 1)[:, 0]
        order = torch.from_numpy(np.argsort(keys, kind="stable"))
        mass = torch.from_numpy(weight)
        total = torch.zeros((), device=self._device)
        for part in torch.split(order, config.step_rows):
            loss = self._weighted(x[part], y[part], mass[part])
            if self.buffer is not None and len(self.buffer) and config.replay_rows:
                old_x, old_y, _, _ = self.buffer.sample(config.replay_rows, self._steps)
                old = torch.from_numpy(old_y.astype(np.float32 if old_y.dtype.kind == "f" else np.int64))
                loss = loss + config.replay_weight * self._weighted(torch.from_numpy(old_x), old, None)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if config.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
            self.optimizer.step()
            self._steps += 1
            total = total + loss.detach()
        if not bool(torch.isfinite(total)):
            raise DivergedError(f"The loss of batch {self._batches} is not finite. Lower the learning rate or `clip`.")

    def _weighted(self, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        output, truth = self.model(x.to(self._device)), y.to(self._device)
        loss = self._row_loss(y) or _cross_entropy
        each = loss(output, truth)
        if weight is None:
            return each.mean()
        mass = weight.to(self._device)
        return (mass * each).sum() / mass.sum()

    def _row_loss(self, y: torch.Tensor) -> RowLoss | None:
        """Return the loss of each row; None stands for cross-entropy."""
        return self._loss or (_squares if y.is_floating_point() else None)

    def _save(self) -> None:
        if self.folder is not None:
            write_state(self.folder / "stream", self.save)

    def save(self, writer: StateWriter) -> None:
        """Record everything a resume needs."""
        writer.value("config", cast("Json", asdict(self.config)))
        writer.value("place", [self._batches, self._steps, self._num_rows, self._learnt, self._cover])
        writer.value("drifts", cast("Json", [list(found) for found in self._drifts]))
        for name, value in self.model.state_dict().items():
            writer.child("model").tensor(name, value)
        save_optimizer(self.optimizer, writer.child("optimizer"))
        save_generators(writer.child("generators"))
        self.scores.save(writer.child("scores"))
        for number, detector in enumerate(self.detectors):
            detector.save(writer.child(f"detector/{number}"))
        if self.buffer is not None:
            self.buffer.save(writer.child("buffer"))

    def load(self, reader: StateReader) -> None:
        """Continue from what `save` recorded.

        Raises:
            CheckpointError: If it was made with other settings or another model.
        """
        saved, now = cast("dict[str, Json]", reader.value("config")), cast("dict[str, Json]", asdict(self.config))
        other = [f"{name}: {saved.get(name)!r}, now {now[name]!r}" for name in now if saved.get(name) != now[name]]
        if other:
            raise CheckpointError(
                f"The checkpoint was made with other settings ({'; '.join(other)}). Use those, or another folder."
            )
        place = cast("list[float]", reader.value("place"))
        self._batches, self._steps, self._num_rows, self._learnt = (int(number) for number in place[:4])
        self._cover = float(place[4])
        found = cast("list[tuple[int, str]]", reader.value("drifts"))
        self._drifts = [(int(batch), str(name)) for batch, name in found]
        try:
            self.model.load_state_dict(reader.child("model").tensors())
        except RuntimeError as error:
            raise CheckpointError(f"The checkpoint does not fit {type(self.model).__name__}: {error}") from error
        load_optimizer(self.optimizer, reader.child("optimizer"))
        load_generators(reader.child("generators"))
        self.scores.load(reader.child("scores"))
        for number, detector in enumerate(self.detectors):
            detector.load(reader.child(f"detector/{number}"))
        if self.buffer is not None:
            self.buffer.load(reader.child("buffer"))


def _cross_entropy(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, y, reduction="none")


def _squares(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.square(output.reshape(y.shape) - y)
