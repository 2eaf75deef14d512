"""Everything that a resume needs, in one place: the model, the optimiser, every generator, and where the loop stands.

The rule of the package: what is not saved here must follow from the configuration and the data. Batches do (their
randomness is counter-based), so the place in the stream is two integers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
import torch

from stepwell.core.errors import CheckpointError
from stepwell.core.shapes import Model, Stateful
from stepwell.core.state import Json, StateReader, StateWriter


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave.

    Args:
        epoch: Its number, from 0.
        loss: Mean training loss over its batches.
        seconds: Wall time of training, without validation.
        num_events: Events trained on.
        scores: Validation scores by metric, pooled; those over batches end in `/batches`.
        validation_s: Wall time of the validation.
        best: Whether it was the best so far.
    """

    epoch: int
    loss: float
    seconds: float
    num_events: int
    scores: Mapping[str, float] = field(default_factory=dict)
    validation_s: float = 0.0
    best: bool = False

    @property
    def events_per_s(self) -> float:
        """Events trained on in a second."""
        return self.num_events / self.seconds if self.seconds else 0.0


@dataclass(slots=True)
class State:
    """Where a loop stands; saved with the model and optimiser, and enough to continue with the same bits.

    Args:
        epoch: The epoch that comes next, or is under way.
        batch: The batch of it that comes next.
        step: Batches trained on since the start.
        loss: Sum of the losses of the epoch under way.
        num_events: Events of it so far.
        seconds: Wall time of it so far.
        best: The best score so far.
        best_epoch: Its epoch, -1 before there is one.
        bad_epochs: Epochs since.
        history: The finished epochs.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    num_events: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    bad_epochs: int = 0
    history: list[Epoch] = field(default_factory=list)

    def save(self, writer: StateWriter) -> None:
        """Record the place and the history."""
        writer.value("loop", cast("Json", asdict(self)))

    def load(self, reader: StateReader) -> None:
        """Return to a recorded place.

        Raises:
            CheckpointError: If it was recorded by another version.
        """
        values = cast("dict[str, Json]", reader.value("loop"))
        known = set(State.__slots__)
        if set(values) != known:
            raise CheckpointError(f"The checkpoint's loop has {sorted(values)}, expected {sorted(known)}. Train anew.")
        epochs = cast("list[dict[str, object]]", values.pop("history"))
        for name, value in values.items():
            setattr(self, name, value)
        self.history = [Epoch(**epoch) for epoch in epochs]  # type: ignore[arg-type]


def save_model(model: Model, writer: StateWriter) -> None:
    """Record a model: a module's parameters and buffers, and what it and its parts save themselves.

    A module whose state is more than buffers has `save` and `load` of its own; they are called besides. So are those of
    the modules in it.
    """
    if isinstance(model, torch.nn.Module):
        child = writer.child("module")
        for name, value in model.state_dict().items():
            child.tensor(name, value)
        for name, part in _parts(model):
            part.save(writer.child(f"part/{name}"))
    if isinstance(model, Stateful):
        model.save(writer.child("own"))


def load_model(model: Model, reader: StateReader) -> None:
    """Give a model back what `save_model` recorded.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape.
    """
    if isinstance(model, torch.nn.Module):
        try:
            model.load_state_dict(reader.child("module").tensors())
        except RuntimeError as error:
            raise CheckpointError(f"The checkpoint does not fit {type(model).__name__}: {error}") from error
        for name, part in _parts(model):
            part.load(reader.child(f"part/{name}"))
    if isinstance(model, Stateful):
        model.load(reader.child("own"))


def _parts(model: torch.nn.Module) -> list[tuple[str, Stateful]]:
    return [(name, part) for name, part in model.named_modules() if name and isinstance(part, Stateful)]


def save_optimizer(optimizer: torch.optim.Optimizer, writer: StateWriter) -> None:
    """Record an optimiser's tensors by parameter number and name, and its settings as JSON."""
    values: dict[str, Json] = {}
    state = optimizer.state_dict()
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                writer.tensor(f"{number}/{name}", value)
            else:
                values[f"{number}/{name}"] = value
    writer.value("values", values)
    writer.value("groups", state["param_groups"])


def load_optimizer(optimizer: torch.optim.Optimizer, reader: StateReader) -> None:
    """Give an optimiser back what `save_optimizer` recorded.

    Raises:
        CheckpointError: If the parameter groups are others.
    """
    state: dict[int, dict[str, object]] = {}
    entries = {**reader.tensors(), **cast("dict[str, object]", reader.value("values"))}
    for key, value in entries.items():
        number, name = key.split("/", 1)
        # an optimiser goes on in the tensors it is given; the reader may be read again
        state.setdefault(int(number), {})[name] = value.clone() if isinstance(value, torch.Tensor) else value
    try:
        optimizer.load_state_dict({"state": state, "param_groups": reader.value("groups")})
    except ValueError as error:
        raise CheckpointError(f"The checkpoint's optimiser has other parameters: {error}") from error


def save_generators(writer: StateWriter) -> None:
    """Record the global generators of torch (every device in use), NumPy and Python."""
    writer.tensor("torch", torch.get_rng_state())
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            writer.tensor(f"cuda/{device}", torch.cuda.get_rng_state(device))
    name, keys, place, has_gauss, gauss = np.random.get_state()
    writer.tensor("numpy", np.asarray(keys).astype(np.int64))
    writer.value("numpy", [str(name), int(place), int(has_gauss), float(gauss)])
    version, internal, gauss_next = random.getstate()
    writer.value("python", [version, list(internal), gauss_next])


def load_generators(reader: StateReader) -> None:
    """Give the global generators back what `save_generators` recorded."""
    torch.set_rng_state(reader.tensor("torch"))
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            if reader.has(f"cuda/{device}"):
                torch.cuda.set_rng_state(reader.tensor(f"cuda/{device}"), device)
    name, place, has_gauss, gauss = cast("tuple[str, int, int, float]", reader.value("numpy"))
    np.random.set_state((name, reader.tensor("numpy").numpy().astype(np.uint32), place, has_gauss, gauss))
    version, internal, gauss_next = cast("tuple[int, list[int], float | None]", reader.value("python"))
    random.setstate((version, tuple(internal), gauss_next))


@contextmanager
def own_generators(seed: int) -> Iterator[None]:
    """Run the block with the generators of torch, NumPy and Python seeded; give the caller's back afterwards."""
    writer = StateWriter()
    save_generators(writer)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        load_generators(StateReader(writer.tensors, writer.values))
