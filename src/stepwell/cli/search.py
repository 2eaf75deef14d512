"""`stepwell search`: run a recipe, look at a study, steer it, or serve it live with buttons that steer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from stepwell.cli.recipes import recipe_list, recipe_of
from stepwell.core.errors import InvalidValueError
from stepwell.core.overrides import override
from stepwell.recipes import searches
from stepwell.select import Study
from stepwell.select.page import study_page
from stepwell.select.steer import parse_params
from stepwell.view import Field, Form, Page, Section, Server

EXAMPLE = "stepwell search search_mnist --set epochs=2 --out studies/mnist && stepwell search studies/mnist --stop c7"
TEXT = """\
Run a recipe as a study; show a study, steer it while it runs, or serve its page.

A study is begun by the name of a recipe, by module:function of one's own, or from Python with stepwell.search(...); the
same command goes on with it. Commands take effect at the next unit boundary; those to a study that does not run take
effect when it is run again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `stepwell search` understands."""
    parser.add_argument(
        "study", nargs="?", default="", help="folder of a study, or a recipe: a name, or module:function"
    )
    parser.add_argument("--list", action="store_true", help="list the recipes and stop")
    parser.add_argument("--out", default="", metavar="FOLDER", help="folder for a recipe (default: studies/RECIPE)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of a recipe (default: 1, this one)")
    parser.add_argument("--budget", type=float, default=None, metavar="S", help="begin nothing after so many seconds")
    parser.add_argument("--stop", action="append", default=[], metavar="NAME", help="stop a configuration")
    parser.add_argument("--resume", action="append", default=[], metavar="NAME", help="let one train on")
    parser.add_argument("--clone", default="", metavar="NAME", help="begin a copy, changed by --set")
    parser.add_argument("--cold", action="store_true", help="the copy begins afresh, not from its parent's weights")
    parser.add_argument("--add", action="store_true", help="begin a new configuration, given by --set")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter, or a setting of a recipe",
    )
    parser.add_argument("--epochs", type=int, default=0, help="epochs to train to (default: the study's)")
    parser.add_argument("--plan", action="store_true", help="print the plan, predicted and measured")
    parser.add_argument("--confidence", type=float, default=0.95, help="how sure `best` must be (default: 0.95)")
    parser.add_argument("--html", default="", metavar="FILE", help="write the study's page")
    parser.add_argument("--ui", action="store_true", help="serve the page live, with buttons that steer")


def search(options: argparse.Namespace) -> int:
    """Do what was asked of a study."""
    if options.list or not options.study:
        sys.stdout.write(recipe_list(searches) + "\n")
        return 0
    study = _study(options)
    params = _parameters(options.set)
    if params and not (options.clone or options.add):
        raise InvalidValueError("--set", options.set, "used with --clone or --add")
    for name in options.stop:
        study.stop(name)
    for name in options.resume:
        study.resume(name, options.epochs)
    if options.clone:
        study.clone(options.clone, params, warm=not options.cold, epochs=options.epochs)
    if options.add:
        study.add(params)
    if options.html:
        study.to_html(options.html)
    if options.ui:
        return _serve(study)
    if options.json:
        sys.stdout.write(json.dumps(_rows(study), indent=2) + "\n")
        return 0
    text = [str(study)]
    if study.ranked():
        text.append(str(study.best(options.confidence)))
    if options.plan:
        text.append(str(study.plan))
    sys.stdout.write("\n\n".join(text) + "\n")
    return 0


def _study(options: argparse.Namespace) -> Study:
    """Return the study in a folder, or that of a recipe after running it."""
    folder = Path(options.study)
    if not (folder / "log.jsonl").exists() and (options.study in searches or ":" in options.study):
        folder = Path(options.out or f"studies/{options.study.replace(':', '-')}")
        override(recipe_of(options.study, searches)(), options.set).run(
            folder, workers=options.workers, budget=options.budget
        )
        options.set = []
    return Study(folder)


def _parameters(words: Sequence[str]) -> dict[str, str | int | float | bool | None]:
    pairs = [word.partition("=") for word in words]
    if any(not sep or not name for name, sep, _ in pairs):
        raise InvalidValueError("--set", list(words), "NAME=VALUE, as in lr=0.01")
    return parse_params({name: value for name, _, value in pairs})


def _rows(study: Study) -> dict[str, object]:
    configs = [
        {
            **{"name": one.name, "params": dict(one.params), "status": one.status, "reason": one.reason},
            **{"epochs": one.epoch, study.metric: one.value, "parent": one.parent},
        }
        for one in study.configs
    ]
    best = study.best(0.95) if study.ranked() else None
    return {"study": str(study.folder), "best": str(best), "configs": configs}


def live_server(study: Study, port: int = 0) -> Server:
    """Return a server of a study's page, with forms that stop, resume, clone and add."""

    def page() -> Page:
        study.refresh()
        made = study_page(study, refresh_s=2.0)
        fields = [Field("name", "configuration"), Field("params", "changes, as in lr=0.01 width=32")]
        verbs = [Field("do", "", "choice", choices=("stop", "resume", "clone", "add"))]
        form = Section("Steer", (Form("steer", [*fields, *verbs]),))
        return Page(made.title, made.lead, made.facts, [form, *made.sections], made.refresh_s)

    def steer(body: object) -> str:
        if not isinstance(body, dict):
            raise InvalidValueError("body", body, "an object")
        study.refresh()
        name, do = str(body.get("name", "")), str(body.get("do", ""))
        params = _parameters(str(body.get("params", "")).split())
        if do == "stop":
            study.stop(name)
        elif do == "resume":
            study.resume(name)
        elif do == "clone":
            study.clone(name, params)
        elif do == "add":
            study.add(params)
        else:
            raise InvalidValueError("do", do, "stop, resume, clone or add")
        return f"{do} {name}".strip()

    return Server({"/": page}, {"steer": steer}, port=port)


def _serve(study: Study) -> int:
    with live_server(study) as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        server.wait()
    return 0
