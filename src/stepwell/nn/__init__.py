"""Models of temporal graphs, and the baselines that every model must beat."""

from stepwell.nn.apan import APAN, APANSettings
from stepwell.nn.baselines import EdgeBank, MostRecent, PopTrack
from stepwell.nn.dyrep import DyRep, DyRepSettings
from stepwell.nn.graphmixer import GraphMixer, GraphMixerSettings
from stepwell.nn.jodie import JODIE, JODIESettings
from stepwell.nn.registry import models
from stepwell.nn.stored_memory import trace_memory as trace_memory
from stepwell.nn.stored_rows import OutOfCore
from stepwell.nn.tgat import TGAT, TGATSettings
from stepwell.nn.tgn import TGN, TGNSettings
from stepwell.nn.tpnet import TPNet, TPNetSettings
from stepwell.nn.tppr_ranker import TPPRRanker
from stepwell.nn.zebra import Zebra, ZebraSettings

__all__ = [
    "APAN",
    "JODIE",
    "TGAT",
    "TGN",
    "APANSettings",
    "DyRep",
    "DyRepSettings",
    "EdgeBank",
    "GraphMixer",
    "GraphMixerSettings",
    "JODIESettings",
    "MostRecent",
    "OutOfCore",
    "PopTrack",
    "TGATSettings",
    "TGNSettings",
    "TPNet",
    "TPNetSettings",
    "TPPRRanker",
    "Zebra",
    "ZebraSettings",
    "models",
]
