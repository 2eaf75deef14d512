"""Which rows to keep, label or train on: a selector is a space to measure in and a search for the rows."""

from stepwell.prepare.select.gradients import Affinity, Bilevel, LastLayer, Matching
from stepwell.prepare.select.searches import Centres, Coverage, Herding, Leaders, RandomRows
from stepwell.prepare.select.selection import Selection
from stepwell.prepare.select.selector import Selector, select_rows, selectors
from stepwell.prepare.select.solvers import Lazy, Naive, OnTorch, Sieve, Stochastic
from stepwell.prepare.select.spaces import look as look
from stepwell.prepare.select.spaces import output_gradient as output_gradient
from stepwell.prepare.select.spaces import seen_space as seen_space
from stepwell.prepare.select.spaces import space

__all__ = [
    "Affinity",
    "Bilevel",
    "Centres",
    "Coverage",
    "Herding",
    "LastLayer",
    "Lazy",
    "Leaders",
    "Matching",
    "Naive",
    "OnTorch",
    "RandomRows",
    "Selection",
    "Selector",
    "Sieve",
    "Stochastic",
    "select_rows",
    "selectors",
    "space",
]
