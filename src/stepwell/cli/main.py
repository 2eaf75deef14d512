"""Parse the words, call the verb, and turn every expected error into one line and an exit status."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from stepwell import __version__
from stepwell.cli import label, prepare, search, verbs
from stepwell.core.errors import StepwellError

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_RAW = argparse.RawDescriptionHelpFormatter
_EPILOG = """\
first steps:
  stepwell demo                                   a whole run on a generated stream, in two minutes
  stepwell datasets                               public streams by name
  stepwell train tgn_collegemsg --set loop.epochs=5
  stepwell train link --set data.name=my_log      after: stepwell ingest edits.csv --name my_log ...

A RECIPE is a registered name (see: stepwell train --list) or module:function returning a whole configuration.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 a stated error, 2 bad usage, 130 interrupted."""
    options = _parser().parse_args(words)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        return int(options.run(options))
    except StepwellError as error:
        sys.stderr.write(f"stepwell: {error}\n")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("\nstepwell: interrupted; a run continues from its last checkpoint with --resume\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "stepwell", description="A database engine for training deep models.", epilog=_EPILOG, formatter_class=_RAW
    )
    parser.add_argument("--version", action="version", version=f"stepwell {__version__}")
    parser.add_argument("--verbose", action="store_true", help="say what is done on the way")
    known = parser.add_subparsers(metavar="VERB", required=True)
    _add_data_verbs(known)
    prepare.add_arguments(_verb(known, prepare.prepare, prepare.HELP, prepare.EXAMPLE))
    label.add_arguments(_verb(known, label.label, label.TEXT, label.EXAMPLE))
    _add_run_verbs(known)
    search.add_arguments(_verb(known, search.search, search.TEXT, search.EXAMPLE))
    return parser


def _verb(known: Verbs, run: Callable[[argparse.Namespace], int], text: str, example: str) -> argparse.ArgumentParser:
    """Add a verb, named as the second word of its example; the list of verbs shows the first line of its text."""
    added = known.add_parser(
        example.split()[1],
        help=text.splitlines()[0],
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=_RAW,
    )
    added.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    added.set_defaults(run=run)
    return added


def _add_data_verbs(known: Verbs) -> None:
    demo = _verb(
        known, verbs.demo, "Ingest, train TGN, evaluate, and write a report.", "stepwell demo --data collegemsg"
    )
    demo.add_argument(
        "--data", default="", help="a registered data set or a CSV/Parquet file (default: a generated stream)"
    )
    demo.add_argument("--out", default="", help="folder of the run (default: runs/demo-<data>)")
    _columns(demo)
    _settings(demo)

    text = "List public streams and what a lake holds, or show one stream."
    listing = _verb(known, verbs.list_datasets, text, "stepwell datasets collegemsg")
    listing.add_argument("name", nargs="?", default="", help="show this one and whether it is on this machine")
    listing.add_argument("--lake", default="lake", help="also list what this lake holds (default: lake)")

    example = "stepwell ingest edits.csv.gz --name edits --src user:uid --dst page:pid --time ts --features 'f*'"
    ingest = _verb(known, verbs.ingest, "Put an event stream into a lake.", example)
    ingest.add_argument("source", help="a registered data set, or a CSV (also .gz, .zst), Parquet or Arrow file")
    ingest.add_argument("--name", default="", help="name in the lake (default: the file's or data set's)")
    ingest.add_argument("--lake", default="lake", help="folder or object-store prefix (default: lake)")
    ingest.add_argument("--budget", default="1GiB", help="memory the ingest may use (default: 1GiB)")
    _columns(ingest)


def _add_run_verbs(known: Verbs) -> None:
    _add_plan(known)

    text = "Train a recipe, evaluate it, write its folder."
    train = _recipe(_verb(known, verbs.train, text, "stepwell train tgn_wikipedia --out runs/wiki"))
    train.add_argument("--out", default="", help="folder of the run (default: runs/<recipe>)")
    train.add_argument("--resume", action="store_true", help="continue the folder's run from its last checkpoint")
    train.add_argument("--list", action="store_true", help="list the recipes and stop")

    text = "Score a trained run under a protocol."
    evaluate = _verb(known, verbs.evaluate, text, "stepwell evaluate runs/wiki --protocol p3")
    evaluate.add_argument("folder", help="folder of a run")
    evaluate.add_argument(
        "--protocol", choices=["p1", "p2", "p3"], default="p1", help="see: the concepts page on evaluation"
    )

    text = "Score (source, destination, time) rows."
    predict = _verb(known, verbs.predict, text, "stepwell predict runs/wiki pairs.csv --out scores.parquet")
    predict.add_argument("folder", help="folder of a run")
    predict.add_argument(
        "pairs", help="CSV or Parquet with columns src, dst, time: your own keys, times in the log's unit"
    )
    predict.add_argument(
        "--out", default="predictions.parquet", help="where the scores go (default: predictions.parquet)"
    )

    text = "Time sampling, batches and training steps of a recipe here."
    _recipe(_verb(known, verbs.bench, text, "stepwell bench tgn_collegemsg"))


_PLAN_HELP = """\
Print what an epoch of training will take, stage by stage, and why this way.

The planner tries a few real batches, costs every combination of batcher, sampler, reuse, placement and prefetch that
keeps the accuracy asked for, and takes the fastest. What the recipe (or --set) changes from the defaults stays.

--accuracy exact     values never change (the default)
--accuracy bounded   also what states a bound on its error, such as T-PPR lists and reused embeddings
--accuracy changed   also batches that make another, equally valid training
"""


def _add_plan(known: Verbs) -> None:
    plan = _recipe(_verb(known, verbs.plan, _PLAN_HELP, "stepwell plan tgn_collegemsg --memory 2GiB --analyze"))
    plan.add_argument("--memory", default=None, help="memory for features, node state and index (default: all fits)")
    plan.add_argument("--accuracy", choices=["exact", "bounded", "changed"], default="exact", help="what may be chosen")
    plan.add_argument(
        "--what-if", default="", metavar="NAME=VALUE,...", help="plan again, as in memory=8GiB,prefetch=0"
    )
    plan.add_argument(
        "--price", type=float, default=None, help="price of a core-hour; the plan then says what it costs"
    )
    plan.add_argument("--table", action="store_true", help="list every combination with its predicted seconds")
    plan.add_argument("--html", default="", metavar="FILE", help="write a page with a bar a stage")
    plan.add_argument(
        "--analyze", action="store_true", help="train one epoch; print what it took beside the prediction"
    )
    plan.add_argument("--calibrate", action="store_true", help="measure this machine anew before planning")


def _recipe(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "recipe", nargs="?", default="", help="a recipe's name, or module:function; plan also takes a log's name"
    )
    _settings(parser)
    return parser


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change one setting, as in loop.epochs=5; repeatable",
    )


def _columns(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("columns of a file")
    group.add_argument("--src", default="src", help="source column, or space:column where ids of the two ends overlap")
    group.add_argument("--dst", default="dst", help="destination column, or space:column")
    group.add_argument(
        "--time", default="time", help="time column; all three default to src, dst, time or another usual name"
    )
    group.add_argument("--label", default="", help="column of a state label")
    group.add_argument("--features", default="", help="feature columns, separated by commas; a trailing * matches")
    group.add_argument(
        "--unit", default="s", help="unit of the times: ns, us, ms, s, min, h, d; or FROM:TO to scale (s:ms)"
    )
