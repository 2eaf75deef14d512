"""Logging: one logger a module, no handler of our own, nothing printed by the library."""

from __future__ import annotations

import logging


def logger(name: str) -> logging.Logger:
    """Return the logger of a module; pass `__name__`."""
    return logging.getLogger(name)


logging.getLogger("stepwell").addHandler(logging.NullHandler())
