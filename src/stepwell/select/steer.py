"""Commands to a study, from anywhere: one line each in a file of its folder, obeyed at the next unit boundary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from stepwell.core.errors import InvalidValueError
from stepwell.select.space import Params, Value

Verb = Literal["stop", "resume", "clone", "add"]
_VERBS = ("stop", "resume", "clone", "add")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        do: What to do.
        config: With which configuration; empty for `add`.
        params: What changes in a clone, or the parameters of a new configuration.
        warm: Whether a clone starts from its parent's weights and optimiser.
        epochs: Epochs to train to; 0 for the study's own.
    """

    do: Verb
    config: str = ""
    params: Params = field(default_factory=dict)
    warm: bool = True
    epochs: int = 0

    def __post_init__(self) -> None:
        if self.do not in _VERBS:
            raise InvalidValueError("do", self.do, f"one of {', '.join(_VERBS)}")
        if (self.do == "add") == bool(self.config):
            raise InvalidValueError("config", self.config, "a configuration's name, and none for add")

    def __str__(self) -> str:
        changes = ", ".join(f"{name}={value}" for name, value in self.params.items())
        return " ".join(part for part in (self.do, self.config, changes) if part)


def send(folder: Path, command: Command) -> None:
    """Append a command; safe while others do the same."""
    line = json.dumps(asdict(command)).encode() + b"\n"
    handle = os.open(folder / "commands.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def read_commands(folder: Path, known: int) -> list[Command]:
    """Return the commands behind the first `known` ones. Costs one look at the file's size if there are none."""
    path = folder / "commands.jsonl"
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return []
    if _seen.get(path) == (size, known):
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    found = [_command(json.loads(line)) for line in lines[known:]]
    _seen[path] = (size, len(lines))
    return found


_seen: dict[Path, tuple[int, int]] = {}


def _command(values: Mapping[str, object]) -> Command:
    return Command(**values)  # type: ignore[arg-type]


def parse_params(words: Mapping[str, str]) -> dict[str, Value]:
    """Return parameters given as text: JSON where it is JSON, text otherwise."""
    found: dict[str, Value] = {}
    for name, text in words.items():
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = value if isinstance(value, str | int | float | bool | None) else text
    return found
