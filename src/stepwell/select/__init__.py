"""Model selection: many configurations trained on the same data at once, each bit for bit as if trained alone.

The data are cut once and stay; the states of the models hop between them. A study is a folder: a log that only grows,
states as safetensors, no server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.select.data import cut as cut
    from stepwell.select.sampled import Sampling as Sampling
    from stepwell.select.searching import StudySettings as StudySettings
    from stepwell.select.searching import search as search
    from stepwell.select.space import Choice as Choice
    from stepwell.select.space import Integer as Integer
    from stepwell.select.space import Space as Space
    from stepwell.select.space import Uniform as Uniform
    from stepwell.select.space import When as When
    from stepwell.select.study import Study as Study
    from stepwell.select.trainee import Trainee as Trainee
    from stepwell.select.usual import Metric as Metric

__all__ = [
    "Choice",
    "Integer",
    "Metric",
    "Sampling",
    "Space",
    "Study",
    "StudySettings",
    "Trainee",
    "Uniform",
    "When",
    "cut",
    "search",
]

_HOME = {
    "Choice": "space",
    "Integer": "space",
    "Metric": "usual",
    "Sampling": "sampled",
    "Space": "space",
    "Study": "study",
    "StudySettings": "searching",
    "Trainee": "trainee",
    "Uniform": "space",
    "When": "space",
    "cut": "data",
    "search": "searching",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
