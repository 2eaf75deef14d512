"""From a model's name to a model over a log, and from a model to what it wants of its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Literal, TypeVar, cast, get_args, get_type_hints

import torch

from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Model, Sampler
from stepwell.nn import models
from stepwell.storage import EventLog

T = TypeVar("T")


def model_for(log: EventLog, model: str | torch.nn.Module, *, hops: int | None = None, k: int | None = None) -> Model:
    """Return the model of a name, as wide as its defaults and the log's features say; a module is returned as it is.

    Args:
        log: The events.
        model: A registered name, or a module with `score`, `observe` and `forget`.
        hops: Attention layers; None takes the model's default.
        k: Events a target attends to; None takes the model's default.

    Raises:
        UnknownNameError: If no model has that name.
        InvalidValueError: If a module has another number of hops than asked.
    """
    if not isinstance(model, str):
        has = wants(model, "hops", hops or 1)
        if hops is not None and has != hops:
            raise InvalidValueError("hops", hops, f"{has}, as the model has it")
        return cast("Model", model)
    kind = cast("Callable[..., Model]", models[model])
    settings = settings_of(models[model])
    chosen = [] if settings is None else [with_fields(settings(), hops=hops, k=k)]
    return kind(log.num_nodes, *feature_widths(log), *chosen)


def feature_widths(log: EventLog) -> tuple[int, int]:
    """Return the widths of the event and of the node features, 0 where there are none."""
    event, node = log.event_feature, log.node_feature
    return 0 if event is None else int(event.shape[1]), 0 if node is None else int(node.shape[1])


def settings_of(kind: type[torch.nn.Module]) -> Callable[[], object] | None:
    """Return the dataclass that a model takes as `settings`, or None if it takes none."""
    hint = get_type_hints(kind.__init__).get("settings")
    return next((one for one in (*get_args(hint), hint) if isinstance(one, type) and is_dataclass(one)), None)


def with_fields(settings: T, **values: object) -> T:
    """Return settings with those of the values that it has and that are not None."""
    assert is_dataclass(settings) and not isinstance(settings, type)
    known = {field.name for field in fields(settings)}
    given = {name: value for name, value in values.items() if name in known and value is not None}
    return cast("T", replace(settings, **given))


def wants(model: object, name: Literal["hops", "k"], default: int) -> int:
    """Return what a model says of its batches: `hops` or `k`."""
    return int(getattr(model, name, default))


def meant_for(model: object) -> Sampler | None:
    """Return the sampler that a model's settings say it is meant for, or None if any will do."""
    return cast("Sampler | None", getattr(getattr(model, "settings", None), "sampler", None))
