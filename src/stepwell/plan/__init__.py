"""The planner: what a log is like, what this machine can do, and which pipeline is best for a model on both.

The package can be called: `sw.plan(log, "tgn", memory="2GiB")` is `stepwell.plan.plan(...)`.
"""

import sys
from types import ModuleType

from stepwell.plan.answer import Alternative, Plan
from stepwell.plan.ask import plan
from stepwell.plan.machine import calibrate, machine
from stepwell.plan.options import Setting
from stepwell.plan.predict import Miss, largest_miss
from stepwell.plan.statistics import describe, duplicates

__all__ = [
    "Alternative",
    "Miss",
    "Plan",
    "Setting",
    "calibrate",
    "describe",
    "duplicates",
    "largest_miss",
    "machine",
    "plan",
]


class _Planner(ModuleType):
    """A package that answers when it is called."""

    __call__ = staticmethod(plan)


sys.modules[__name__].__class__ = _Planner
