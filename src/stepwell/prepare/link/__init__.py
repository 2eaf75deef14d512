"""Integration: link rows that mean the same, merge them into one, and match the columns of two tables."""

from stepwell.prepare.link.block import Listed, Nearest, Same, predict
from stepwell.prepare.link.compare import Exact, Number, Text
from stepwell.prepare.link.linkage import Links, link
from stepwell.prepare.link.merge import merge
from stepwell.prepare.link.model import Settings
from stepwell.prepare.link.schema import match_schema

__all__ = [
    "Exact",
    "Links",
    "Listed",
    "Nearest",
    "Number",
    "Same",
    "Settings",
    "Text",
    "link",
    "match_schema",
    "merge",
    "predict",
]
