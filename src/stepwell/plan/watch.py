"""Watch a training loop: the time of its steps apart from that of its batches, and how stale what it reuses is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import torch

from stepwell.access import Pipeline
from stepwell.core import Batch, Cost
from stepwell.core.shapes import Model
from stepwell.core.state import StateReader, StateWriter
from stepwell.nn.staleness import Staleness, StalenessMeter, meter_for
from stepwell.train import Loop, LoopConfig


class Watched:
    """The batches of a pipeline, with a clock that runs while the loop is busy with one.

    Args:
        pipeline: Gives the batches.
        meter: Samples the staleness of reused embeddings, outside the clock; None: nobody does.
    """

    def __init__(self, pipeline: Pipeline, meter: StalenessMeter | None = None) -> None:
        self.pipeline, self.meter = pipeline, meter
        self.step_s = 0.0
        self.num_batches = 0

    def __len__(self) -> int:
        return len(self.pipeline)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; the clock starts anew."""
        self.step_s, self.num_batches = 0.0, 0
        if self.meter is not None:
            self.meter.clear()
        for batch in self.pipeline.epoch(epoch, start):
            if self.meter is not None:
                self.meter.see(batch)
            begin = time.perf_counter()
            yield batch
            self.step_s += time.perf_counter() - begin
            self.num_batches += 1

    def save(self, writer: StateWriter) -> None:
        """Record where the pipeline stands, and what its stages know."""
        self.pipeline.save(writer)

    def load(self, reader: StateReader) -> None:
        """Return the pipeline to where it stood."""
        self.pipeline.load(reader)

    @property
    def staleness(self) -> Staleness | None:
        """How stale what the latest epoch reused was, so far; None if nothing was sampled."""
        return None if self.meter is None else self.meter.report()

    @property
    def step(self) -> Cost:
        """What the steps of the latest epoch took so far."""
        return Cost(seconds=self.step_s, calls=self.num_batches)

    def train(self, model: Model, *, graphed: bool = False) -> tuple[Cost, Cost]:
        """Train a model for one epoch from no state; return the cost of the whole and of the steps.

        The model changes: give a copy. One batch is learnt beforehand, so that nothing is measured that happens once a
        process.
        """
        self.meter = meter_for(model, self.pipeline.stages)
        cast("torch.nn.Module", model).train()
        loop = Loop(model, self, LoopConfig(graphed=graphed))
        with torch.random.fork_rng():
            for batch in self.epoch(0):
                loop.step(batch)
                break
            model.forget()
            wall, core, events = time.perf_counter(), time.process_time(), 0
            for batch in self.epoch(0):
                loop.step(batch)
                events += len(batch)
        seconds, core_s = time.perf_counter() - wall, time.process_time() - core
        return Cost(float(events), None, seconds, calls=self.num_batches, core_s=core_s), self.step
