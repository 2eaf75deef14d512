"""Stepwell: a database engine for training deep models.

The names below are the front door; each lives in a subpackage and is imported at its first use, so that
`import stepwell` costs little and changes nothing outside the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell import kernels as kernels
    from stepwell.access import TPPR as TPPR
    from stepwell.access import AdaptiveBatches as AdaptiveBatches
    from stepwell.access import FixedBatches as FixedBatches
    from stepwell.access import HistoricalNegatives as HistoricalNegatives
    from stepwell.access import Pipeline as Pipeline
    from stepwell.access import Recent as Recent
    from stepwell.access import Shuffled as Shuffled
    from stepwell.access import TimeBatches as TimeBatches
    from stepwell.access import Uniform as Uniform
    from stepwell.access import UniformNegatives as UniformNegatives
    from stepwell.access import Window as Window
    from stepwell.access.dense import CachedRows as CachedRows
    from stepwell.access.dense import DecodeImage as DecodeImage
    from stepwell.access.dense import Encode as Encode
    from stepwell.access.dense import Tokenise as Tokenise
    from stepwell.buffer import LRU as LRU
    from stepwell.buffer import SIEVE as SIEVE
    from stepwell.buffer import Belady as Belady
    from stepwell.buffer import DensityGreedy as DensityGreedy
    from stepwell.buffer import EmbeddingReuse as EmbeddingReuse
    from stepwell.buffer import Interval as Interval
    from stepwell.buffer import StaticHot as StaticHot
    from stepwell.evaluate import check_leak as check_leak
    from stepwell.jobs import link_prediction as link_prediction
    from stepwell.jobs import node_classification as node_classification
    from stepwell.nn import APAN as APAN
    from stepwell.nn import JODIE as JODIE
    from stepwell.nn import TGAT as TGAT
    from stepwell.nn import TGN as TGN
    from stepwell.nn import DyRep as DyRep
    from stepwell.nn import GraphMixer as GraphMixer
    from stepwell.nn import OutOfCore as OutOfCore
    from stepwell.nn import TPNet as TPNet
    from stepwell.nn import Zebra as Zebra
    from stepwell.prepare.pipeline import Preparation as Preparation
    from stepwell.select import Metric as Metric
    from stepwell.select import Sampling as Sampling
    from stepwell.select import Study as Study
    from stepwell.select import search as search
    from stepwell.storage import EventLog as EventLog
    from stepwell.storage import Lake as Lake
    from stepwell.storage import open as open
    from stepwell.train.stream import StreamConfig as StreamConfig
    from stepwell.train.stream import StreamLearner as StreamLearner

__version__ = "0.1.0"

_HOME = {
    "access": (
        "TPPR",
        "AdaptiveBatches",
        "FixedBatches",
        "HistoricalNegatives",
        "Pipeline",
        "Recent",
        "Shuffled",
        "TimeBatches",
        "Uniform",
        "UniformNegatives",
        "Window",
    ),
    "access.dense": ("CachedRows", "DecodeImage", "Encode", "Tokenise"),
    "buffer": ("LRU", "SIEVE", "Belady", "DensityGreedy", "EmbeddingReuse", "Interval", "StaticHot"),
    "evaluate": ("check_leak",),
    "jobs": ("link_prediction", "node_classification"),
    "nn": ("APAN", "JODIE", "TGAT", "TGN", "DyRep", "GraphMixer", "OutOfCore", "TPNet", "Zebra"),
    "prepare.pipeline": ("Preparation",),
    "select": ("Metric", "Sampling", "Study", "search"),
    "storage": ("EventLog", "Lake", "open"),
    "train.stream": ("StreamConfig", "StreamLearner"),
}
_PACKAGE = {name: package for package, names in _HOME.items() for name in names}
_SUBPACKAGES = frozenset(
    {*_HOME, "core", "datasets", "kernels", "plan", "prepare", "recipes", "testing", "train", "view"}
)

__all__ = [
    "APAN",
    "JODIE",
    "LRU",
    "SIEVE",
    "TGAT",
    "TGN",
    "TPPR",
    "AdaptiveBatches",
    "Belady",
    "CachedRows",
    "DecodeImage",
    "DensityGreedy",
    "DyRep",
    "EmbeddingReuse",
    "Encode",
    "EventLog",
    "FixedBatches",
    "GraphMixer",
    "HistoricalNegatives",
    "Interval",
    "Lake",
    "OutOfCore",
    "Pipeline",
    "Preparation",
    "Recent",
    "Shuffled",
    "StaticHot",
    "StreamConfig",
    "StreamLearner",
    "Study",
    "TPNet",
    "TimeBatches",
    "Tokenise",
    "Uniform",
    "UniformNegatives",
    "Window",
    "Zebra",
    "check_leak",
    "kernels",
    "link_prediction",
    "node_classification",
    "open",
    "plan",
    "search",
]


def __getattr__(name: str) -> object:
    """Import `name` from the subpackage that holds it (PEP 562)."""
    if name in _SUBPACKAGES:
        return import_module(f"stepwell.{name}")
    if name not in _PACKAGE:
        raise AttributeError(f"module 'stepwell' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value: object = getattr(import_module(f"stepwell.{_PACKAGE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
