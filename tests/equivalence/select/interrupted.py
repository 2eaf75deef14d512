"""Run a study; the test kills this process with signal 9 somewhere in it. Arguments: folder, searcher, workers."""

import sys

from stepwell.select.searching import StudySettings, search
from stepwell.select.space import Uniform
from tests.equivalence.select import selected


def run(folder, searcher, workers=1, watchers=()):
    return search(
        {"lr": Uniform(0.003, 0.5, log=True), "width": [8, 12]},
        selected.data(),
        selected.with_adam,
        epochs=4,
        searcher=searcher,
        configs=None if searcher == "hyperband" else 8,
        folder=folder,
        workers=workers,
        settings=StudySettings(partitions=2, slices=2, batch_size=32, seed=3, at_once=5),
        watchers=watchers,
    )


class Killer:
    """Kills its own process after some events."""

    def __init__(self, after):
        self.left = after

    def hear(self, records, event):
        import os
        import signal

        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def close(self, records):
        pass


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]), [Killer(int(sys.argv[4]))])
