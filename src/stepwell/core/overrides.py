"""Change one setting deep inside a frozen configuration by its path, as text: `loop.epochs=5`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stepwell.core.errors import InvalidValueError, UnknownNameError

T = TypeVar("T")


def override(config: T, assignments: Iterable[str]) -> T:
    """Return `config` with each `path=value` applied, checked against the field's declared type.

    Raises:
        UnknownNameError: If a path names no field; says what is near.
        InvalidValueError: If a value does not fit its field's type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Loop:
        ...     epochs: int = 1
        >>> override(Loop(), ["epochs=5"])
        Loop(epochs=5)
    """
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep:
            raise InvalidValueError("--set", assignment, "path=value, as in loop.epochs=5")
        config = _apply(config, path.strip().split("."), text.strip(), path.strip())
    return config


def paths(config: object, prefix: str = "") -> dict[str, object]:
    """Return every settable path of a configuration with its present value."""
    found: dict[str, object] = {}
    if is_dataclass(config):
        for field in fields(config):
            value = getattr(config, field.name)
            if is_dataclass(value):
                found |= paths(value, f"{prefix}{field.name}.")
            else:
                found[prefix + field.name] = value
    return found


def _apply(config: T, parts: list[str], text: str, path: str) -> T:
    if not is_dataclass(config) or isinstance(config, type):
        raise UnknownNameError("setting", path, [])
    names = [field.name for field in fields(config)]
    if parts[0] not in names:
        known = list(paths(config)) if len(parts) > 1 else names
        raise UnknownNameError("setting", path if len(parts) > 1 else parts[0], known)
    if len(parts) > 1:
        value: object = _apply(getattr(config, parts[0]), parts[1:], text, path)
    else:
        value = _parse(text, get_type_hints(type(config))[parts[0]], path)
    return replace(config, **{parts[0]: value})


def _parse(text: str, kind: object, path: str) -> object:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        options = get_args(kind)
        if NoneType in options and text.lower() in ("none", "null", ""):
            return None
        for option in options:
            if option is not NoneType:
                try:
                    return _parse(text, option, path)
                except InvalidValueError:
                    continue
        raise InvalidValueError(path, text, f"one of {options}")
    if origin is Literal:
        if text not in get_args(kind):
            raise InvalidValueError(path, text, f"one of {', '.join(map(str, get_args(kind)))}")
        return text
    if origin is tuple:
        inner = get_args(kind)[0]
        items = json.loads(text) if text.startswith("[") else [t for t in text.split(",") if t]
        return tuple(_parse(str(item), inner, path) for item in items)
    return _scalar(text, kind, path)


def _scalar(text: str, kind: object, path: str) -> object:
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise InvalidValueError(path, text, "true or false")
        return text.lower() in ("true", "1", "yes")
    for known, words in ((int, "a whole number"), (float, "a number")):
        if kind is known:
            try:
                return known(text)
            except ValueError:
                raise InvalidValueError(path, text, words) from None
    return text
