"""Units on Ray actors: this machine's cores or a cluster; the object store carries the states. Needs the extra `ray`.

One actor is one worker, pinned to a node in turn, and partitions are pinned to workers: a node reads the same part in
every epoch. Data go into the object store once and are mapped by every actor of a node. A state travels as an object;
the study's folder on the driver keeps it as a file, so that a killed actor or node loses the unit at work and nothing
else: its worker begins again on a node that is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stepwell.core.errors import MissingExtraError
from stepwell.select.data import Source
from stepwell.select.executors import Executor, Lost, Message, written
from stepwell.select.runner import Runner
from stepwell.select.work import Outcome, Task, Work


def on_ray(
    workers: int, *, cpus: float = 1.0, gpus: float = 0.0, address: str = ""
) -> Callable[[Task, Source], Executor]:
    """Return what makes an executor of Ray actors, for `search(..., workers=on_ray(4))`.

    Args:
        workers: Actors.
        cpus: Cores of each.
        gpus: Devices of each; a fraction shares one.
        address: Of a cluster; empty starts Ray on this machine unless it runs already.

    Raises:
        MissingExtraError: If Ray is not installed.
    """
    try:
        import_module("ray")
    except ImportError as error:
        raise MissingExtraError("on_ray", "ray", "ray") from error
    return lambda task, source: RayActors(task, source, workers, cpus=cpus, gpus=gpus, address=address)


class RayActors:
    """Runs units on Ray actors.

    Args:
        task: What is the same for all units.
        source: The data.
        workers: Actors.
        cpus: Cores of each.
        gpus: Devices of each.
        address: Of a cluster, or empty.
    """

    def __init__(
        self, task: Task, source: Source, workers: int, *, cpus: float = 1.0, gpus: float = 0.0, address: str = ""
    ) -> None:
        ray: Any = import_module("ray")
        self._ray = ray
        self._owns = not ray.is_initialized()
        if self._owns:
            ray.init(address=address or None, include_dashboard=False, log_to_driver=False, configure_logging=False)
        self._kind: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_concurrency=1)(_Actor)
        self._homes: dict[int, str] = {}
        self._task = ray.put(task)
        self._source = ray.put(source)
        self._actors = [self._start(slot) for slot in range(min(workers, len(source.train_rows)))]
        self._held: list[deque[tuple[Any, Work]]] = [deque() for _ in self._actors]

    def _start(self, slot: int) -> Any:
        """Start a worker on the node that it had, or on the next one with a place for it."""
        affinity: Any = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        nodes = sorted(node["NodeID"] for node in self._ray.nodes() if node["Alive"])
        if self._homes.get(slot) not in nodes:
            self._homes[slot] = nodes[slot % len(nodes)]
        pinned = self._kind.options(scheduling_strategy=affinity(self._homes[slot], soft=True))
        return pinned.remote(self._task, self._source, slot)

    @property
    def homes(self) -> tuple[str, ...]:
        """The node of each worker, by slot: where it runs while that node lives and has room."""
        return tuple(self._homes[slot] for slot in range(len(self._actors)))

    @property
    def slots(self) -> int:
        """How many actors there are."""
        return len(self._actors)

    @property
    def depth(self) -> int:
        """One at work, one queued at the actor with its state already sent."""
        return 2

    @property
    def actors(self) -> Sequence[object]:
        """The actors' handles, by slot."""
        return self._actors

    def submit(self, slot: int, work: Work) -> None:
        states = tuple(state.read_bytes() if isinstance(state, Path) else state for state in work.states)
        sent = work._replace(states=states, writes=(None,) * len(states))
        self._held[slot].append((self._actors[slot].run.remote(sent), work))

    def wait(self, timeout_s: float) -> Sequence[Message]:
        slots = {held[0][0]: slot for slot, held in enumerate(self._held) if held}
        ready, _ = self._ray.wait(list(slots), num_returns=1, timeout=timeout_s)
        found: list[Message] = []
        for one in ready:
            found += self._hear(slots[one], one)
        return found

    def _hear(self, slot: int, ready: Any) -> list[Message]:
        try:
            outcome: Outcome = self._ray.get(ready)
        except (
            self._ray.exceptions.RayActorError,
            self._ray.exceptions.RayTaskError,
            self._ray.exceptions.ObjectLostError,
        ) as error:
            held, self._held[slot] = self._held[slot], deque()
            reason = f"its actor died ({type(error).__name__})"
            self._actors[slot] = self._start(slot)
            return [Lost(slot, work.unit, reason, place == 0) for place, (_, work) in enumerate(held)]
        _, work = self._held[slot].popleft()
        return [written(outcome, work)]

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._owns:
            self._ray.shutdown()


class _Actor:
    """A worker."""

    def __init__(self, task: Task, source: Source, slot: int) -> None:
        self._runner = Runner(task, source, slot)

    def run(self, work: Work) -> Outcome:
        return self._runner.run(work)
