"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.core.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How long, how fast, and when to stop.

    Args:
        epochs: Passes over the training events at most.
        learning_rate: Adam's.
        weight_decay: L2 penalty, as Adam adds it to the gradient.
        clip: Largest norm of the gradient; None leaves it alone.
        patience: Epochs without a better score before the run ends; None never ends it early.
        tolerance: A score is better only if it exceeds the best by more than this.
        monitor: The metric of the validation that decides; higher is better.
        pooling: Which form of it decides: over all answers ("pooled"), or the mean over batches ("batches").
        seed: Seeds torch (dropout), NumPy and Python while the loop runs; the caller's generators are given back.
        save_every: Batches between checkpoints inside an epoch; None saves after each epoch only.
        graphed: Replay steps as CUDA graphs (`train.graphed`). Without a CUDA device, or where a step cannot be
            recorded, steps are eager and the reason is logged.

    Raises:
        InvalidValueError: If a value is outside its range.
    """

    epochs: int = 10
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = 5
    tolerance: float = 0.0
    monitor: str = "ap"
    pooling: str = "pooled"
    seed: int = 0
    save_every: int | None = None
    graphed: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InvalidValueError("epochs", self.epochs, "at least 1")
        if not self.learning_rate > 0:
            raise InvalidValueError("learning_rate", self.learning_rate, "above 0")
        if self.weight_decay < 0:
            raise InvalidValueError("weight_decay", self.weight_decay, "at least 0")
        if self.clip is not None and not self.clip > 0:
            raise InvalidValueError("clip", self.clip, "above 0, or None")
        if self.patience is not None and self.patience < 1:
            raise InvalidValueError("patience", self.patience, "at least 1, or None")
        if self.pooling not in ("pooled", "batches"):
            raise InvalidValueError("pooling", self.pooling, "'pooled' or 'batches'")
        if self.save_every is not None and self.save_every < 1:
            raise InvalidValueError("save_every", self.save_every, "at least 1, or None")
