"""Tasks and answers as Label Studio's JSON, in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from stepwell.core.errors import DataError, UnknownNameError
from stepwell.core.files import whole_file
from stepwell.core.state import Json
from stepwell.prepare.label.labels import Labels
from stepwell.prepare.label.votes import Votes

_FORM = "a list of tasks as Label Studio exports it (JSON)"


def write_tasks(
    path: str | os.PathLike[str], rows: pa.Table, show: Sequence[str], votes: Votes, labels: Labels | None = None
) -> Path:
    """Write rows as tasks, votes as annotations and labels as predictions; the file is whole or absent.

    Args:
        path: The file.
        rows: The table, with `_row`, which becomes the id of a task.
        show: Columns that become the data of a task.
        votes: Votes for labels; each source is one annotator.
        labels: What the engine made of them, shown to annotators as a prediction with its probability.

    Raises:
        UnknownNameError: If a column is absent.

    Cost: all in memory.
    """
    for name in ("_row", *show):
        if name not in rows.column_names:
            raise UnknownNameError("column", name, rows.column_names)
    said: dict[int, list[tuple[str, str]]] = {}
    for one in votes.table().to_pylist():
        said.setdefault(one["_row"], []).append((one["source"], one["label"]))
    guessed: dict[int, tuple[str, float]] = {}
    for one in labels.table().to_pylist() if labels is not None else ():
        guessed[one["_row"]] = (one["label"], one["label_prob"])
    tasks = []
    for one in rows.select(["_row", *show]).to_pylist():
        row = int(one["_row"])
        annotations = [{"completed_by": who, "result": _choice(show[0], label)} for who, label in said.get(row, [])]
        task = {"id": row, "data": {name: one[name] for name in show}, "annotations": annotations}
        if row in guessed:
            label, share = guessed[row]
            task["predictions"] = [{"model_version": "stepwell", "score": share, "result": _choice(show[0], label)}]
        tasks.append(task)
    target = Path(path)
    with whole_file(target) as aside:
        aside.write_text(json.dumps(tasks, default=str), encoding="utf-8")
    return target


def _choice(show: str, label: str) -> list[dict[str, object]]:
    return [{"from_name": "label", "to_name": show, "type": "choices", "value": {"choices": [label]}}]


def read_tasks(path: str | os.PathLike[str], classes: Sequence[str]) -> Votes:
    """Return the annotations of a file of tasks as votes; a skipped or cancelled one is none.

    Args:
        path: The file, as Label Studio exports it ("JSON").
        classes: Names of all classes.

    Raises:
        DataError: If the file is no list of tasks, a task has no id, or an answer is no class.

    Cost: all in memory.
    """
    try:
        tasks: Json = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"it cannot be read ({error})", _FORM, "export it as JSON") from error
    if not isinstance(tasks, list):
        raise DataError(str(path), "it is no list", _FORM, "export it as JSON")
    cells: list[tuple[int, str, str]] = []
    ids = []
    for number, task in enumerate(tasks):
        where = f"{path}, task {number}"
        if not isinstance(task, dict) or not isinstance(task.get("id"), int):
            raise DataError(where, "it has no whole number `id`", _FORM, "export it as JSON")
        row = int(str(task["id"]))
        ids.append(row)
        cells += [(row, *one) for one in _annotations(task, where)]
    table = pa.table(
        {
            "_row": pa.array([row for row, _, _ in cells], pa.int64()),
            "source": pa.array([who for _, who, _ in cells], pa.string()),
            "label": pa.array([label for _, _, label in cells], pa.string()),
        }
    )
    return Votes.from_table(table, classes=classes, rows=ids)


def _annotations(task: dict[str, Json], where: str) -> list[tuple[str, str]]:
    """Return (who, label) of each annotation."""
    found = []
    annotations = task.get("annotations") or []
    for one in annotations if isinstance(annotations, list) else []:
        if not isinstance(one, dict) or one.get("was_cancelled"):
            continue
        person = one.get("completed_by")
        who = person.get("email") or person.get("id") if isinstance(person, dict) else person
        results = one.get("result")
        for result in results if isinstance(results, list) else []:
            value = result.get("value") if isinstance(result, dict) else None
            choices = value.get("choices") if isinstance(value, dict) else None
            if choices is None:
                continue  # an answer of another kind: a span, a box
            if not isinstance(choices, list) or len(choices) != 1:
                raise DataError(where, f"an answer has the choices {choices!r}", "one choice", "ask for one class")
            found.append((str(who), str(choices[0])))
    return found
