"""Trains a tiny TGN in forked processes, kills them by SIGKILL and lets them resume. Run by test_resume.

Arguments: `FOLDER=STEP,STEP,...`, one a run: the steps at which it is killed before it may end. With `FOLDER+=...` all
that can have a state has one: a stage, kept embeddings, and node state out of core.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np
import torch

from stepwell.access import FixedBatches, Pipeline, Recent, UniformNegatives
from stepwell.access.tppr_stream import TPPRStream
from stepwell.buffer.lru import LRU
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core import Cost
from stepwell.evaluate import Evaluation, p1
from stepwell.nn import TGN, OutOfCore, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig, link_loss


class Reporter:
    """Writes one byte a step into a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_batch(self, state, batch):
        os.write(self.pipe, bytes([state.step]))

    def on_epoch(self, state, epoch):
        pass


class Ranks:
    """A stage with a state of its own: T-PPR lists that follow the batches handed out, and rank their candidates."""

    needs, gives = frozenset({"src", "dst", "time", "candidate"}), frozenset({"rank"})
    reads = writes = frozenset({"lists"})
    accuracy = "same"

    def __init__(self):
        self.stream = TPPRStream(k=3)
        self.save, self.load = self.stream.save, self.stream.load

    def __call__(self, batch):
        if batch.slice.index == 0:
            self.stream.forget()
        ends = (batch.array(name).astype(np.int64) for name in ("src", "dst", "time", "candidate"))
        return batch.give(rank=self.stream.score_then_observe(*ends).astype(np.float32))

    def cost(self, stats, machine):
        return Cost(rows=stats.num_rows)


def ranked_loss(model, batch):
    return link_loss(model, batch) + (batch.tensor("rank") * model.score(batch)).mean()


def train(folder, pipe, everything):
    torch.manual_seed(11)
    draw = np.random.default_rng(0)
    src = draw.integers(0, 10, 260)
    dst = 10 + (src + draw.integers(0, 3, 260)) % 10
    log = EventLog.from_arrays(src, dst, np.sort(draw.integers(0, 500, 260)), features=draw.normal(size=(260, 3)))
    split = log.split()
    hops, store = (2, OutOfCore(f"{folder}/state", LRU(memory=300))) if everything else (1, None)
    settings = TGNSettings(memory_dim=8, time_dim=4, dim=8, k=4, dropout=0.3, hops=hops)
    model = TGN(log.num_nodes, 3, settings=settings, store=store)

    def pipeline(view, seed, reuse=None, stages=()):
        options = {"negatives": UniformNegatives(1), "sampler": Recent(4), "hops": hops, "hop_time": "root"}
        return Pipeline(view, FixedBatches(20), reuse=reuse, stages=stages, seed=seed, **options)

    loop = Loop(
        model,
        pipeline(split.train, 1, EmbeddingReuse(rows=5), [Ranks()]) if everything else pipeline(split.train, 1),
        LoopConfig(epochs=3, learning_rate=0.01, save_every=3, patience=None),
        Evaluation(pipeline(split.validation, 2), p1("validation")),
        folder,
        ranked_loss if everything else link_loss,
    )
    loop.fit(resume=True, callbacks=[Reporter(pipe)])


def run(folder, everything, kill_at=None):
    """Train in a process of its own, kill it within a step or a write after `kill_at`; return its status."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        train(folder, writer, everything)
        os._exit(0)
    os.close(writer)
    while step := os.read(reader, 1):
        if kill_at is not None and step[0] >= kill_at:
            time.sleep(random.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            break
    os.close(reader)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(runs):
    torch.set_num_threads(1)
    for text in runs:
        folder, _, kills = text.partition("=")
        everything, folder = folder.endswith("+"), folder.rstrip("+")
        for kill_at in filter(None, kills.split(",")):
            status = run(folder, everything, int(kill_at))
            if status != -signal.SIGKILL:
                sys.exit(f"a run to be killed at {kill_at} ended with {status}")
        if run(folder, everything) != 0:
            sys.exit(f"{text} failed")


if __name__ == "__main__":
    main(sys.argv[1:])
