"""Which configurations fit on a device together, by the memory that one training step of each was measured to take."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stepwell.core.errors import InvalidValueError
from stepwell.select.trainee import Step, Trainee, seeded


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(one.numel() * one.element_size() for one in tensors)


def activation_bytes(layer: torch.nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Return the bytes that a layer keeps for its backward step beyond its weights, and its output.

    Cost:
        One forward step.
    """
    own = {one.untyped_storage().data_ptr() for one in layer.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out: torch.Tensor = layer(x)
    return sum(kept.values()), out


def measure_bytes(trainee: Trainee, step: Step, batch: object) -> int:
    """Return what one training step of a configuration holds at its peak: weights, gradients, moments, activations.

    The configuration is as before afterwards, but for its optimiser's moments: pass one that is built for this.

    Args:
        trainee: The configuration.
        step: Returns the loss of a batch.
        batch: A batch of the size to train with.

    Cost:
        One training step.
    """
    own = {one.untyped_storage().data_ptr() for one in trainee.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with seeded(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = step(trainee.model, batch)
        activations = sum(kept.values())
        loss.backward()  # type: ignore[no-untyped-call]
    grads = [one.grad for one in trainee.model.parameters() if one.grad is not None]
    total = weight_bytes(trainee.model) + sum(one.numel() * one.element_size() for one in grads)
    if trainee.optimizer is not None:
        trainee.optimizer.step()
        trainee.optimizer.zero_grad()
        moments = [one for state in trainee.optimizer.state.values() for one in state.values()]
        total += sum(one.numel() * one.element_size() for one in moments if isinstance(one, torch.Tensor))
    return total + activations


def pack(needs: Sequence[int], rooms: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return rounds; in each, the configurations that each device holds at a time.

    The largest configuration first, each where the least room is left over; a new round begins where none has room.

    Guarantee: every configuration stands once; on no device and in no round do they need more than its room.

    Args:
        needs: Bytes of each configuration, as `measure_bytes` finds them.
        rooms: Bytes of each device; they may differ.

    Raises:
        InvalidValueError: If a configuration fits no device; such a model is cut into shards (`shards.cut_layers`).

    Cost:
        O(C R D) for C configurations, R rounds and D devices.
    """
    largest = max(rooms, default=0)
    for number, need in enumerate(needs):
        if need > largest:
            raise InvalidValueError(f"needs[{number}]", need, f"at most {largest} bytes, the largest device")
    rounds: list[list[list[int]]] = []
    left: list[list[int]] = []
    for number in sorted(range(len(needs)), key=lambda one: (-needs[one], one)):
        need = needs[number]
        place = next((place for place, room in enumerate(left) if max(room) >= need), len(rounds))
        if place == len(rounds):
            rounds.append([[] for _ in rooms])
            left.append(list(rooms))
        best = min((room, device) for device, room in enumerate(left[place]) if room >= need)[1]
        rounds[place][best].append(number)
        left[place][best] -= need
    return tuple(tuple(tuple(sorted(device)) for device in held) for held in rounds)
