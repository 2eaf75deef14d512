"""What every package shares: errors, names, settings, progress, randomness, and the shapes of a plan."""

from stepwell.core.batch import Array, Batch, Ids, Level, Neighborhood, Slice
from stepwell.core.draws import Draw
from stepwell.core.plan import Cost, Machine, PlanNode, Statistics

__all__ = [
    "Array",
    "Batch",
    "Cost",
    "Draw",
    "Ids",
    "Level",
    "Machine",
    "Neighborhood",
    "PlanNode",
    "Slice",
    "Statistics",
]
