"""What is trained, and its state as bytes: the state hops, the data stay.

A state is everything that the next unit depends on: weights, optimiser, schedule, gradient scaler, random generators
and counters. It is one safetensors file whose header holds the values that are no tensors; never pickle.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, cast

import torch

from stepwell.core.errors import CheckpointError, InvalidValueError
from stepwell.core.shapes import Model
from stepwell.core.state import Json, StateReader, StateWriter
from stepwell.select.sampled import Sampling
from stepwell.select.space import Params
from stepwell.select.with_keras import KerasModel, as_keras
from stepwell.train.state import (
    load_generators,
    load_model,
    load_optimizer,
    save_generators,
    save_model,
    save_optimizer,
)


class LearningRate(Protocol):
    """A learning-rate schedule as torch has them."""

    def step(self) -> None: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state_dict: dict[str, object]) -> None: ...


Step: TypeAlias = "Callable[[torch.nn.Module, object], torch.Tensor]"
Build: TypeAlias = "Callable[[Params], torch.nn.Module | Trainee]"


@dataclass(slots=True)
class Trainee:
    """One configuration as built: a model and what trains it. What is left out has a usual value.

    Args:
        model: Any module.
        optimizer: Its optimiser; Adam with the parameters `lr` and `weight_decay` if None.
        schedule: Its learning-rate schedule, or None.
        schedule_each: Whether the schedule steps after each batch or after each epoch.
        scaler: A gradient scaler for mixed precision, or None.
        clip: Largest norm of the gradient, or None.
        prefix: A frozen module in front of `model`. Configurations whose prefix has equal weights share its outputs:
            they are computed once and stored.
        sampling: For a temporal model (`score`, `observe`, `forget`) on an event log: how its batches are made.
            Configurations of equal sampling and batch size take each batch once. The model observes a batch after its
            loss is differentiated, before its weights change.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer | None = None
    schedule: LearningRate | None = None
    schedule_each: str = "batch"
    scaler: torch.amp.GradScaler | None = None
    clip: float | None = None
    prefix: torch.nn.Module | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.schedule_each not in ("batch", "epoch"):
            raise InvalidValueError("schedule_each", self.schedule_each, "'batch' or 'epoch'")


def as_trainee(built: torch.nn.Module | Trainee, params: Params) -> Trainee:
    """Return what `build` gave as a trainee with an optimiser; a compiled Keras model brings its own.

    Raises:
        InvalidValueError: If it is neither a module, a Keras model nor a trainee.
    """
    built = as_keras(built) or built
    if isinstance(built, torch.nn.Module):
        built = Trainee(built)
    if not isinstance(built, Trainee):
        raise InvalidValueError("build(params)", type(built).__name__, "a torch.nn.Module or a Trainee")
    if built.optimizer is None:
        learnt = [one for one in built.model.parameters() if one.requires_grad]
        rate, decay = float(params.get("lr") or 1e-3), float(params.get("weight_decay") or 0.0)
        if learnt:
            built.optimizer = torch.optim.Adam(learnt, lr=rate, weight_decay=decay)
    return built


@dataclass(slots=True)
class Live:
    """A trainee in memory, with the generators it goes on with and how far it is.

    Args:
        trainee: The trainee.
        version: Training units behind it.
        generators: The state of all generators after the last of them.
    """

    trainee: Trainee
    version: int = 0
    generators: StateReader | None = field(default=None, repr=False)


def pack(live: Live) -> bytes:
    """Return a trainee's state.

    Raises:
        CheckpointError: If a part of the state is neither a tensor nor JSON, or lies in files of its own.
    """
    from safetensors.torch import save

    writer, trainee = StateWriter(), live.trainee
    save_model(cast("Model", trainee.model), writer.child("model"))
    if trainee.optimizer is not None:
        save_optimizer(trainee.optimizer, writer.child("optimizer"))
    if trainee.schedule is not None:
        writer.value("schedule", _plain(trainee.schedule.state_dict(), "the learning-rate schedule"))
    if trainee.scaler is not None:
        writer.value("scaler", _plain(trainee.scaler.state_dict(), "the gradient scaler"))
    if live.generators is not None:
        for name, tensor in live.generators.tensors().items():
            writer.child("generators").tensor(name, tensor)
        for name in ("numpy", "python"):
            writer.child("generators").value(name, live.generators.value(name))
    writer.value("version", live.version)
    if writer._folder is not None:
        raise CheckpointError("A model that keeps its state in files of its own cannot hop. Keep its state in memory.")
    return save(writer.tensors, {"values": json.dumps(writer.values)})


def read_blob(blob: bytes) -> StateReader:
    """Return a reader of a packed state.

    Raises:
        CheckpointError: If it is torn.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        return StateReader(load(blob), json.loads(header["__metadata__"]["values"]))
    except (SafetensorError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"A packed state is torn: {error}. Use an older one.") from error


def unpack(live: Live, blob: bytes, *, warm: bool = False) -> None:
    """Give a freshly built trainee a packed state.

    Args:
        live: The trainee.
        blob: The state.
        warm: Whether the state is a parent's: its weights, moments and progress are taken, while the settings of the
            optimiser stay those of the new parameters. The learning rate keeps its ratio to the initial one.

    Raises:
        CheckpointError: If the state is torn, or of another model.
    """
    reader, trainee = read_blob(blob), live.trainee
    with trainee.model.own_rate() if warm and isinstance(trainee.model, KerasModel) else nullcontext():
        load_model(cast("Model", trainee.model), reader.child("model"))
    if trainee.optimizer is not None and reader.has("optimizer"):
        own = [dict(group) for group in trainee.optimizer.param_groups]
        load_optimizer(trainee.optimizer, reader.child("optimizer"))
        if warm:
            _keep_settings(trainee.optimizer, own)
    if trainee.schedule is not None and reader.has("schedule"):
        bases = getattr(trainee.schedule, "base_lrs", None)
        trainee.schedule.load_state_dict(cast("dict[str, object]", _rich(reader.value("schedule"))))
        if warm and bases is not None:
            trainee.schedule.base_lrs = bases  # type: ignore[attr-defined]
    if trainee.scaler is not None and reader.has("scaler"):
        trainee.scaler.load_state_dict(cast("dict[str, object]", _rich(reader.value("scaler"))))
    live.generators = reader.child("generators") if reader.has("generators") else None
    live.version = cast("int", reader.value("version"))


def checksum(blob: bytes) -> int:
    """Return what a state file is checked by."""
    return zlib.crc32(blob)


class seeded:
    """Run a block with given global generators, and give the caller's back.

    Args:
        seed: What to seed them with, or None.
        reader: A recorded state to go on with, or None.
    """

    def __init__(self, seed: int | None = None, reader: StateReader | None = None) -> None:
        self._seed, self._reader = seed, reader
        self._outside = StateWriter()
        self._inside = StateWriter()

    def __enter__(self) -> seeded:
        save_generators(self._outside)
        if self._reader is not None:
            load_generators(self._reader)
        elif self._seed is not None:
            seed_all(self._seed)
        return self

    def __exit__(self, *error: object) -> None:
        save_generators(self._inside)
        load_generators(self._outside.reader())

    @property
    def after(self) -> StateReader:
        """The generators at the end of the block."""
        return self._inside.reader()


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, NumPy and Python."""
    import random

    import numpy as np

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _keep_settings(optimizer: torch.optim.Optimizer, own: list[dict[str, object]]) -> None:
    for group, mine in zip(optimizer.param_groups, own, strict=True):
        first = cast("float", group.get("initial_lr", group["lr"]))
        ratio = cast("float", group["lr"]) / first if first else 1.0
        group.update({name: value for name, value in mine.items() if name != "params"})
        group["lr"] = cast("float", mine.get("initial_lr", mine["lr"])) * ratio


def _plain(value: object, what: str) -> Json:
    """Return a state as JSON; dictionaries keep keys that are numbers."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, what) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _plain(item, what) for key, item in value.items()}
        kind = "counter" if isinstance(value, Counter) else "pairs"
        return {f"__{kind}__": [[_plain(key, what), _plain(item, what)] for key, item in value.items()]}
    raise CheckpointError(f"{what} keeps a {type(value).__name__} in its state. Allowed: numbers, text, lists of them.")


def _rich(value: Json) -> object:
    if isinstance(value, list):
        return [_rich(item) for item in value]
    if isinstance(value, dict):
        for name, kind in (("__counter__", Counter), ("__pairs__", dict)):
            if name in value:
                return kind({key: _rich(item) for key, item in cast("list[list[Json]]", value[name])})
        return {key: _rich(item) for key, item in value.items()}
    return value
