"""Models larger than their device: consecutive layers as shards, spilled to the host, alternating between models.

A shard of one model must wait for the one before it, so a device that serves one model waits for copies. Serving
several, it computes a shard of one while the next shard, most often another model's, is copied in. Weights, optimiser
and what passes between shards stay on the host; on the device are the shard at work and the one that comes next.

Each model ends in the bits that it has unsharded: a backward step computes its shard's forward anew, from the input and
the generators that it had.

References:
    Nagrecha and Kumar, "Hydra: A System for Large Multi-Model Deep Learning", 2021, arXiv:2110.08633.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import cast

import torch
from torch.func import functional_call

from stepwell.core.errors import DataError, InvalidValueError
from stepwell.core.state import StateReader
from stepwell.select.packing import activation_bytes, weight_bytes
from stepwell.select.trainee import Trainee, seeded
from stepwell.select.visit import Turns

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Weights = dict[str, torch.Tensor]


class DeviceMemory:
    """A device's room, counted: what does not fit raises `MemoryError` as a real device would.

    Args:
        size_bytes: The room.
        device: Where tensors go; the CPU stands in for a device in tests.
    """

    def __init__(self, size_bytes: int, device: str = "cpu") -> None:
        self.size_bytes, self.device = size_bytes, torch.device(device)
        self.used_bytes = self.peak_bytes = 0
        self._lock = Lock()

    def take(self, size_bytes: int) -> None:
        """Occupy room.

        Raises:
            MemoryError: If there is not so much left.
        """
        with self._lock:
            if self.used_bytes + size_bytes > self.size_bytes:
                raise MemoryError(f"{size_bytes} bytes beside {self.used_bytes} on a device of {self.size_bytes}")
            self.used_bytes += size_bytes
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def give(self, size_bytes: int) -> None:
        """Free room."""
        with self._lock:
            self.used_bytes -= size_bytes


def cut_layers(layers: torch.nn.Sequential, example: torch.Tensor, size_bytes: int) -> tuple[torch.nn.Sequential, ...]:
    """Cut a model into shards, each as long as it fits beside the copy of whatever shard comes next.

    At work a shard has its weights, their gradients and its activations on the device: at most two thirds of the room.
    The next shard's weights are at most half of its own share, so both fit.

    Args:
        layers: The model.
        example: One batch of inputs, of the size to train with.
        size_bytes: The device's room.

    Raises:
        InvalidValueError: If a layer alone does not fit, or the model has buffers or shares weights between layers.
    """
    if next(layers.buffers(), None) is not None:
        raise InvalidValueError("model", type(layers).__name__, "one without buffers (running statistics), to be cut")
    named = [id(one) for layer in layers for one in layer.parameters()]
    if len(set(named)) != len(named):
        raise InvalidValueError("model", "weights that layers share", "layers with weights of their own, to be cut")
    shards: list[list[torch.nn.Module]] = []
    room, used = size_bytes * 2 // 3, size_bytes
    with seeded():
        for number, layer in enumerate(layers):
            kept, example = activation_bytes(layer, example)
            need = 2 * weight_bytes(layer) + kept
            if need > room:
                raise InvalidValueError(f"layer {number}", f"{need} bytes", f"at most {room}, two thirds of the device")
            if used + need > room:
                shards.append([])
                used = 0
            shards[-1].append(layer)
            used += need
    return tuple(torch.nn.Sequential(*shard) for shard in shards)


@dataclass
class ShardedRun:
    """One model's training as a chain of steps, each of one shard, forward or backward.

    Args:
        trainee: The model and its optimiser, both on the host.
        shards: The model, cut.
        batches: (input, target) of each mini-batch.
        loss: The loss of output and target.
        memory: The device.
        generators: State of the generators to go on with, or None.
        seed: Seeds them then.
    """

    trainee: Trainee
    shards: Sequence[torch.nn.Sequential]
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]]
    loss: Loss
    memory: DeviceMemory
    generators: StateReader | None = None
    seed: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._turns = Turns(self.seed, self.generators)
        self._batch, self._place, self._backward = 0, 0, False
        self._inputs: list[tuple[torch.Tensor, StateReader | None]] = []
        self._grad: torch.Tensor | None = None
        self.steps_left = len(self.batches) * (2 * len(self.shards) - 1)

    @property
    def shard(self) -> torch.nn.Sequential:
        """The shard of the next step."""
        return self.shards[self._place]

    def load(self) -> Weights:
        """Copy the next step's weights to the device."""
        self.memory.take(weight_bytes(self.shard))
        device = self.memory.device
        return {name: one.detach().to(device, copy=True) for name, one in self.shard.named_parameters()}

    def step(self, weights: Weights) -> bool:
        """Do one step with the weights on the device, and free them; say whether the host changed its weights."""
        shard, last = self.shard, self._place + 1 == len(self.shards)
        size = weight_bytes(shard)
        self.steps_left -= 1
        try:
            if self._backward or last:
                self.memory.take(size)
                size *= 2
                return self._learn(weights, last=last and not self._backward)
            with self._turns.turn(), torch.no_grad():
                x = self._input()
                self._inputs.append((x, self._turns.reader))
                self._passed = functional_call(shard, weights, (x.to(self.memory.device),)).to("cpu")
            self._place += 1
            return False
        finally:
            self.memory.give(size)

    def _input(self) -> torch.Tensor:
        return self.batches[self._batch][0] if self._place == 0 else self._passed

    def _learn(self, weights: Weights, *, last: bool) -> bool:
        for name, one in self.shard.named_parameters():
            weights[name].requires_grad_(one.requires_grad)
        if last:
            with self._turns.turn():
                x = self._input().to(self.memory.device).requires_grad_(self._place > 0)
                target = self.batches[self._batch][1].to(self.memory.device)
                loss = self.loss(functional_call(self.shard, weights, (x,)), target)
                self.losses.append(float(loss.detach()))
                loss.backward()  # type: ignore[no-untyped-call]
        else:
            kept, reader = self._inputs.pop()
            with Turns(self.seed, reader).turn():
                x = kept.to(self.memory.device).requires_grad_(self._place > 0)
                out = functional_call(self.shard, weights, (x,))
                if out.requires_grad:
                    out.backward(cast("torch.Tensor", self._grad))
        for name, one in self.shard.named_parameters():
            grad = weights[name].grad
            one.grad = None if grad is None else grad.to("cpu")
        self._grad, self._backward = x.grad, True
        if self._place:
            self._place -= 1
            return False
        self._end_batch()
        return True

    def _end_batch(self) -> None:
        optimizer, schedule = self.trainee.optimizer, self.trainee.schedule
        if self.trainee.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trainee.model.parameters(), self.trainee.clip)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()
        if schedule is not None and self.trainee.schedule_each == "batch":
            schedule.step()
        self._batch, self._backward, self._grad = self._batch + 1, False, None


def train_alternating(runs: Sequence[ShardedRun]) -> None:
    """Train sharded models on one device: whoever has most steps left is next, and its shard is copied ahead.

    Args:
        runs: The models; their weights and optimisers are changed in place.

    Raises:
        DataError: If the runs are not of one device.

    Cost:
        Three copies of the weights a mini-batch, hidden behind computing where two models or more alternate; one
        forward step more a shard than unsharded.
    """
    if len({id(run.memory) for run in runs}) > 1:
        raise DataError("runs", "several devices", "one device", "call once a device")
    with seeded(), ThreadPoolExecutor(1) as copier:
        current = _longest(runs, None)
        weights = None if current is None else current.load()
        while current is not None and weights is not None:
            following = _longest(runs, current)
            ahead: Future[Weights] | None = None
            if following is not None and following is not current:
                ahead = copier.submit(following.load)
            current.step(weights)
            following = following or (current if current.steps_left else None)
            weights = ahead.result() if ahead is not None else following.load() if following is not None else None
            current = following


def _longest(runs: Iterable[ShardedRun], current: ShardedRun | None) -> ShardedRun | None:
    """Return whoever else has most steps left, since what waits for the step at work cannot be next."""
    others = [run for run in runs if run.steps_left and run is not current]
    return max(others, key=lambda run: run.steps_left, default=None)
