"""How a recipe is named on the command line: by its name in a registry, or as module:function of one's own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import TypeVar, cast

from stepwell.core.errors import UnknownNameError
from stepwell.core.registry import Registry

T = TypeVar("T")


def recipe_of(name: str, known: Registry[Callable[[], T]]) -> Callable[[], T]:
    """Return a registered recipe, or `module:function`, found from the current folder too.

    Raises:
        UnknownNameError: If there is no such recipe, or the module or the function is not there.
    """
    return cast("Callable[[], T]", function_of(name, known.kind, known)) if ":" in name else known[name]


def function_of(name: str, kind: str, known: Iterable[str]) -> Callable[[], object]:
    """Return the function that `module:function` names; the module may lie in the current folder.

    Args:
        name: As written.
        kind: What it should be, for the message.
        known: What could be written instead, for the message.

    Raises:
        UnknownNameError: If the module or the function is not there.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Callable[[], object] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(kind, f"{name} ({error})", known) from error
    return found


def recipe_list(known: Registry[Callable[[], T]]) -> str:
    """Return one line a recipe: its name and the first line of its docstring."""
    return "\n".join(f"{name:<28} {(known[name].__doc__ or '').strip().splitlines()[0]}" for name in known)
