"""Where node state lies, in host memory or out of core, and what the second costs: counted over the epoch.

State is moved only where it does not fit: out of core no step gets faster. Which of its rows a batch touches follows
from the batches alone, so hits and reads are counted, under every policy that needs no foresight, not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import cast

import torch

from stepwell.buffer.policy import Policy, policies
from stepwell.buffer.simulate import simulate
from stepwell.buffer.trace import Trace
from stepwell.core import Batch, Cost, Machine, PlanNode
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.nn.stored_rows import Movable
from stepwell.plan.options import Option
from stepwell.storage.units import to_bytes

STATE = "Node state"
BESIDE_BYTES = 40
"""Bytes a node that stay in host memory when its state is out of core: bookkeeping, and partners of messages."""
_PAGE = 4096


def memory_of(model: object) -> Movable | None:
    """Return the node state (memory, mail) of a model that can keep it out of core; None if it has none, or cannot."""
    if not isinstance(model, torch.nn.Module) or "store" not in signature(type(model).__init__).parameters:
        return None
    return next((part for part in model.modules() if isinstance(part, Movable)), None)


def state_options(
    pin: Policy | str | None, memory: Movable | None, room_bytes: int | None
) -> tuple[Option[Policy | None], ...]:
    """Return host memory, or the policies of state out of core where it does not fit there.

    Args:
        pin: The user's choice: a policy, its name, or `"host"`.
        memory: The model's node state, None if it cannot be elsewhere.
        room_bytes: Bytes for its rows if it must go out of core; None if it fits.

    Raises:
        InvalidValueError: If a policy is pinned for a model whose state stays in host memory, or it needs foresight.
        UnknownNameError: If there is no policy of that name.
    """
    if memory is not None and memory.stored is not None:
        kept = memory.stored.policy
        return (Option(_name(kept), kept, pinned=True),)
    host: Option[Policy | None] = Option("host", None, pinned=pin == "host")
    if pin == "host" or (pin is None and (room_bytes is None or memory is None)):
        return (host,)
    if memory is None:
        raise InvalidValueError("state", pin, "'host', or a model whose node state can be stored (TGN, APAN, ...)")
    budget = max(1, room_bytes or memory.core_bytes)
    if isinstance(pin, str) or pin is None:
        found = [_built(name, budget) for name in policies if pin in (None, name)]
        if not found:
            raise UnknownNameError("policy", str(pin), policies)
        kept_options = [Option(_name(one), one, pinned=pin is not None) for one in found if not one.foresight]
    else:
        kept_options = [] if pin.foresight else [Option(_name(pin), pin, pinned=True)]
    if not kept_options:
        raise InvalidValueError("state", str(pin), "a policy without foresight, such as 'lru'")
    return tuple(sorted(kept_options, key=lambda option: option.name != "lru"))  # type: ignore[arg-type]


def traced(batches: Iterable[Batch], memory: Movable) -> Trace:
    """Return which rows of the state some batches touch."""
    return memory.trace(batches)


def state_cost(policy: Policy, trace: Trace, machine: Machine, times: float) -> PlanNode:
    """Return the line of a plan for state out of core.

    Args:
        policy: Who stays in host memory, and in how many bytes.
        trace: What batches touch.
        machine: The measured rates.
        times: Epochs that the trace stands for.
    """
    capacity = min(trace.num_rows, _bytes(policy) // trace.row_bytes)
    found = simulate(policy, trace, capacity)
    pages = max(1.0, trace.row_bytes / _PAGE)
    seconds = (found.misses * pages / machine.random_reads_per_s) + found.written_bytes / machine.read_bytes_per_s
    moved = Cost(float(found.misses), float(found.moved_bytes), seconds, found.hit_rate) * times
    return PlanNode(STATE, f"out of core, {_bytes(policy):,} bytes in host memory by {_name(policy)}", moved)


def measured_state(model: object) -> dict[str, Cost]:
    """Return what state out of core has moved so far, by the name of the node; nothing for state in host memory."""
    memory = memory_of(model)
    if memory is None or memory.stored is None:
        return {}
    done = memory.stored.traffic
    hit_rate = done.hits / max(1, done.hits + done.misses)
    return {STATE: Cost(float(done.misses), float(done.read_bytes + done.written_bytes), None, hit_rate)}


def needed_bytes(model: torch.nn.Module, memory: Movable | None) -> tuple[int, int]:
    """Return the bytes of a model's weights and other buffers, and those of node state that can go out of core."""
    every = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    state = 0 if memory is None else memory.core_bytes
    return every - state, state


def _built(name: str, budget: int) -> Policy:
    made = cast("Callable[..., Policy]", policies[name])
    return made(memory=budget)


def _bytes(policy: Policy) -> int:
    return to_bytes(policy.memory, "memory")


def _name(policy: Policy) -> str:
    return next((name for name in policies if policies[name] is type(policy)), type(policy).__name__)
