"""Models of temporal graphs and their parts, and the baselines that every model must beat."""

from stepwell.nn.baselines import EdgeBank, MostRecent, PopTrack
from stepwell.nn.tgn import TGN, TGNSettings

__all__ = ["TGN", "EdgeBank", "MostRecent", "PopTrack", "TGNSettings"]
