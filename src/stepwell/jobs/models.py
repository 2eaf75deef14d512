"""From a configuration to a model, a sampler, a batcher, a reuse and a placement."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import cast

import torch

from stepwell.access import FixedBatches, Recent, Uniform, Window
from stepwell.access.batches import batchers
from stepwell.access.tppr import TPPR
from stepwell.buffer.policy import Policy, policies
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core.errors import InvalidValueError
from stepwell.core.overrides import override
from stepwell.core.shapes import Batcher, Model, Sampler
from stepwell.jobs.experiment import BatchConfig, ModelConfig, PlacementConfig, ReuseConfig, SamplingConfig, StateConfig
from stepwell.nn import OutOfCore, models
from stepwell.plan.models import feature_widths, settings_of, with_fields
from stepwell.storage import EventLog


def build_model(log: EventLog, model: ModelConfig, sampling: SamplingConfig, store: OutOfCore | None = None) -> Model:
    """Build the model that a configuration names, its weights drawn from the model's own seed.

    Every setting that the model's own settings know by that name is passed on; the rest are the model's defaults.

    Args:
        log: The log that gives nodes and widths.
        model: Which model, and how wide.
        sampling: Hops and neighbours.
        store: Where node state goes instead of host memory.

    Raises:
        UnknownNameError: If there is no model of that name, or no such setting.
        InvalidValueError: If a store is given for a model that keeps its state in host memory.
    """
    kind = cast("Callable[..., Model]", models[model.name])
    settings = settings_of(models[model.name])
    chosen = [] if settings is None else [_filled(settings(), model, sampling)]
    if store is not None and "store" not in signature(models[model.name].__init__).parameters:
        raise InvalidValueError("state.policy", store.policy, f"'host' with the model {model.name!r}")
    more = {} if store is None else {"store": store}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        return kind(log.num_nodes, *feature_widths(log), *chosen, **more)


def _filled(settings: object, model: ModelConfig, sampling: SamplingConfig) -> object:
    lists = hasattr(settings, "alpha") and sampling.sampler == "tppr"
    filled = with_fields(
        settings,
        memory_dim=model.dim,
        time_dim=model.dim,
        dim=model.dim,
        heads=model.heads,
        dropout=model.dropout,
        hops=sampling.hops,
        k=sampling.k // len(sampling.alpha) if lists else sampling.k,
        alpha=sampling.alpha if lists else None,
        beta=sampling.beta if lists else None,
    )
    return override(filled, model.options)


def build_sampler(sampling: SamplingConfig, log: EventLog) -> Sampler:
    """Build the sampler that a configuration names, its window in the log's unit."""
    if sampling.sampler == "window":
        return Window(sampling.k, max(1, round(sampling.window_s / log.seconds)))
    if sampling.sampler == "tppr":
        return TPPR(sampling.k, sampling.alpha, sampling.beta)
    return Recent(sampling.k) if sampling.sampler == "recent" else Uniform(sampling.k)


def build_batches(batches: BatchConfig, seed: int) -> Batcher:
    """Build the batcher of the training events."""
    if batches.kind == "adaptive":
        adaptive = cast("Callable[..., Batcher]", batchers["adaptive"])
        return adaptive(like=batches.size)
    return FixedBatches(batches.size, batches.chunks, seed)


def build_reuse(reuse: ReuseConfig) -> EmbeddingReuse | None:
    """Build what says which embeddings serve again in training, or None.

    Raises:
        UnknownNameError: If there is no policy of that name.
    """
    if not reuse.rows:
        return None
    return EmbeddingReuse(reuse.rows, reuse.policy, reuse.max_age, reuse.causal, reuse.gradient)


def build_store(state: StateConfig, folder: Path) -> OutOfCore | None:
    """Build what says where node state lies, or None for host memory.

    Raises:
        UnknownNameError: If there is no policy of that name.
        InvalidValueError: If the policy needs foresight.
    """
    if state.policy == "host":
        return None
    policy = cast("Callable[..., Policy]", policies[state.policy])(memory=state.memory)
    if policy.foresight:
        raise InvalidValueError("state.policy", state.policy, "'host', or a policy without foresight")
    return OutOfCore(folder, policy)


def build_placement(placement: PlacementConfig) -> Policy | None:
    """Build the policy that keeps rows near, or None.

    Raises:
        UnknownNameError: If there is no policy of that name.
    """
    if placement.policy == "none":
        return None
    return cast("Callable[..., Policy]", policies[placement.policy])(memory=placement.memory)
