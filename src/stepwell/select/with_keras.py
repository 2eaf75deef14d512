"""Keras 3 models as configurations, on whatever backend Keras runs: TensorFlow, JAX or torch. Needs the extra `keras`.

A compiled model trains by Keras's own `train_on_batch`, with its own optimiser, schedule and loss. Its state hops like
any other: every variable of the model and of its optimiser, seeds of dropout and the step count included.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from stepwell.core.errors import CheckpointError, InvalidValueError


def as_keras(built: object) -> KerasModel | None:
    """Return a compiled Keras model as a module, or None if it is none.

    A model of the torch backend that is not compiled is an ordinary module: torch's optimiser trains it.

    Raises:
        InvalidValueError: If it is a Keras model that can be trained neither way.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None or not isinstance(built, keras.Model):
        return None
    if not cast("Any", built).compiled:
        if isinstance(built, torch.nn.Module):
            return None
        raise InvalidValueError("build(params)", "a Keras model without optimiser", "one on which compile() was called")
    return KerasModel(built)


class KerasModel(torch.nn.Module):
    """A compiled Keras model, seen as a module: tensors of torch in and out, its variables as the state.

    Args:
        model: The model; its shapes are known, so it begins with `keras.Input` or was built.

    Raises:
        InvalidValueError: If it has no weights yet.
    """

    def __init__(self, model: object) -> None:
        super().__init__()
        self._held = (cast("Any", model),)  # in a tuple: under Keras's torch backend torch would adopt its weights
        if not self.keras.built:
            raise InvalidValueError("build(params)", "a Keras model of unknown shape", "one that begins with Input")
        self.keras.optimizer.build(self.keras.trainable_variables)

    @property
    def keras(self) -> Any:
        """The Keras model itself."""
        return self._held[0]

    def learn(self, batch: object) -> torch.Tensor:
        """Train on a batch (input, target) and return its loss."""
        x, y = _pair(batch)
        self.keras.reset_metrics()
        return torch.tensor(float(self.keras.train_on_batch(x, y, return_dict=True)["loss"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of a batch, as after training."""
        return torch.from_numpy(np.array(self.keras.predict_on_batch(_array(x))))

    def losses(self, batch: object) -> torch.Tensor:
        """Return the loss of each example of a batch (input, target), by the loss that the model was compiled with."""
        keras: Any = import_module("keras")
        x, y = _pair(batch)
        found = keras.losses.get(self.keras.loss)
        values = found.call(y, self.keras.predict_on_batch(x)) if hasattr(found, "call") else found(y, self.forward(x))
        flat = np.asarray(keras.ops.convert_to_numpy(values), np.float32).reshape(len(y), -1)
        return torch.from_numpy(flat.mean(1))

    @contextmanager
    def own_rate(self) -> Iterator[None]:
        """Keep the learning rate that the model was compiled with while a block loads another's state."""
        scheduled = isinstance(self.keras.optimizer.get_config().get("learning_rate"), dict)
        rate = None if scheduled else float(self.keras.optimizer.learning_rate)
        yield
        if rate is not None:
            self.keras.optimizer.learning_rate = rate

    def _variables(self) -> dict[str, Any]:
        optimizer, model = self.keras.optimizer.variables, self.keras.variables
        found = {f"model.{number}": variable for number, variable in enumerate(model)}
        return {**found, **{f"optimizer.{number}": variable for number, variable in enumerate(optimizer)}}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Return every variable, numbered; whole numbers as int64, which torch and safetensors know all of."""
        keras: Any = import_module("keras")
        return {name: _tensor(keras.ops.convert_to_numpy(one.value)) for name, one in self._variables().items()}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> None:
        """Give every variable its value.

        Raises:
            CheckpointError: If a variable is missing, left over or of another shape.
        """
        own = self._variables()
        other = sorted(set(own) ^ set(state_dict))
        other += [
            name for name in own if name in state_dict and tuple(own[name].shape) != tuple(state_dict[name].shape)
        ]
        if other:
            raise CheckpointError(f"The state is of another Keras model ({other[0]} differs). Build it as it was.")
        for name, variable in own.items():
            variable.assign(state_dict[name].numpy().astype(str(variable.dtype)))


def _tensor(value: npt.NDArray[np.generic]) -> torch.Tensor:
    if value.dtype.kind in "iu":
        return torch.from_numpy(value.astype(np.int64))
    if value.dtype.kind == "b":
        return torch.from_numpy(value.copy())
    return torch.from_numpy(np.array(value, np.float64 if value.dtype == np.float64 else np.float32))


def _pair(batch: object) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InvalidValueError("batch", type(batch).__name__, "(input, target); or pass step= and a Metric")
    return _array(batch[0]), _array(batch[1])


def _array(value: object) -> Any:
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, Mapping):
        return {name: _array(one) for name, one in value.items()}
    return value
