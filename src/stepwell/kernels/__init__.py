"""Pure array functions, compiled at first use: the index, neighbour search, distinct keys, reduction, gather.

Each has a slow twin in `stepwell.kernels.reference` that says what it must compute.
"""

from stepwell.kernels.gather import gather_rows
from stepwell.kernels.neighbors import newest_before, read_slots, recent_neighbors, uniform_before, window_before
from stepwell.kernels.reduce import last_wins
from stepwell.kernels.tcsr import build_tcsr, count_degrees, fill_tcsr_chunk
from stepwell.kernels.unique import unique_inverse, unique_pairs

__all__ = [
    "build_tcsr",
    "count_degrees",
    "fill_tcsr_chunk",
    "gather_rows",
    "last_wins",
    "newest_before",
    "read_slots",
    "recent_neighbors",
    "uniform_before",
    "unique_inverse",
    "unique_pairs",
    "window_before",
]
