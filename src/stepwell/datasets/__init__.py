"""Data sets by name: public streams with their sources and checksums, and seeded generators (`synthetic`)."""

from stepwell.datasets import public as _public  # fills the registry
from stepwell.datasets.registry import Dataset, DownloadError, File, datasets

__all__ = ["Dataset", "DownloadError", "File", "datasets"]

del _public
