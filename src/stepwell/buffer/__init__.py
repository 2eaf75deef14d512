"""What stays near the processor: rows kept within a byte budget, and the policies that say which.

`__all__` is what a user chooses from; the shapes and functions that other packages build on are here too.
"""

from stepwell.buffer.belady import Belady
from stepwell.buffer.cache import CacheCounts as CacheCounts
from stepwell.buffer.cache import RowCache
from stepwell.buffer.interval import DensityGreedy, Interval
from stepwell.buffer.lfu import LFU
from stepwell.buffer.lru import LRU
from stepwell.buffer.policy import Moves as Moves
from stepwell.buffer.policy import Policy as Policy
from stepwell.buffer.policy import Replacement as Replacement
from stepwell.buffer.policy import policies
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.buffer.sieve import SIEVE
from stepwell.buffer.static_hot import StaticHot
from stepwell.buffer.trace import Trace
from stepwell.buffer.two_q import TwoQ

__all__ = [
    "LFU",
    "LRU",
    "SIEVE",
    "Belady",
    "DensityGreedy",
    "EmbeddingReuse",
    "Interval",
    "RowCache",
    "StaticHot",
    "Trace",
    "TwoQ",
    "policies",
]
