"""`stepwell label`: label the rows of a table in the browser, by single keys, and put the votes into the lake."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from stepwell import storage
from stepwell.core.errors import InvalidValueError
from stepwell.prepare.label import Votes
from stepwell.prepare.label.desk import Desk
from stepwell.prepare.label.journal import Answer, Journal
from stepwell.prepare.label.studio import read_tasks, write_tasks
from stepwell.storage import Lake

EXAMPLE = "stepwell label comments --classes ham,spam --show text --by ann"
TEXT = """\
Label rows of a table in the browser, by single keys.

A page opens on this machine only; its address is printed. The keys 1, 2, ... answer, s skips, u takes back. Every
answer is saved at once in labels/NAME.jsonl, where the next call goes on. With --votes the least certain rows come
first. Ctrl-C ends it and puts the answers into the lake as the table NAME_votes (_row, source, label).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("name", help="a table of the lake, with ids in the column _row or --key")
    parser.add_argument(
        "--classes", required=True, help="names of the classes, separated by commas; key 1 is the first"
    )
    parser.add_argument("--show", default="", help="columns to show, separated by commas (default: all)")
    parser.add_argument("--by", default="me", help="who labels; the name of the source of the votes (default: me)")
    parser.add_argument("--lake", default="lake", help="folder or object-store prefix (default: lake)")
    parser.add_argument("--key", default="_row", help="column of whole numbers that names a row (default: _row)")
    parser.add_argument("--votes", default="", metavar="TABLE", help="votes of others: a table _row, source, label")
    parser.add_argument("--journal", default="", metavar="FILE", help="answers (default: labels/NAME.jsonl)")
    parser.add_argument("--port", type=int, default=0, help="port of the page (default: any free one)")
    parser.add_argument("--import-tasks", default="", metavar="FILE", help="take over answers: Label Studio's JSON")
    parser.add_argument("--export-tasks", default="", metavar="FILE", help="write tasks: Label Studio's JSON")
    parser.add_argument("--no-page", action="store_true", help="only import, export and put the votes into the lake")


def label(options: argparse.Namespace) -> int:
    """Serve the page until interrupted; then commit the votes."""
    lake = storage.open(options.lake)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    rows = _rows(lake, options.name, options.key)
    show = options.show.split(",") if options.show else [name for name in rows.column_names if name != "_row"]
    others = None
    if options.votes:
        others = Votes.from_table(lake.table(options.votes).to_arrow(), classes=classes)
    journal = Journal(options.journal or Path("labels") / f"{options.name}.jsonl")
    if options.import_tasks:
        _take_over(journal, read_tasks(options.import_tasks, classes))
    desk = Desk(rows, show, classes, journal, options.by, others)
    if not options.no_page:
        with suppress(KeyboardInterrupt), desk.server(options.port) as server:
            sys.stdout.write(f"open {server.url}\nCtrl-C ends it; every answer is saved at once in {journal.path}\n")
            sys.stdout.flush()
            server.wait()
    return _finish(lake, desk, options, show)


def _rows(lake: Lake, name: str, key: str) -> pa.Table:
    rows = lake.table(name).to_arrow()
    if key == "_row" and key not in rows.column_names:
        raise InvalidValueError("--key", key, f"a column of {name}: {', '.join(rows.column_names)}")
    if key == "_row":
        return rows
    if key not in rows.column_names or not pa.types.is_integer(rows.schema.field(key).type):
        raise InvalidValueError("--key", key, f"a column of whole numbers of {name}: {', '.join(rows.column_names)}")
    return rows.append_column("_row", rows[key].cast(pa.int64()))


def _take_over(journal: Journal, votes: Votes) -> None:
    """Append the answers of a file that do not stand in the journal yet."""
    standing = journal.standing()
    for one in votes.table().to_pylist():
        row, source, said = int(one["_row"]), str(one["source"]), str(one["label"])
        if standing.get((row, source)) != said:
            journal.append(Answer(row, said, source))


def _finish(lake: Lake, desk: Desk, options: argparse.Namespace, show: list[str]) -> int:
    people = {person for _, person in desk.journal.standing()}
    votes = desk.votes()
    own = votes.of(np.isin(votes.source, [n for n, name in enumerate(votes.sources) if name in people]))
    table = f"{options.name}_votes"
    if len(own):
        lake.write(table, own.table(), inputs=[options.name], step="label", params={"classes": list(desk.classes)})
    if options.export_tasks:
        write_tasks(options.export_tasks, desk.rows, show, votes, desk.labels() if len(votes) else None)
    if options.json:
        sys.stdout.write(json.dumps({"votes": len(own), "rows": desk.rows.num_rows, "table": table}) + "\n")
    elif len(own):
        sys.stdout.write(f"{len(own):,} votes on {desk.rows.num_rows:,} rows are in the lake as {table}\n")
    else:
        sys.stdout.write("no votes yet\n")
    return 0
