"""One step of SGD or Adam for n models at once, each with its own settings, in one pass over the weights.

Weights of the n models are stacked, one row a model. A chain of array operations would carry every row through memory
once an operation; here a row is read and written once. The `_reference` twins are that chain, and what runs on other
devices and in other precisions.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import torch

Rows = npt.NDArray[np.float32]


def sgd_rows(
    weight: torch.Tensor,
    grad: torch.Tensor,
    buffer: torch.Tensor,
    rate: torch.Tensor,
    momentum: torch.Tensor,
    decay: torch.Tensor,
    *,
    nesterov: bool = False,
) -> None:
    """Change weights and momentum buffers in place: `v = m v + g + d w`, then `w -= r v` (or `r (g + d w + m v)`).

    Args:
        weight: The weights, `[n, ...]`.
        grad: Their gradients.
        buffer: Their momentum buffers, 0 before the first step; left alone where the momentum is 0.
        rate: Learning rates, float32 `[n]`.
        momentum: Momenta, float32 `[n]`.
        decay: Weight decays, float32 `[n]`.
        nesterov: Whether the step looks ahead.

    Cost:
        Three reads and two writes a weight.
    """
    if not _is_native(weight, grad, buffer):
        sgd_rows_reference(weight, grad, buffer, rate, momentum, decay, nesterov=nesterov)
        return
    _sgd(_rows(weight), _rows(grad), _rows(buffer), rate.numpy(), momentum.numpy(), decay.numpy(), nesterov)


def sgd_rows_reference(
    weight: torch.Tensor,
    grad: torch.Tensor,
    buffer: torch.Tensor,
    rate: torch.Tensor,
    momentum: torch.Tensor,
    decay: torch.Tensor,
    *,
    nesterov: bool = False,
) -> None:
    """State, array by array, what `sgd_rows` must compute."""
    rate, momentum, decay = (_wide(one, weight) for one in (rate, momentum, decay))
    grad = grad + decay * weight
    moved = torch.where(momentum == 0, buffer, momentum * buffer + grad)
    buffer.copy_(moved)
    step = grad + momentum * buffer if nesterov else torch.where(momentum == 0, grad, buffer)
    weight.sub_(rate * step)


def adam_rows(
    weight: torch.Tensor,
    grad: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    settings: torch.Tensor,
    *,
    decoupled: bool = False,
) -> None:
    """Change weights and moments in place by one step of Adam.

    Args:
        weight: The weights, `[n, ...]`.
        grad: Their gradients.
        moments: The running means of the gradient and of its square.
        settings: Of each model, float64 `[n, 7]`: learning rate, weight decay, both betas, epsilon, and the two bias
            corrections `1 - beta^t`.
        decoupled: Whether the decay shrinks the weights (AdamW) instead of being a gradient.

    Cost:
        Four reads and three writes a weight.

    References:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1; Loshchilov and Hutter,
        "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    if not _is_native(weight, grad, *moments):
        adam_rows_reference(weight, grad, moments, settings, decoupled=decoupled)
        return
    _adam(_rows(weight), _rows(grad), _rows(moments[0]), _rows(moments[1]), settings.numpy(), decoupled)


def adam_rows_reference(
    weight: torch.Tensor,
    grad: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    settings: torch.Tensor,
    *,
    decoupled: bool = False,
) -> None:
    """State, array by array, what `adam_rows` must compute."""
    rate, decay, beta1, beta2, eps, first, second = (
        _wide(column.to(weight.dtype), weight) for column in settings.T.unbind()
    )
    if decoupled:
        weight.mul_(1 - rate * decay)
    else:
        grad = grad + decay * weight
    mean, square = moments
    mean.mul_(beta1).add_(grad * (1 - beta1))
    square.mul_(beta2).add_(grad.square() * (1 - beta2))
    weight.sub_(rate / first * mean / (square.sqrt() / second.sqrt() + eps))


@numba.njit(cache=True, nogil=True)
def _sgd(weight: Rows, grad: Rows, buffer: Rows, rate: Rows, momentum: Rows, decay: Rows, nesterov: bool) -> None:  # noqa: FBT001
    for i in range(weight.shape[0]):
        w, g, v = weight[i], grad[i], buffer[i]
        r, m, d = rate[i], momentum[i], decay[i]
        if m == 0:
            for j in range(len(w)):
                w[j] -= r * (g[j] + d * w[j])
        elif nesterov:
            for j in range(len(w)):
                step = g[j] + d * w[j]
                v[j] = m * v[j] + step
                w[j] -= r * (step + m * v[j])
        else:
            for j in range(len(w)):
                v[j] = m * v[j] + (g[j] + d * w[j])
                w[j] -= r * v[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _adam(
    weight: Rows,
    grad: Rows,
    mean: Rows,
    square: Rows,
    settings: npt.NDArray[np.float64],
    decoupled: bool,  # noqa: FBT001
) -> None:
    one = np.float32(1)
    for i in range(weight.shape[0]):
        w, g, m, s = weight[i], grad[i], mean[i], square[i]
        rate, decay, beta1, beta2, eps, first, second = settings[i]
        b1, b2, e, d = np.float32(beta1), np.float32(beta2), np.float32(eps), np.float32(decay)
        rest1, rest2 = np.float32(1 - beta1), np.float32(1 - beta2)
        r, root = np.float32(rate / first), np.float32(np.sqrt(second))
        shrink = np.float32(1 - rate * decay) if decoupled else one
        pull = np.float32(0) if decoupled else d
        for j in range(len(w)):
            step = g[j] + pull * w[j]
            m[j] = b1 * m[j] + rest1 * step
            s[j] = b2 * s[j] + rest2 * (step * step)
            w[j] = shrink * w[j] - r * m[j] / (np.sqrt(s[j]) / root + e)


def _is_native(*tensors: torch.Tensor) -> bool:
    return all(one.device.type == "cpu" and one.dtype == torch.float32 and one.is_contiguous() for one in tensors)


def _rows(tensor: torch.Tensor) -> Rows:
    rows: Rows = tensor.detach().view(len(tensor), tensor.numel() // len(tensor)).numpy()
    return rows


def _wide(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return vector.to(like.device).view(-1, *([1] * (like.ndim - 1)))
