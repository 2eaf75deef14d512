"""Labels from many imperfect sources: crowds, labelling functions, models and extractors are votes of one engine."""

from stepwell.prepare.label.ask import Asker, ask, jury
from stepwell.prepare.label.engine import LabelModel, Prior
from stepwell.prepare.label.functions import Pattern, Rule, vote
from stepwell.prepare.label.fuse import discover
from stepwell.prepare.label.labels import Labels
from stepwell.prepare.label.numbers import NumberModel
from stepwell.prepare.label.votes import Votes

__all__ = [
    "Asker",
    "LabelModel",
    "Labels",
    "NumberModel",
    "Pattern",
    "Prior",
    "Rule",
    "Votes",
    "ask",
    "discover",
    "jury",
    "vote",
]
