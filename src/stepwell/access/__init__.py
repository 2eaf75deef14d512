"""From a source to batches: cuts, negatives, samplers, distinct rows, features, and the pipeline that orders them.

`__all__` is what a user's loop is written with; the stages that the pipeline builds from it are here too.
"""

from stepwell.access.adaptive import AdaptiveBatches
from stepwell.access.batches import FixedBatches, TimeBatches
from stepwell.access.batches import batchers as batchers
from stepwell.access.dense import Shuffled
from stepwell.access.gather import Gather as Gather
from stepwell.access.negative_files import FileNegatives
from stepwell.access.negatives import AllDestinations, HistoricalNegatives, InductiveNegatives, UniformNegatives
from stepwell.access.negatives import Candidates as Candidates
from stepwell.access.negatives import Negatives as Negatives
from stepwell.access.neighbors import Neighbors as Neighbors
from stepwell.access.pipeline import Pipeline
from stepwell.access.samplers import Recent, Uniform, Window
from stepwell.access.samplers import samplers as samplers
from stepwell.access.tppr import TPPR

__all__ = [
    "TPPR",
    "AdaptiveBatches",
    "AllDestinations",
    "FileNegatives",
    "FixedBatches",
    "HistoricalNegatives",
    "InductiveNegatives",
    "Pipeline",
    "Recent",
    "Shuffled",
    "TimeBatches",
    "Uniform",
    "UniformNegatives",
    "Window",
]
