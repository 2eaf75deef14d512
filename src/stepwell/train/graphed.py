"""Training steps as CUDA graphs: a whole step is one launch.

A step on small batches starts hundreds of kernels, each shorter than its launch. A graph of them is recorded once and
replayed. It reads the batch from buffers that never move, so batches are padded to a room that grows in powers of two
(`train.padding`), and there is one graph for each outline of a batch, which in most runs means one for each batch size.

The first steps in a new room are real steps, made eagerly on the padded batch: they compile the kernels, make the
optimiser's state, and show whether the model waits for the device, which no graph can.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import torch

from stepwell.core.batch import Batch
from stepwell.core.errors import InvalidValueError
from stepwell.core.log import logger
from stepwell.train.padding import Outline, Room, outline, pad_batch, refill

_log = logger(__name__)

_WARM_UP = 3
"""Eager steps before a graph is recorded."""
_WAIT = "synchronizing CUDA operation"
"""What torch calls a wait for the device when it warns of one."""
_GRAPHS = 8
"""Outlines with a graph; batches of further ones are learnt eagerly."""


@dataclass(slots=True)
class _Recorded:
    """The buffers of one outline; the graph that reads them, and its loss, once there is one."""

    room: Room
    buffers: Batch
    steps: int = 0
    addresses: tuple[int, ...] = ()
    graph: tuple[torch.cuda.CUDAGraph, torch.Tensor] | None = None


class GraphedStep:
    """Learns batches by replaying graphs; leaves to the caller what it cannot.

    Guarantee: a step computes what an eager step computes, on the batch padded: the same up to rounding (dropout draws
    other numbers). Nothing is executed twice, and what cannot be recorded is learnt eagerly, with the reason logged.

    The model must keep all that changes in parameters and buffers, and change them in place. A model that puts another
    tensor into a buffer is noticed; one that counts batches in a Python variable is not. Gradients are not left in
    `.grad`.

    Args:
        gradients: Learns a batch up to the optimiser's step, and returns its loss.
        model: The model, on its device.
        optimizer: The optimiser, with `capturable=True`.

    Cost:
        A graph keeps the memory of one step. A replay copies the batch to its buffers and looks at the addresses of all
        tensors, some microseconds.
    """

    def __init__(
        self,
        gradients: Callable[[Batch], torch.Tensor],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._gradients, self._model, self._optimizer = gradients, model, optimizer
        self._device = next(iter(model.parameters())).device
        self._recorded: dict[Outline, _Recorded] = {}
        self._reason = ""
        if self._device.type != "cuda":
            self._give_up(f"the model is on {self._device}, not on a CUDA device")
            return
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def reason(self) -> str:
        """Why steps are eager from now on; empty while graphs are used."""
        return self._reason

    def __call__(self, batch: Batch) -> torch.Tensor | None:
        """Learn a batch, optimiser's step included, and return its loss; None if the caller must learn it eagerly."""
        if self._reason:
            return None
        recorded = self._place(batch)
        return None if recorded is None else self._step(recorded)

    def _place(self, batch: Batch) -> _Recorded | None:
        """Put a batch into the buffers of its outline, new ones if they are too small."""
        try:
            kind, needed = outline(batch), Room.of(batch)
        except InvalidValueError as error:
            self._give_up(str(error))
            return None
        found = self._recorded.get(kind)
        if found is not None and found.room.holds(needed):
            refill(found.buffers, batch)
            return found
        if found is None and len(self._recorded) >= _GRAPHS:
            return None
        if found is not None:
            torch.cuda.synchronize(self._device)  # the graph that is dropped may still run
        room = (Room() if found is None else found.room).grown(needed)
        self._recorded[kind] = made = _Recorded(room, pad_batch(batch, room, self._device))
        if len(self._recorded) == _GRAPHS:
            _log.info("%d kinds of batches have a graph; batches of other sizes are learnt eagerly", _GRAPHS)
        return made

    def _step(self, recorded: _Recorded) -> torch.Tensor | None:
        if recorded.addresses != self._addresses():
            recorded.steps, recorded.graph = 0, None
        if recorded.steps < _WARM_UP:
            loss = self._warm_up(recorded.buffers)
        else:
            recorded.graph = recorded.graph or self._record(recorded.buffers)
            if recorded.graph is None:
                return None
            graph, kept = recorded.graph
            graph.replay()
            loss = kept.clone()
        recorded.steps += 1
        recorded.addresses = self._addresses()
        return loss

    def _learn(self, buffers: Batch) -> torch.Tensor:
        loss = self._gradients(buffers).detach()
        self._optimizer.step()
        return loss

    def _warm_up(self, buffers: Batch) -> torch.Tensor:
        """Make a real step on the stream that will record, and watch what it does."""
        before = [tensor.data_ptr() for tensor in self._tensors()]
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), _watched() as waits:
            loss = self._learn(buffers)
        current.wait_stream(self._stream)
        loss.record_stream(current)
        self._optimizer.zero_grad(set_to_none=True)
        if waits:
            self._give_up(f"the step waits for the device ({waits[0]})")
        elif before != [tensor.data_ptr() for tensor in self._tensors()]:
            self._give_up("the model replaces its tensors instead of changing them in place")
        return loss

    def _record(self, buffers: Batch) -> tuple[torch.cuda.CUDAGraph, torch.Tensor] | None:
        """Record a step without executing it; None if that fails."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                loss = self._learn(buffers)
        except RuntimeError as error:
            self._give_up(f"the step cannot be recorded ({error})")
            return None
        finally:
            self._optimizer.zero_grad(set_to_none=True)
        return graph, loss

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self._model.parameters()
        yield from self._model.buffers()

    def _addresses(self) -> tuple[int, ...]:
        """Return where all lies that a graph reads and writes besides the batch."""
        state = (value for entry in self._optimizer.state.values() for value in entry.values())
        tensors = (*self._tensors(), *(value for value in state if isinstance(value, torch.Tensor)))
        return tuple(tensor.data_ptr() for tensor in tensors)

    def _give_up(self, reason: str) -> None:
        self._reason = reason
        self._recorded.clear()
        _log.warning("training steps are not graphed: %s", reason)


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Note each wait for the device in the block, on whatever thread."""
    waits: list[str] = []
    mode, show = torch.cuda.get_sync_debug_mode(), warnings.showwarning

    def note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if _WAIT in str(message):
            waits.append(f"at {filename}:{lineno}")
        else:
            show(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{_WAIT}")
        warnings.filterwarnings("ignore", message=".*Synchronization debug mode is a prototype")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
