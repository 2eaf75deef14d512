"""The training loop, and everything that a killed run needs to continue with the same bits."""

from stepwell.train.config import LoopConfig
from stepwell.train.loop import Batches, Callback, Loop, Result
from stepwell.train.losses import DivergedError, link_loss
from stepwell.train.state import Epoch, State, load_model, save_model

__all__ = [
    "Batches",
    "Callback",
    "DivergedError",
    "Epoch",
    "Loop",
    "LoopConfig",
    "Result",
    "State",
    "link_loss",
    "load_model",
    "save_model",
]
