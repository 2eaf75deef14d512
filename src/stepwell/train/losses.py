"""What is minimised, and a watch on it: a loss that is no number stops the run and says where."""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from stepwell.core.batch import Batch
from stepwell.core.errors import StepwellError
from stepwell.core.shapes import Model

_CHECK_EVERY = 64
"""Steps on an accelerator between two looks at the loss; each look waits for the device."""


def link_loss(model: Model, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy of telling the true destination from the others: mean over true + mean over false.

    Candidates with a negative id are padding and do not count.
    """
    logits = model.score(batch)
    loss = binary_cross_entropy_with_logits(logits[:, 0], torch.ones_like(logits[:, 0]))
    if logits.shape[1] == 1:
        return loss
    return loss + mean_of_false(logits[:, 1:], batch.tensor("candidate")[:, 1:] >= 0)


def mean_of_false(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of calling the valid ones false; on a device without waiting to count them."""
    if logits.device.type == "cpu":
        others = logits[valid]
        return binary_cross_entropy_with_logits(others, torch.zeros_like(others))
    return masked_mean_of_false(logits, valid)


def masked_mean_of_false(logits: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Compute what `mean_of_false` does in tensors whose shapes do not depend on what is valid."""
    zeros = torch.zeros_like(logits)
    summed = binary_cross_entropy_with_logits(
        torch.where(valid, logits, zeros), zeros, valid.to(logits), reduction="sum"
    )
    return summed / valid.sum()


class DivergedError(StepwellError, ArithmeticError):
    """The loss is no finite number any more."""


class Losses:
    """Losses of the newest steps, looked at together where each look would wait for the device.

    Args:
        device: Where they are; on a CPU each one is looked at when it comes.
    """

    def __init__(self, device: torch.device) -> None:
        self._room = 1 if device.type == "cpu" else _CHECK_EVERY
        self._kept: list[torch.Tensor] = []

    @property
    def waiting(self) -> int:
        """How many have not been looked at."""
        return len(self._kept)

    @property
    def full(self) -> bool:
        """Whether it is time to look."""
        return len(self._kept) >= self._room

    def add(self, loss: torch.Tensor) -> None:
        """Keep one."""
        self._kept.append(loss.detach())

    def flush(self, epoch: int, batch: int) -> float:
        """Return the sum of what was kept; the newest is that of the epoch's `batch`-th batch.

        Raises:
            DivergedError: At the first loss that is not finite.
        """
        if not self._kept:
            return 0.0
        values = torch.stack(self._kept).double()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            behind = int(torch.nonzero(~finite)[0, 0])
            number = batch - len(self._kept) + behind + 1
            value = float(values[behind])
            self._kept.clear()
            raise DivergedError(
                f"The loss is {value} at epoch {epoch + 1}, batch {number}. "
                "Lower learning_rate, set clip, or look at this batch's features; the last checkpoint is from before."
            )
        self._kept.clear()
        total = 0.0
        for value in values.tolist():
            total += value
        return total
