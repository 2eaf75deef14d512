"""Configurations of one architecture trained as one batched model: a batch is read once and multiplied once for all.

Weights are stacked, `torch.func` maps the user's own step over them, and the optimiser's settings become vectors. What
comes out differs from training alone by rounding only. Whatever could differ by more is not fused: buffers (running
statistics), dropout, gradient clipping and scaling, optimisers other than SGD, Adam and AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import FunctionType

import torch
from torch.func import functional_call, vmap

from stepwell.kernels.optimizers import adam_rows, sgd_rows
from stepwell.select.trainee import Step, Trainee
from stepwell.select.wide_linear import wide_linears

_SIMPLE = (str, int, float, bool, type(None))
_OWN = frozenset({"_parameters", "_buffers", "_modules", "training", "call_super_init"})
_FLAGS = ("amsgrad", "maximize", "nesterov", "dampening", "decoupled_weight_decay", "capturable", "differentiable")


def signature(trainee: Trainee) -> tuple[object, ...] | None:
    """Return what configurations must share to be fused, or None if this one cannot be.

    Cost:
        One pass over the modules.
    """
    model, optimizer = trainee.model, trainee.optimizer
    if optimizer is None or type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return None
    if trainee.scaler is not None or trainee.clip is not None or trainee.prefix is not None:
        return None
    group = optimizer.param_groups[0]
    if len(optimizer.param_groups) != 1 or group.get("dampening") or group.get("amsgrad") or group.get("maximize"):
        return None
    if hasattr(model, "observe") or next(model.buffers(), None) is not None:
        return None
    learnt = [id(one) for one in group["params"]]
    if learnt != [id(one) for one in model.parameters() if one.requires_grad]:
        return None
    parts: list[object] = [type(optimizer), tuple(group.get(flag) for flag in _FLAGS)]
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd | torch.nn.RReLU) or getattr(
            module, "dropout", False
        ):
            return None
        found = _attributes(module)
        if found is None:
            return None
        parts += [name, type(module), found]
    parts += [(name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in model.named_parameters()]
    return tuple(parts)


def _attributes(module: torch.nn.Module) -> tuple[tuple[str, object], ...] | None:
    """Return a module's plain attributes, or None if one of them cannot be compared."""
    found: list[tuple[str, object]] = []
    for name, value in sorted(vars(module).items()):
        if name in _OWN or (
            name.startswith("_") and name.endswith(("hooks", "hooks_always_called", "hooks_with_kwargs"))
        ):
            if name not in _OWN and value:
                return None
            continue
        if isinstance(value, tuple | list) and all(isinstance(one, _SIMPLE) for one in value):
            found.append((name, tuple(value)))
        elif (
            isinstance(value, _SIMPLE) or isinstance(value, FunctionType) or value is getattr(type(module), name, None)
        ):
            found.append((name, value))
        elif isinstance(value, dict | set) and not value:
            continue
        elif callable(value) and type(value).__name__ == "builtin_function_or_method":
            found.append((name, value))
        else:
            return None
    return tuple(found)


class _Whole(torch.nn.Module):
    """The user's step as a module, so that the model's weights can be swapped under it."""

    def __init__(self, model: torch.nn.Module, step: Step) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batch: object) -> torch.Tensor:
        return self.step(self.model, batch)


def train_fused(
    trainees: Sequence[Trainee],
    step: Step,
    batches: Iterable[object],
    rows_of: Callable[[object], int],
    *,
    ends_epoch: bool,
) -> tuple[torch.Tensor, int]:
    """Train configurations of one signature over the same batches; their models and optimisers are changed in place.

    Args:
        trainees: The configurations.
        step: Returns the loss of a batch.
        batches: The batches.
        rows_of: Counts a batch's rows.
        ends_epoch: Whether schedules that step once an epoch step now.

    Returns:
        The sum of each configuration's losses, weighted by rows, and the rows.
    """
    whole = _Whole(trainees[0].model.train(), step)
    named = [dict(one.model.named_parameters()) for one in trainees]
    stacked: dict[str, torch.Tensor] = {}
    learnt: list[str] = []
    for name, first in named[0].items():
        stacked[f"model.{name}"] = torch.stack([one[name].detach() for one in named])
        if first.requires_grad:
            learnt.append(name)
            stacked[f"model.{name}"].requires_grad_()
    leaves = [stacked[f"model.{name}"] for name in learnt]
    update = _Update(trainees, learnt, named, leaves)
    scheduled = [one.schedule for one in trainees if one.schedule is not None and one.schedule_each == "batch"]
    total, rows = torch.zeros(len(trainees), dtype=torch.float64), 0
    with wide_linears(whole.model):
        for batch in batches:
            losses = vmap(lambda weights, batch=batch: functional_call(whole, weights, (batch,)))(stacked)
            update(torch.autograd.grad(losses.sum(), leaves))
            for schedule in scheduled:
                schedule.step()
            if scheduled:
                update.read_settings()
            count = rows_of(batch)
            total += losses.detach().cpu() * count
            rows += count
    update.write_back()
    with torch.no_grad():
        for number, one in enumerate(named):
            for name in learnt:
                one[name].copy_(stacked[f"model.{name}"][number])
    if ends_epoch:
        for trainee in trainees:
            if trainee.schedule is not None and trainee.schedule_each == "epoch":
                trainee.schedule.step()
    return total, rows


class _Update:
    """The optimisers of a group as one, with a vector where each has a number."""

    def __init__(
        self,
        trainees: Sequence[Trainee],
        learnt: Sequence[str],
        named: Sequence[dict[str, torch.nn.Parameter]],
        leaves: Sequence[torch.Tensor],
    ) -> None:
        self._optimizers = [one.optimizer for one in trainees if one.optimizer is not None]
        self._params = [[one[name] for one in named] for name in learnt]
        self._leaves = leaves
        self._adam = not isinstance(self._optimizers[0], torch.optim.SGD)
        for one in self._optimizers:
            one.zero_grad()
            one.step()  # nothing has a gradient: tells a schedule only that the optimiser is in use
        names = ("exp_avg", "exp_avg_sq") if self._adam else ("momentum_buffer",)
        self._moments = {name: [self._stack(name, row) for row in self._params] for name in names}
        self._steps = torch.tensor([self._step_of(number) for number in range(len(self._optimizers))])
        self.read_settings()

    def _stack(self, name: str, row: Sequence[torch.nn.Parameter]) -> torch.Tensor:
        found = []
        for optimizer, param in zip(self._optimizers, row, strict=True):
            kept = optimizer.state.get(param, {}).get(name)
            found.append(torch.zeros_like(param) if kept is None else kept)
        return torch.stack(found).detach()

    def _step_of(self, number: int) -> float:
        state = self._optimizers[number].state.get(self._params[0][number], {})
        return float(state.get("step", 0.0))

    def read_settings(self) -> None:
        """Read the settings anew, after a schedule has changed them."""
        groups = [one.param_groups[0] for one in self._optimizers]
        if self._adam:
            rows = [[group["lr"], group["weight_decay"], *group["betas"], group["eps"], 1.0, 1.0] for group in groups]
            self._settings = torch.tensor(rows, dtype=torch.float64)
            self._decoupled = isinstance(self._optimizers[0], torch.optim.AdamW)
        else:
            names = ("lr", "momentum", "weight_decay")
            self._rate, self._momentum, self._decay = (
                torch.tensor([float(group[name]) for group in groups]) for name in names
            )
            self._nesterov = bool(groups[0]["nesterov"])

    @torch.no_grad()
    def __call__(self, grads: Sequence[torch.Tensor]) -> None:
        """Change the stacked weights by one step."""
        if self._adam:
            self._steps += 1
            self._settings[:, 5:] = 1 - self._settings[:, 2:4] ** self._steps[:, None]
        for place, (leaf, grad) in enumerate(zip(self._leaves, grads, strict=True)):
            moments = [stacks[place] for stacks in self._moments.values()]
            if self._adam:
                pair = (moments[0], moments[1])
                adam_rows(leaf, grad.contiguous(), pair, self._settings, decoupled=self._decoupled)
            else:
                settings = (self._rate, self._momentum, self._decay)
                sgd_rows(leaf, grad.contiguous(), moments[0], *settings, nesterov=self._nesterov)

    def write_back(self) -> None:
        """Give every optimiser its moments."""
        for place, row in enumerate(self._params):
            for number, (optimizer, param) in enumerate(zip(self._optimizers, row, strict=True)):
                if not self._adam and not float(self._momentum[number]):
                    continue
                state = optimizer.state[param]
                for name, stacks in self._moments.items():
                    state[name] = stacks[place][number].clone()
                if self._adam:
                    state["step"] = self._steps[number].clone().float()
