"""Optuna's samplers as a searcher, through ask and tell. Needs the extra `optuna`.

Optuna proposes, the study trains. A sampler is deterministic if it is seeded, so that a study opened again asks and
tells it the same.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from stepwell.core.errors import InvalidValueError, MissingExtraError
from stepwell.select.orders import Add, Order, Told, Verdict
from stepwell.select.space import Choice, Dimension, Integer, Params, Space, Uniform, Value, When


class Optuna:
    """Trains what an Optuna sampler proposes.

    Args:
        space: The space.
        epochs: Epochs of each configuration.
        configs: How many.
        at_once: Most under way at a time: whoever is proposed next has heard of all others.
        sampler: An Optuna sampler with a seed; its TPE with seed 0 if None.

    Raises:
        MissingExtraError: If Optuna is not installed.
    """

    def __init__(
        self, space: Space, epochs: int, configs: int, at_once: int = 4, sampler: object | None = None
    ) -> None:
        try:
            optuna: Any = import_module("optuna")
        except ImportError as error:
            raise MissingExtraError("Optuna", "optuna", "optuna") from error
        if configs < 1 or at_once < 1:
            raise InvalidValueError("configs, at_once", (configs, at_once), "at least 1 each")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._kind: Any = optuna
        chosen: Any = sampler or optuna.samplers.TPESampler(seed=0)
        self._study: Any = optuna.create_study(direction="maximize", sampler=chosen)  # larger is better to a searcher
        self._space, self._epochs, self._left, self.at_once = space, epochs, configs, at_once
        self._trials: dict[str, Any] = {}

    def ask(self, name: str, *, room: bool) -> Order | None:
        if not room or not self._left:
            return None
        self._left -= 1
        trial = self._trials[name] = self._study.ask()
        return Add(_suggest(trial, self._space), self._epochs)

    def tell(self, told: Told) -> Verdict:
        trial = self._trials[told.config]
        if math.isfinite(told.value):
            self._study.tell(trial, told.value)
        else:
            self._study.tell(trial, state=self._kind.trial.TrialState.FAIL)
        return "finish"


def _suggest(trial: Any, space: Space) -> Params:
    drawn: dict[str, Value] = {}
    for name, given in space.dimensions.items():
        if isinstance(given, When):
            if drawn.get(given.name) in given.values:
                drawn[name] = _one(trial, name, given.then)
        elif isinstance(given, Dimension):
            drawn[name] = _one(trial, name, given)
    return drawn


def _one(trial: Any, name: str, dimension: Dimension) -> Value:
    value: Value
    if isinstance(dimension, Uniform):
        value = trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
    elif isinstance(dimension, Integer):
        value = trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log)
    elif isinstance(dimension, Choice):
        value = trial.suggest_categorical(name, dimension.values)
    else:
        raise InvalidValueError(f"space[{name!r}]", dimension, "Uniform, Integer, Choice, or When around one of them")
    return value
