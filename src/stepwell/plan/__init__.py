"""The planner's ground: the calibrated profile of this machine, which stages turn into predicted seconds."""

from stepwell.plan.machine import calibrate, machine

__all__ = ["calibrate", "machine"]
