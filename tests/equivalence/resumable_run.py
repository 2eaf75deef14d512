"""Trains a tiny TGN in forked processes, kills them by SIGKILL and lets them resume. Run by test_resume.

Arguments: `FOLDER=STEP,STEP,...`, one a run: the steps at which it is killed before it may end.
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
from stepwell.evaluate import Evaluation, p1
from stepwell.nn import TGN, TGNSettings
from stepwell.storage import EventLog
from stepwell.train import Loop, LoopConfig


class Reporter:
    """Writes one byte a step into a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_batch(self, state, batch):
        os.write(self.pipe, bytes([state.step]))

    def on_epoch(self, state, epoch):
        pass


def train(folder, pipe):
    torch.manual_seed(11)
    draw = np.random.default_rng(0)
    src = draw.integers(0, 10, 260)
    dst = 10 + (src + draw.integers(0, 3, 260)) % 10
    log = EventLog.from_arrays(src, dst, np.sort(draw.integers(0, 500, 260)), features=draw.normal(size=(260, 3)))
    split = log.split()
    model = TGN(log.num_nodes, 3, settings=TGNSettings(memory_dim=8, time_dim=4, dim=8, k=4, dropout=0.3))

    def pipeline(view, seed):
        return Pipeline(view, FixedBatches(20), negatives=UniformNegatives(1), sampler=Recent(4), seed=seed)

    loop = Loop(
        model,
        pipeline(split.train, 1),
        LoopConfig(epochs=3, learning_rate=0.01, save_every=3, patience=None),
        Evaluation(pipeline(split.validation, 2), p1("validation")),
        folder,
    )
    loop.fit(resume=True, callbacks=[Reporter(pipe)])


def run(folder, kill_at=None):
    """Train in a process of its own, kill it within a step or a write after `kill_at`; return its status."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        train(folder, writer)
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
        for kill_at in filter(None, kills.split(",")):
            status = run(folder, int(kill_at))
            if status != -signal.SIGKILL:
                sys.exit(f"a run to be killed at {kill_at} ended with {status}")
        if run(folder) != 0:
            sys.exit(f"{text} failed")


if __name__ == "__main__":
    main(sys.argv[1:])
