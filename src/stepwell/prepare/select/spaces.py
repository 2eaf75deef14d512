"""Spaces: the vectors between which a selector measures distances.

`raw` needs no model, so it can run ahead of training and be kept with the data. The others take one forward pass of
the model as it is: penultimate `features`, or the `gradient` of the loss at the last layer (softmax minus one-hot for
cross-entropy), which is what a row would change. `guess` is the gradient at the model's own answer, for rows without
labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.errors import InvalidValueError

Space = Literal["raw", "features", "gradient", "guess"]
RowLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SPACES: tuple[Space, ...] = ("raw", "features", "gradient", "guess")


def space(
    name: Space,
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    model: torch.nn.Module | None = None,
    loss: RowLoss | None = None,
) -> npt.NDArray[np.float32]:
    """Return the vectors of some rows in a space, float32 `[N, D]`.

    Args:
        name: `"raw"`, `"features"`, `"gradient"` or `"guess"`.
        x: The rows, `[N, ...]`.
        y: Their labels; only the gradient needs them.
        model: Maps rows to outputs; not needed for `"raw"`. It is used as it is, in evaluation mode.
        loss: Loss of each row, `[N]`; cross-entropy if None.

    Raises:
        InvalidValueError: If what the space needs is missing, or a vector is not finite.

    Cost:
        Nothing for `raw`; one forward pass for the others.
    """
    if name not in SPACES:
        raise InvalidValueError("space", name, "one of " + ", ".join(SPACES))
    if name == "raw":
        return _finite(x.reshape(len(x), -1))
    if model is None:
        raise InvalidValueError("model", None, f"a model, to measure in the space {name!r}; or use 'raw'")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if name == "features":
                return _finite(_features(model, x))
            output = model(x)
    finally:
        model.train(training)
    if name == "gradient" and y is None:
        raise InvalidValueError("y", None, "labels; without any, use the space 'guess'")
    target = output.argmax(1) if name == "guess" or y is None else y
    return _finite(output_gradient(output, target, loss))


def output_gradient(output: torch.Tensor, y: torch.Tensor, loss: RowLoss | None = None) -> torch.Tensor:
    """Return the gradient of each row's loss with respect to the row's output, `[N, C]`.

    Args:
        output: What the model gave, `[N, C]`; needs no graph.
        y: Labels.
        loss: Loss of each row; for cross-entropy (None) the gradient is softmax minus one-hot.
    """
    if loss is None:
        found = torch.softmax(output.detach().float(), 1)
        found[torch.arange(len(y), device=y.device), y] -= 1
        return found
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, y).sum(), leaf)
    return gradient.reshape(len(gradient), -1)


def _features(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what enters the model's last linear layer."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    if not layers:
        raise InvalidValueError("model", type(model).__name__, "a model with a linear layer, for the space 'features'")
    seen: list[torch.Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    try:
        model(x)
    finally:
        handle.remove()
    return seen[-1].reshape(len(x), -1)


def _finite(z: torch.Tensor) -> npt.NDArray[np.float32]:
    found = np.ascontiguousarray(z.detach().cpu().numpy(), np.float32)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise InvalidValueError("x", f"a value that is not finite in row {row}", "finite; fill or quarantine such rows")
    return found
