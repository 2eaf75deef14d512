"""What a step's result depends on, as one text: parameters, the code of user functions, versions of tables.

Two steps with equal fingerprints give equal results on equal input, so the second one is taken from the cache. Code
counts by its instructions and constants, not by its comments; functions that it calls count too, as long as they are
the user's own. A change of the engine that a step runs on counts as well.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType

import numpy as np
import pyarrow as pa

from stepwell.core.errors import InvalidValueError
from stepwell.storage import Table


def fingerprint(*parts: object) -> str:
    """Return 32 hexadecimal digits that stand for the parts.

    Raises:
        InvalidValueError: If a part has no content that could be written down (an open file, a generator).
    """
    text = json.dumps([canonical(part) for part in parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def canonical(value: object, seen: frozenset[int] = frozenset()) -> object:
    """Return a value as JSON that is equal for equal meaning."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return ["float", value.hex()]
    if id(value) in seen:
        return ["again"]
    seen = seen | {id(value)}
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value, seen)
    return _of_object(value, seen)


def package_code(*engines: str) -> str:
    """Return the digest of the code that a step runs on: this package's own modules and those of the named engines.

    Args:
        engines: Folders of this package, such as `"link"`.
    """
    return _package_code(engines)


@functools.cache
def _package_code(engines: tuple[str, ...]) -> str:
    root = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*root.glob("*.py"), *(path for name in engines for path in (root / name).rglob("*.py"))]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_own(module: str) -> bool:
    """Say whether a module is the user's: not of this package, the standard library or an installed one."""
    top = module.split(".")[0]
    if top == "__main__":
        return True
    if top in ("stepwell", "builtins") or top in sys.stdlib_module_names:
        return False
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return not any(path.startswith(folder) for folder in _installed() if folder)


@functools.cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return (paths["purelib"], paths["platlib"], paths["stdlib"])


def _of_function(function: FunctionType, seen: frozenset[int]) -> object:
    if not _is_own(function.__module__ or "__main__"):
        return ["function", function.__module__, function.__qualname__]
    names = _names(function.__code__)
    used = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
    cells = [_content(cell) for cell in function.__closure__ or ()]
    return [
        "code",
        _of_code(function.__code__, seen),
        canonical(function.__defaults__, seen),
        canonical(function.__kwdefaults__, seen),
        [canonical(cell, seen) for cell in cells],
        {name: canonical(value, seen) for name, value in used.items()},
    ]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _names(code: CodeType) -> set[str]:
    inner = [_names(const) for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*inner)


def _of_code(code: CodeType, seen: frozenset[int]) -> object:
    consts = [_of_code(c, seen) if isinstance(c, CodeType) else canonical(c, seen) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), consts]


def _of_class(kind: type, seen: frozenset[int]) -> object:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if not _is_own(kind.__module__):
        return ["class", name]
    own = {key: canonical(value, seen) for key, value in sorted(vars(kind).items()) if _counts(key, value)}
    return ["class", name, own]


def _counts(key: str, value: object) -> bool:
    """Say whether a class's attribute shapes what its objects do: code, and constants."""
    if isinstance(value, FunctionType | property | staticmethod | classmethod):
        return True
    return not key.startswith("__") and isinstance(value, bool | int | float | str | tuple | list | dict)


def _of_property(value: property, seen: frozenset[int]) -> object:
    return canonical(value.fget, seen)


def _of_dataclass(value: object, seen: frozenset[int]) -> object:
    fields = {f.name: canonical(getattr(value, f.name), seen) for f in dataclasses.fields(value)}  # type: ignore[arg-type]
    return [_of_class(type(value), seen), fields]


def _of_object(value: object, seen: frozenset[int]) -> object:
    if dataclasses.is_dataclass(value):
        return _of_dataclass(value, seen)
    if hasattr(value, "numpy") and hasattr(value, "detach"):  # a tensor
        return canonical(value.detach().cpu().numpy(), seen)
    inner = getattr(value, "__dict__", None)
    if inner is not None:
        return [_of_class(type(value), seen), {key: canonical(inner[key], seen) for key in sorted(inner)}]
    text = repr(value)
    if " at 0x" in text:
        raise InvalidValueError("a step's parameter", value, "numbers, text, arrays, tables, functions or dataclasses")
    return [f"{type(value).__module__}.{type(value).__qualname__}", text]


def _digest(value: bytes | memoryview) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()


def _of_arrow(value: pa.Table | pa.RecordBatch, seen: frozenset[int]) -> object:
    table = value if isinstance(value, pa.Table) else pa.Table.from_batches([value])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return ["arrow", _digest(sink.getvalue())]


def _of_array(value: pa.Array | pa.ChunkedArray, seen: frozenset[int]) -> object:
    return _of_arrow(pa.table({"": value}), seen)


def _of_numpy(value: np.ndarray, seen: frozenset[int]) -> object:
    if value.dtype.kind == "O":
        return ["array", [canonical(item, seen) for item in value.ravel()], list(value.shape)]
    return ["array", value.dtype.str, list(value.shape), _digest(np.ascontiguousarray(value).tobytes())]


_WRITERS: tuple[tuple[type | tuple[type, ...], Callable[..., object]], ...] = (
    (bytes, lambda value, seen: ["bytes", _digest(value)]),
    (enum.Enum, lambda value, seen: [f"{type(value).__qualname__}.{value.name}"]),
    (np.generic, lambda value, seen: canonical(value.item(), seen)),
    (np.ndarray, _of_numpy),
    (Table, lambda value, seen: ["table", value.name, value.version]),
    ((pa.Table, pa.RecordBatch), _of_arrow),
    ((pa.Array, pa.ChunkedArray), _of_array),
    ((pa.DataType, pa.Schema, Path), lambda value, seen: [type(value).__name__, str(value)]),
    (Mapping, lambda value, seen: ["map", [[canonical(k, seen), canonical(v, seen)] for k, v in value.items()]]),
    ((list, tuple), lambda value, seen: [canonical(item, seen) for item in value]),
    ((set, frozenset), lambda value, seen: ["set", sorted(json.dumps(canonical(item, seen)) for item in value)]),
    (
        functools.partial,
        lambda value, seen: (
            ["partial", *(canonical(part, seen) for part in (value.func, value.args, value.keywords))]
        ),
    ),
    (FunctionType, _of_function),
    (
        (staticmethod, classmethod, MethodType),
        lambda value, seen: [canonical(value.__func__, seen), canonical(getattr(value, "__self__", None), seen)],
    ),
    (property, _of_property),
    (BuiltinFunctionType, lambda value, seen: ["function", value.__module__, value.__qualname__]),
    (type, _of_class),
    (ModuleType, lambda value, seen: ["module", value.__name__, str(getattr(value, "__version__", ""))]),
)
