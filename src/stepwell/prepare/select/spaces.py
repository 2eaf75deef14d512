"""Spaces: the vectors between which a selector measures distances.

`raw` needs no model, so it can run ahead of training and be kept with the data. The others take one forward pass of
the model as it is: penultimate `features`, or the `gradient` of the loss at the last layer (softmax minus one-hot for
cross-entropy), which is what a row would change. `layer` is the gradient of all weights of the last layer, the output's
gradient times what enters the layer: what gradient matching and bilevel selection add up. `guess` is the gradient at
the model's own answer, for rows without labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.errors import InvalidValueError

Space = Literal["raw", "features", "gradient", "layer", "guess"]
RowLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LAYER_NUMBERS = 8192
"""Numbers of a vector of the space `layer`, at most (of a layer with very many outputs, 16 an output)."""
_LEAST_WIDTH = 16
SPACES: tuple[Space, ...] = ("raw", "features", "gradient", "layer", "guess")


class Seen(NamedTuple):
    """What one forward pass shows of some rows.

    Args:
        output: What the model gave, `[N, C]`, or `[N]`.
        features: What entered its last linear layer, `[N, H]`; None if that was not looked at.
    """

    output: torch.Tensor
    features: torch.Tensor | None


def space(
    name: Space,
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    model: torch.nn.Module | None = None,
    loss: RowLoss | None = None,
) -> npt.NDArray[np.float32]:
    """Return the vectors of some rows in a space, float32 `[N, D]`.

    Args:
        name: `"raw"`, `"features"`, `"gradient"`, `"layer"` or `"guess"`.
        x: The rows, `[N, ...]`.
        y: Their labels; only the gradients need them.
        model: Maps rows to outputs; not needed for `"raw"`. It is used as it is, in evaluation mode.
        loss: Loss of each row, `[N]`; cross-entropy if None.

    Raises:
        InvalidValueError: If what the space needs is missing, or a vector is not finite.

    Cost:
        Nothing for `raw`; one forward pass for the others. A vector of `layer` has `C (H + 1)` numbers, and
        is projected to fewer where that is more than `LAYER_NUMBERS`.
    """
    if name not in SPACES:
        raise InvalidValueError("space", name, "one of " + ", ".join(SPACES))
    if name == "raw":
        return _finite(x.reshape(len(x), -1))
    if model is None:
        raise InvalidValueError("model", None, f"a model, to measure in the space {name!r}; or use 'raw'")
    return seen_space(name, look(model, x, features=name in ("features", "layer")), y, loss)


def look(model: torch.nn.Module, x: torch.Tensor, *, features: bool) -> Seen:
    """Run a model once over some rows, in evaluation mode and without a graph.

    Args:
        model: The model; left in the mode in which it came.
        x: The rows.
        features: Whether to note what enters the last linear layer.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _features(model, x) if features else Seen(model(x), None)
    finally:
        model.train(training)


def seen_space(
    name: Space, seen: Seen, y: torch.Tensor | None = None, loss: RowLoss | None = None
) -> npt.NDArray[np.float32]:
    """Return the vectors of rows that a model has looked at already; see `space`.

    Args:
        name: Any space but `"raw"`.
        seen: What the pass showed; with features, for the spaces that need them.
        y: Labels.
        loss: Loss of each row; cross-entropy if None.
    """
    if name == "features":
        return _finite(_entered(seen))
    if name in ("gradient", "layer") and y is None:
        raise InvalidValueError("y", None, "labels; without any, use the space 'guess'")
    target = seen.output.argmax(1) if name == "guess" or y is None else y.to(seen.output.device)
    gradient = output_gradient(seen.output, target, loss)
    return _finite(layer_gradient(gradient, _entered(seen)) if name == "layer" else gradient)


def layer_gradient(gradient: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each row's loss with respect to a last layer's weights and biases, `[N, C (H + 1)]`.

    Args:
        gradient: Gradient at the output, `[N, C]`.
        features: What entered the layer, `[N, H]`.
    """
    entered = layer_inputs(features, gradient.shape[1])
    return (gradient[:, :, None] * entered[:, None, :]).reshape(len(gradient), -1)


def layer_inputs(features: torch.Tensor, outputs: int) -> torch.Tensor:
    """Return what enters a last layer, its bias included, `[N, H + 1]`; of a large layer a random projection of it.

    With fewer columns the gradients keep their inner products, on average and nearly, and have `LAYER_NUMBERS` numbers
    instead of millions; the projection is the same at every call.

    Args:
        features: What entered, `[N, H]`.
        outputs: Outputs of the layer.

    References:
        Achlioptas, "Database-friendly random projections", 2003.
    """
    one = torch.ones(len(features), 1, dtype=features.dtype, device=features.device)
    entered = torch.cat([features, one], 1)
    width = max(_LEAST_WIDTH, LAYER_NUMBERS // outputs)
    if entered.shape[1] <= width:
        return entered
    signs = torch.randint(0, 2, (entered.shape[1], width), generator=torch.Generator().manual_seed(0))
    return torch.mm(entered, ((2 * signs - 1) / width**0.5).to(entered))


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


def _features(model: torch.nn.Module, x: torch.Tensor) -> Seen:
    """Run the model, and note what enters its last linear layer."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    if not layers:
        raise InvalidValueError("model", type(model).__name__, "a model with a linear layer, to look at what enters it")
    seen: list[torch.Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    try:
        output = model(x)
    finally:
        handle.remove()
    return Seen(output, seen[-1].reshape(len(x), -1))


def _entered(seen: Seen) -> torch.Tensor:
    if seen.features is None:
        raise InvalidValueError("seen", "no features", "a look with features=True, for this space")
    return seen.features


def _finite(z: torch.Tensor) -> npt.NDArray[np.float32]:
    found = np.ascontiguousarray(z.detach().cpu().numpy(), np.float32)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise InvalidValueError("x", f"a value that is not finite in row {row}", "finite; fill or quarantine such rows")
    return found
