"""`stepwell prepare`: show the plan of a preparation, run it, and say what became of every row."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from stepwell.cli.recipes import function_of
from stepwell.core.errors import InvalidValueError
from stepwell.core.overrides import override
from stepwell.prepare.answers import provenance
from stepwell.prepare.commit import committed_reports
from stepwell.prepare.page import report
from stepwell.prepare.pipeline import Preparation, Prepared
from stepwell.recipes.crafts import crafts
from stepwell.storage import open as open_lake

HELP = """Run a preparation: from raw tables to a version of training data.

A RECIPE is module:function; the function returns a Preparation, built over a lake that it opens itself:

  # tickets.py
  import stepwell as sw
  from stepwell.prepare import Preparation

  def clean():
      lake = sw.open("lake/")
      return Preparation(lake, "raw", key="id").where("price > 0").split(time="day", test=0.2)

or one of six that come with Stepwell: integrate, clean, extract, label, compress, select. Each takes real data from
STEPWELL_DATA, or generated rows in their place, commits its table, and prints a score beside a baseline.

Without --name only the plan is shown: steps, SQL, predicted rows, bytes and seconds, and what is cached. With --name
the result is committed; a second run makes no new version, and a run that was killed goes on behind its last whole
step. Rows that were taken out stand in <name>.quarantine, and every row can say where it comes from (--row).
"""
EXAMPLE = "stepwell prepare tickets:clean --name tickets --report tickets.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument("recipe", help="module:function that returns a Preparation, or integrate, clean, ...")
    parser.add_argument(
        "--lake", default="", help="keep what integrate, clean, ... make in this lake (default: a temporary one)"
    )
    parser.add_argument("--name", default="", help="commit the result as this table; without it only the plan is shown")
    parser.add_argument("--message", default="", help="kept in the commit")
    parser.add_argument("--budget", default="", help="memory a step may use for its tables, as in 512MiB")
    parser.add_argument("--report", default="", metavar="FILE", help="also write a page on the result")
    parser.add_argument(
        "--row", type=int, default=None, metavar="ID", help="say where the row with this _row comes from"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a field of the preparation, as in source=raw@3; repeatable",
    )


def prepare(options: argparse.Namespace) -> int:
    """Plan or run a preparation."""
    if ":" not in options.recipe and options.recipe in crafts:
        return _craft(options)
    made = override(_preparation(options.recipe), options.set)
    if options.budget:
        made = override(made, [f"budget={options.budget}"])
    if not options.name:
        if options.report or options.row is not None:
            raise InvalidValueError("--name", "", "given with --report and --row, which ask about a committed table")
        return _say({"plan": _rows(made)} if options.json else None, str(made.plan))
    done = made.commit(options.name, options.message)
    page = report(made.lake, options.name, Path(options.report)) if options.report else None
    known = provenance(made.lake, options.name, options.row) if options.row is not None else None
    text = [str(done.plan), "", str(done)]
    text += [] if done.made else ["nothing has changed since this version was made"]
    text += ["", str(known)] if known is not None else []
    text += ["", f"written to {page}"] if page is not None else []
    return _say(_facts(done, page) if options.json else None, "\n".join(text))


def _craft(options: argparse.Namespace) -> int:
    """Run a recipe that comes with Stepwell, and say its score."""
    if options.name or options.set or options.budget:
        raise InvalidValueError("--name, --set and --budget", options.recipe, "given with module:function only")
    with tempfile.TemporaryDirectory(prefix="stepwell-") as folder:
        lake = open_lake(options.lake or folder)
        score = crafts[options.recipe](lake)
        page = report(lake, score.table, Path(options.report)) if options.report else None
        known = provenance(lake, score.table, options.row) if options.row is not None else None
        done = "\n".join(map(str, committed_reports(lake, score.table)))
    text = [done, "", str(score), *(["", str(known)] if known is not None else [])]
    text += ["", f"written to {page}"] if page is not None else []
    facts = {**asdict(score), "report": None if page is None else str(page)}
    return _say(facts if options.json else None, "\n".join(text))


def _preparation(name: str) -> Preparation:
    if ":" not in name:
        raise InvalidValueError("RECIPE", name, f"module:function, or one of {', '.join(crafts)}")
    made = function_of(name, "recipe", ["module:function"])()
    if not isinstance(made, Preparation):
        raise InvalidValueError(name, type(made).__name__, "a function that returns a Preparation")
    return made


def _rows(made: Preparation) -> list[dict[str, object]]:
    return [
        {
            "name": node.name,
            "depth": depth,
            "why": node.why,
            "rows": node.predicted.rows,
            "size_bytes": node.predicted.size_bytes,
            "seconds": node.predicted.seconds,
        }
        for depth, node in made.plan.rows()
    ]


def _facts(done: Prepared, page: Path | None) -> dict[str, object]:
    steps = [
        {
            "name": one.name,
            "rows_in": one.rows_in,
            "rows_out": one.rows_out,
            "dropped": dict(one.dropped),
            "changed": one.changed,
            "seconds": one.seconds,
        }
        for one in done.reports
    ]
    table = {"name": done.table.name, "version": done.table.version, "rows": len(done.table), "made": done.made}
    return {**table, "steps": steps, "report": None if page is None else str(page)}


def _say(facts: dict[str, object] | None, text: str) -> int:
    sys.stdout.write((json.dumps(facts, indent=2) if facts is not None else text) + "\n")
    return 0
