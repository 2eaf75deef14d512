"""Steps and scores by the name of a metric: for models of (input, target) batches, and for temporal link predictors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as functional

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Model
from stepwell.evaluate.metrics import ranks
from stepwell.select.with_keras import KerasModel
from stepwell.select.work import Score
from stepwell.train.losses import link_loss


def usual_step(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return the loss of a batch (input, target): cross entropy where the target is whole numbers, else the squared
    error. A compiled Keras model trains itself. A temporal model tells true destinations from the other candidates.
    """
    if isinstance(batch, Batch) and "candidate" in batch:
        return link_loss(cast("Model", model), batch)
    if isinstance(model, KerasModel):
        return model.learn(batch)
    guess, target = _guess(model, batch)
    if target.is_floating_point():
        return functional.mse_loss(guess.view_as(target), target)
    return functional.cross_entropy(guess, target)


@dataclass(frozen=True, slots=True)
class Metric:
    """What configurations are compared by: the mean of one value an example.

    Args:
        name: Its name.
        score: Returns one value an example of a validation batch.
        mode: Whether larger (`max`) or smaller (`min`) values are better.
        bounds: Smallest and largest value, for intervals that hold for certain; None where there are none.

    Raises:
        InvalidValueError: If the mode is another.
    """

    name: str
    score: Score
    mode: str = "max"
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("max", "min"):
            raise InvalidValueError("mode", self.mode, "'max' or 'min'")


def usual_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        InvalidValueError: If there is none of that name; then a `Metric` has to be passed.
    """
    known = {
        "accuracy": Metric("accuracy", _accuracy, "max", (0.0, 1.0)),
        "loss": Metric("loss", _loss, "min"),
        "mse": Metric("mse", _squared, "min"),
        "mae": Metric("mae", _absolute, "min"),
        "mrr": Metric("mrr", _reciprocal_rank, "max", (0.0, 1.0)),
        "outranked": Metric("outranked", _outranked, "max", (0.0, 1.0)),
    }
    if name not in known:
        raise InvalidValueError("metric", name, f"one of {', '.join(known)}, or a Metric of your own")
    return known[name]


def _guess(model: torch.nn.Module, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InvalidValueError("batch", type(batch).__name__, "(input, target); or pass step= and a Metric")
    return cast("torch.Tensor", model(batch[0])), cast("torch.Tensor", batch[1])


def _accuracy(model: torch.nn.Module, batch: object) -> torch.Tensor:
    guess, target = _guess(model, batch)
    found = guess.argmax(-1) if guess.ndim > 1 and guess.shape[-1] > 1 else (guess.view_as(target) > 0).to(target.dtype)
    return (found == target).float()


def _loss(model: torch.nn.Module, batch: object) -> torch.Tensor:
    if isinstance(model, KerasModel):
        return model.losses(batch)
    guess, target = _guess(model, batch)
    if target.is_floating_point():
        return _squared(model, batch)
    return functional.cross_entropy(guess, target, reduction="none")


def _squared(model: torch.nn.Module, batch: object) -> torch.Tensor:
    guess, target = _guess(model, batch)
    return (
        (guess.view_as(target) - target).square().flatten(1).mean(1)
        if target.ndim > 1
        else (guess.view_as(target) - target).square()
    )


def _absolute(model: torch.nn.Module, batch: object) -> torch.Tensor:
    guess, target = _guess(model, batch)
    gap = (guess.view_as(target) - target).abs()
    return gap.flatten(1).mean(1) if gap.ndim > 1 else gap


def _reciprocal_rank(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return `1 / rank` of each true destination among its candidates."""
    return 1.0 / _ranks(model, batch)[0]


def _outranked(model: torch.nn.Module, batch: object) -> torch.Tensor:
    """Return the share of its other candidates that each true destination outranks, a tie counting half."""
    rank, others = _ranks(model, batch)
    return 1.0 - (rank - 1.0) / others.clamp(min=1.0)


def _ranks(model: torch.nn.Module, batch: object) -> tuple[torch.Tensor, torch.Tensor]:
    if not (isinstance(batch, Batch) and "candidate" in batch):
        raise InvalidValueError("batch", type(batch).__name__, "one with candidates; give each Trainee a `sampling`")
    valid = batch.tensor("candidate") >= 0
    scores = cast("Model", model).score(batch).float().cpu().numpy()
    found = torch.from_numpy(ranks(scores, valid.cpu().numpy()))
    return found, valid[:, 1:].sum(1).double().cpu()
