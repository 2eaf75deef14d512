"""What stays near the processor: rows kept within a byte budget."""

from stepwell.buffer.cache import CacheCounts, RowCache

__all__ = ["CacheCounts", "RowCache"]
