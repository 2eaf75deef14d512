"""What may stand at each place of a training pipeline: the candidates, taken from the registries.

A place is filled by an `Option`: a name, the object, and how exact training stays with it. The first option of a place
is what a user without a planner would have. Whoever registers a batcher, sampler or policy is considered too, if it can
be built from what a plan knows (a size, a number of neighbours, a budget); others are pinned by the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Generic, Literal, TypeVar, cast, get_args

from stepwell.access import FixedBatches, Recent, UniformNegatives, samplers
from stepwell.access.batches import batchers
from stepwell.access.negatives import Negatives
from stepwell.access.neighbors import AsOf, HopTime, KeyedBy
from stepwell.buffer.policy import Policy, policies
from stepwell.buffer.reuse import EmbeddingReuse
from stepwell.core.errors import InvalidValueError, StepwellError
from stepwell.core.shapes import Accuracy, Batcher, Sampler

T = TypeVar("T")
Asked = Literal["exact", "bounded", "changed"]
PREFETCH = (2, 1, 4, 0)
_ALLOWED: dict[Asked, frozenset[Accuracy]] = {
    "exact": frozenset({"same"}),
    "bounded": frozenset({"same", "bounded"}),
    "changed": frozenset({"same", "bounded", "changed"}),
}


@dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """One way to fill a place of the pipeline.

    Args:
        name: What it is called, as in the registry.
        value: The object; None where the place stays empty.
        accuracy: What it does to the training's values.
        pinned: Whether the user chose it.
    """

    name: str
    value: T
    accuracy: Accuracy = "same"
    pinned: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Setting:
    """What of a training is given and not planned: it decides what is learnt.

    Args:
        hops: Levels of neighbours.
        k: Events a query.
        as_of: What a query sees.
        hop_time: When a neighbour is asked in turn.
        keyed_by: What is a distinct target.
        negatives: Who stands beside the true destination.
        batch_size: Events a batch; adaptive batches lose no more updates than fixed ones of this size.
        seed: Keys negatives and samplers.
        device: Where the model runs.
    """

    hops: int = 1
    k: int = 10
    as_of: AsOf = "event"
    hop_time: HopTime = "edge"
    keyed_by: KeyedBy = "node_time"
    negatives: Negatives = field(default_factory=UniformNegatives)
    batch_size: int = 200
    seed: int = 0
    device: str = "cpu"


def allowed(options: Iterable[Option[T]], accuracy: Asked) -> tuple[Option[T], ...]:
    """Return the options that keep an accuracy; what the user pinned stays in any case.

    Raises:
        InvalidValueError: If there is no such accuracy.
    """
    if accuracy not in get_args(Asked):
        raise InvalidValueError("accuracy", accuracy, "'exact', 'bounded' or 'changed'")
    return tuple(option for option in options if option.pinned or option.accuracy in _ALLOWED[accuracy])


def batch_options(pin: Batcher | str | None, setting: Setting) -> tuple[Option[Batcher], ...]:
    """Return the batchers: fixed, and all that can be built like fixed batches of the setting's size."""
    if pin is not None and not isinstance(pin, str):
        return (Option(_name(pin, dict(_classes(batchers))), pin, _accuracy(pin), pinned=True),)
    found = []
    for name, kind in _classes(batchers):
        made = FixedBatches(setting.batch_size) if name == "fixed" else _built(kind, like=setting.batch_size)
        if made is not None:
            found.append(Option(name, cast("Batcher", made), _accuracy(made)))
    return _chosen("batches", found, pin, "fixed")


def sampler_options(pin: Sampler | str | None, setting: Setting) -> tuple[Option[Sampler], ...]:
    """Return the samplers: the newest events, and those that declare how near they come to a full neighbourhood.

    One that declares nothing (uniform, a window) makes another model of the same weights, not another plan of this one;
    it is taken only if it is named.
    """
    if pin is not None and not isinstance(pin, str):
        return (Option(_name(pin, dict(_classes(samplers))), pin, "same", pinned=True),)
    found = []
    for name, kind in _classes(samplers):
        made = Recent(setting.k) if name == "recent" else _built(kind, k=setting.k)
        if made is not None and (name in ("recent", pin) or hasattr(made, "accuracy")):
            accuracy = "same" if name == "recent" else cast("Accuracy", getattr(made, "accuracy", "changed"))
            found.append(Option(name, cast("Sampler", made), accuracy))
    return _chosen("sampler", found, pin, "recent")


def reuse_options(pin: EmbeddingReuse | str | None, *, possible: bool) -> tuple[Option[EmbeddingReuse | None], ...]:
    """Return no reuse of embeddings and, where it is possible, reuse by the optimal plan.

    Args:
        pin: The user's choice: an object, the name of a policy, or `"none"` for none.
        possible: Whether the model has a layer below its last, and reads what is kept of it.

    Raises:
        InvalidValueError: If reuse is pinned where it is not possible, or there is no such policy.
    """
    if pin not in (None, "none") and not possible:
        raise InvalidValueError("reuse", pin, "none, or a model of at least two hops that reuses (TGN, TGAT)")
    if isinstance(pin, EmbeddingReuse):
        return (Option(pin.policy, pin, _of_reuse(pin), pinned=True),)
    found: list[Option[EmbeddingReuse | None]] = [Option("none", None)]
    for name in policies if pin is not None else ["mrd"] if possible else []:
        made = EmbeddingReuse(policy=name)
        found.append(Option(name, made, _of_reuse(made)))
    return _chosen("reuse", found, pin, "none")


def _of_reuse(reuse: EmbeddingReuse) -> Accuracy:
    return "bounded" if reuse.causal else "changed"


def placement_options(pin: Policy | str | None, budget_bytes: int | None) -> tuple[Option[Policy | None], ...]:
    """Return the policies of a budget, after none at all.

    Args:
        pin: The user's choice, `"none"` for none.
        budget_bytes: What is left for rows, or None if all of them fit.
    """
    none: Option[Policy | None] = Option("none", None)
    if pin is not None and not isinstance(pin, str):
        return (Option(_name(pin, dict(_classes(policies))), pin, pinned=True),)
    found = [none]
    if budget_bytes is not None or pin not in (None, "none"):
        for name, kind in _classes(policies):
            made = _built(kind, memory=max(budget_bytes or 0, 1))
            if made is not None:
                found.append(Option(name, cast("Policy", made)))
    return _chosen("placement", found, pin, "none")


def prefetch_options(pin: int | None) -> tuple[Option[int], ...]:
    """Return depths of prefetch."""
    if pin is not None:
        return (Option(str(pin), pin, pinned=True),)
    return tuple(Option(str(depth), depth) for depth in PREFETCH)


def step_options(pin: str | None, setting: Setting, *, moves_state: bool) -> tuple[Option[bool], ...]:
    """Return eager steps and, on a CUDA device, steps replayed as CUDA graphs.

    Args:
        pin: `"eager"` or `"graphed"`.
        setting: Where the model runs.
        moves_state: Whether the state may be out of core: then steps wait for the host, and no graph can be recorded.

    Raises:
        InvalidValueError: If another name is given, or graphs are pinned where there can be none.
    """
    eager, graphed = Option("eager", value=False), Option("graphed", value=True)
    possible = setting.device.startswith("cuda") and not moves_state
    if pin == "graphed" and not possible:
        raise InvalidValueError("steps", pin, "'eager' without a CUDA device, or with node state out of core")
    return _chosen("steps", [eager, graphed] if possible else [eager], pin, "eager")


def _chosen(place: str, found: list[Option[T]], pin: str | None, first: str) -> tuple[Option[T], ...]:
    if pin is None:
        return tuple(sorted(found, key=lambda option: option.name != first))
    known = {option.name: option for option in found}
    if pin not in known:
        raise InvalidValueError(place, pin, f"one of {', '.join(sorted(known))}, or an object built by you")
    chosen = known[pin]
    return (Option(chosen.name, chosen.value, chosen.accuracy, pinned=True),)


def _classes(registry: Iterable[str]) -> list[tuple[str, Callable[..., object]]]:
    return [(name, registry[name]) for name in registry]  # type: ignore[index]


def _built(kind: Callable[..., object], **known: object) -> object | None:
    """Return an object built from what is known, or with its own defaults, or None if it wants to know more."""
    names = {field.name for field in fields(kind)} if hasattr(kind, "__dataclass_fields__") else set()  # type: ignore[arg-type]
    for given in ({name: value for name, value in known.items() if name in names}, {}):
        try:
            return kind(**given)
        except (TypeError, StepwellError):
            continue
    return None


def _accuracy(value: object) -> Accuracy:
    return cast("Accuracy", getattr(value, "accuracy", "same"))


def _name(value: object, known: dict[str, Callable[..., object]]) -> str:
    return next((name for name, kind in known.items() if kind is type(value)), type(value).__name__)
