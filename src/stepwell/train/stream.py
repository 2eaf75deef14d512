"""Learning from a stream in one pass: a coreset of each batch, and a memory of what came before.

Each batch that arrives is answered (test), reduced to a weighted coreset, learnt together with rows replayed from the
buffer (train), and remembered. Nothing is read twice, memory has a budget, and a killed run goes on with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
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
from stepwell.prepare.select import Affinity, Bilevel, LastLayer, Selector, look, seen_space, selectors
from stepwell.prepare.select import space as space_of
from stepwell.train.arrivals import Arrivals
from stepwell.train.drift import Detector, PageHinkley, Reaction
from stepwell.train.losses import DivergedError
from stepwell.train.prequential import Prequential, Scores
from stepwell.train.replay import ReplayBuffer
from stepwell.train.state import (
    load_generators,
    load_optimizer,
    own_generators,
    save_generators,
    save_optimizer,
)
from stepwell.train.stream_config import StreamConfig, StreamReport

__all__ = ["RowLoss", "StreamConfig", "StreamLearner", "StreamReport"]
_log = logger(__name__)
RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_AIM_ROWS = 100
"""Rows of the buffer that a selector which chooses for the buffer looks at."""


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
        self._forgotten, self._raised_to = 0, 0
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
        bound = 0.0 if held is None or not len(held) else held.cover_bound / float(held.weights.sum(dtype=np.float64))
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
            self._forgotten,
            dict(self._seconds),
        )

    def _choose(self, x: torch.Tensor, y: torch.Tensor) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Answer the batch, and choose its coreset; one pass of the model serves both."""
        config, room = self.config, self._selector.space
        looks = room != "raw" and config.ratio < 1
        seen = None
        if config.test or looks:
            seen = look(self.model, x.to(self._device), features=looks and room in ("layer", "features"))
        if config.test and seen is not None:
            self._test(seen.output, y)
        ratio = self._ratio()
        if ratio >= 1:
            return np.arange(len(x)), np.ones(len(x), np.float32)
        if seen is not None and not bool(torch.isfinite(seen.output).all()):
            raise DivergedError(f"The model's output on batch {self._batches} is not finite. Lower the learning rate.")
        if looks and seen is not None:
            z = seen_space(room, seen, y, self._row_loss(y))
        else:
            z = space_of("raw", x)
        label = None if y.is_floating_point() else y.cpu().numpy()
        budget = max(1, ceil(ratio * len(x) - 1e-9))
        found = self._selector.select(z, label, budget, seed=config.seed + self._batches, aim=self._aim(x, y))
        self._cover += found.cover if np.isfinite(found.cover) else 0.0
        weight = found.mean_one if config.weighted else np.ones(len(found), np.float32)
        return found.index, weight

    def _aim(self, x: torch.Tensor, y: torch.Tensor) -> LastLayer | None:
        """Return where the buffer's rows, or before there are any the batch itself, would have the model go."""
        if not isinstance(self._selector.search, Affinity | Bilevel):
            return None
        if self.buffer is not None and len(self.buffer):
            old_x, old_y, _, _ = self.buffer.sample(_AIM_ROWS, self._steps)
            x, y = torch.from_numpy(old_x), _labels(old_y)
        return LastLayer(
            self._selector.space, look(self.model, x.to(self._device), features=True), y, self._row_loss(y)
        )

    def _ratio(self) -> float:
        """Return the share of this batch to learn."""
        raised = self.config.reaction is not None and self._batches < self._raised_to
        return min(1.0, self.config.ratio * (self.config.reaction.quota if raised and self.config.reaction else 1.0))

    def _test(self, output: torch.Tensor, y: torch.Tensor) -> None:
        answer = output if y.is_floating_point() else output.argmax(1)
        error = self.scores.add(answer.cpu().numpy(), y.cpu().numpy())
        found = [detector.name for detector in self.detectors if detector.update(error)]
        for name in found:
            self._drifts.append((self._batches, name))
            _log.info("drift at batch %d (%s)", self._batches, name)
        if found and self.config.reaction is not None:
            self._react(self.config.reaction)

    def _react(self, reaction: Reaction) -> None:
        """Forget what was remembered of before, and learn more of what comes."""
        self._raised_to = self._batches + reaction.batches
        if self.buffer is not None:
            gone = self.buffer.forget(reaction.forget, reaction.recent)
            self._forgotten += gone
            _log.info("forgot %d rows; learning a larger share until batch %d", gone, self._raised_to)

    def _train(self, x: torch.Tensor, y: torch.Tensor, weight: npt.NDArray[np.float32]) -> None:
        config = self.config
        self.model.train()
        draw, place = Draw(config.seed, "stream order"), np.arange(len(x)) + np.int64(self._batches) * (1 << 32)
        keys = draw.bits(place, config.passes)
        order = torch.from_numpy(np.argsort(keys, 0, kind="stable"))
        mass = torch.from_numpy(weight)
        total = torch.zeros((), device=self._device)
        for part in [part for turn in order.T for part in torch.split(turn, config.step_rows)]:
            loss = self._weighted(x[part], y[part], mass[part])
            if self.buffer is not None and len(self.buffer) and config.replay_rows:
                old_x, old_y, _, _ = self.buffer.sample(config.replay_rows, self._steps)
                old = self._weighted(torch.from_numpy(old_x), _labels(old_y), None)
                loss = loss + config.replay_weight * old
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
        writer.value(
            "place",
            [self._batches, self._steps, self._num_rows, self._learnt, self._forgotten, self._raised_to, self._cover],
        )
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
        self._batches, self._steps, self._num_rows, self._learnt, self._forgotten, self._raised_to = map(int, place[:6])
        self._cover = float(place[6])
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


def _labels(y: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(y.astype(np.float32 if y.dtype.kind == "f" else np.int64))


def _cross_entropy(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(output, y, reduction="none")


def _squares(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.square(output.reshape(y.shape) - y)
