"""From a configuration to a model and a sampler."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

from stepwell.access import Recent, Uniform, Window
from stepwell.core.shapes import Model, Sampler
from stepwell.jobs.experiment import ModelConfig, SamplingConfig
from stepwell.nn import GraphMixerSettings, JODIESettings, TGATSettings, TGNSettings, models
from stepwell.storage import EventLog

_SETTINGS: dict[str, Callable[[ModelConfig, SamplingConfig], object]] = {
    "tgn": lambda m, s: TGNSettings(m.dim, m.dim, m.dim, m.heads, s.hops, s.k, m.dropout),
    "tgat": lambda m, s: TGATSettings(m.dim, m.dim, m.heads, s.hops, s.k, m.dropout),
    "jodie": lambda m, s: JODIESettings(m.dim, m.dim),
    "graphmixer": lambda m, s: GraphMixerSettings(m.dim, m.dim, s.k),
}
"""How the usual models take their widths; a model of a plug-in is built with its own defaults."""


def build_model(log: EventLog, model: ModelConfig, sampling: SamplingConfig) -> Model:
    """Build the model that a configuration names, its weights drawn from the model's own seed.

    Raises:
        UnknownNameError: If there is no model of that name.
    """
    kind = cast("Callable[..., Model]", models[model.name])
    widths = [0 if matrix is None else int(matrix.shape[1]) for matrix in (log.event_feature, log.node_feature)]
    settings = [_SETTINGS[model.name](model, sampling)] if model.name in _SETTINGS else []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        return kind(log.num_nodes, *widths, *settings)


def build_sampler(sampling: SamplingConfig, log: EventLog) -> Sampler:
    """Build the sampler that a configuration names, its window in the log's unit."""
    if sampling.sampler == "window":
        return Window(sampling.k, max(1, round(sampling.window_s / log.seconds)))
    return Recent(sampling.k) if sampling.sampler == "recent" else Uniform(sampling.k)
