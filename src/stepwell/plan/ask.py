"""Ask for a plan: `plan(log, model="tgn", memory="2GiB")`, and print it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from stepwell.access import Shuffled
from stepwell.access.dense.stage import RowStage
from stepwell.buffer.policy import Policy
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Machine
from stepwell.core.errors import InvalidValueError
from stepwell.core.shapes import Batcher, Sampler, Source
from stepwell.plan.answer import Plan, Question
from stepwell.plan.dense import DensePlanner
from stepwell.plan.machine import machine as this_machine
from stepwell.plan.models import meant_for, model_for, wants
from stepwell.plan.options import Asked, Setting
from stepwell.plan.planner import TrainingPlanner
from stepwell.storage import EventLog


def plan(
    log: EventLog | Source,
    model: str | torch.nn.Module = "tgn",
    *,
    memory: str | int | None = None,
    device: str | None = None,
    accuracy: Asked = "exact",
    batches: Batcher | str | None = None,
    sampler: Sampler | str | None = None,
    reuse: EmbeddingReuse | str | None = None,
    placement: Policy | str | None = None,
    prefetch: int | None = None,
    state: Policy | str | None = None,
    steps: Literal["eager", "graphed"] | None = None,
    hops: int | None = None,
    setting: Setting | None = None,
    name: str | None = None,
    price_per_core_hour: float | None = None,
    stages: Sequence[RowStage] = (),
    probe: bool = True,
    machine: Machine | None = None,
) -> Plan:
    """Plan one epoch of training: choose batcher, sampler, reuse, placement, prefetch, place of state, and say why.

    What is given is pinned; what is left open is chosen among all that the registries hold. For a table, the loading is
    planned: which prepared rows to keep, and prefetch; there is then no model.

    Args:
        log: The training events, or a table.
        model: A registered name, or a module with `score`, `observe` and `forget`.
        memory: Memory for features, node state and index, as `"2GiB"`; None: all fits.
        device: Where the model runs; the GPU if there is one.
        accuracy: `"exact"`: values never change. `"bounded"`: also what states a bound. `"changed"`: also batches that
            make another, equally valid training.
        batches: The batcher, an object or a registered name.
        sampler: The sampler, likewise; a model that is meant for one takes that.
        reuse: Which embeddings below the last layer serve again: an object or a policy's name, `"none"` for none; for
            models of two hops or more, and best with `hop_time="root"`.
        placement: The policy of rows that do not fit, an object or a registered name; `"none"` for none.
        prefetch: Batches made ahead.
        state: Where node state lies: `"host"`, or a policy (an object or a name) of what stays there when it is out of
            core; that is chosen only where memory does not hold it.
        steps: `"eager"`, or `"graphed"` for CUDA graphs, which need a device and fixed batches without reuse.
        hops: Levels of neighbours; the model's own by default.
        setting: What else decides what is learnt (neighbours, visibility, negatives, batch size, seed).
        name: What to call the model; its class by default.
        price_per_core_hour: What a core costs; the plan then says what an epoch does.
        stages: What prepares the rows of a table (`Encode`, `Tokenise`, `DecodeImage`).
        probe: Train a copy of the model on a few real batches, which takes a few seconds and is right within some
            percent; otherwise formulas decide, in milliseconds, and may be off by a factor of two.
        machine: Rates to plan for; those of this machine by default, measured once.

    Raises:
        InvalidValueError: If an option is unknown, or the log is empty.
        UnknownNameError: If there is no model of that name.

    Example:
        >>> log = EventLog.from_arrays(src=[0, 1, 0, 1] * 50, dst=[2, 2, 3, 3] * 50, time=range(200))
        >>> plan(log, "tgn", accuracy="exact").names["batches"]
        'fixed'
    """
    if not len(log):
        raise InvalidValueError("log", repr(log), "a log with events")
    if not isinstance(log, EventLog):
        asked = Question(
            memory, accuracy, placement=placement, prefetch=prefetch, price_per_core_hour=price_per_core_hour
        )
        cut = batches if batches is not None and not isinstance(batches, str) else Shuffled(1024)
        return DensePlanner(log, stages, cut, asked, machine or this_machine()).plan()
    chosen = setting or Setting()
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    built = model_for(log, model, hops=hops, k=None if setting is None else setting.k)
    wanted = replace(
        chosen,
        hops=hops or wants(built, "hops", chosen.hops),
        k=chosen.k if setting is not None else wants(built, "k", chosen.k),
        device=where,
    )
    if isinstance(built, torch.nn.Module):
        built.to(where)
    called = name or (model if isinstance(model, str) else type(model).__name__)
    sampler = sampler or meant_for(built)
    question = Question(
        memory, accuracy, batches, sampler, reuse, placement, prefetch, price_per_core_hour, state, steps
    )
    return TrainingPlanner(log, built, called, wanted, question, machine or this_machine(), probing=probe).plan()
