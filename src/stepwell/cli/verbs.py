"""What each verb does: read the words, call the job, print a result worth having."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from stepwell import datasets as named
from stepwell import jobs, recipes, storage
from stepwell.cli.recipes import recipe_list, recipe_of
from stepwell.core import Machine
from stepwell.core.errors import InvalidValueError, UnknownNameError
from stepwell.core.overrides import override
from stepwell.jobs import Experiment, Result
from stepwell.jobs.report import write_predictions
from stepwell.plan import largest_miss, machine

Options = argparse.Namespace


def demo(options: Options) -> int:
    """Run the whole job on a generated stream, a registered data set or a file."""
    name = options.data or "generated"
    experiment = recipes.recipes["demo"]()
    if Path(name).suffix:
        lake = storage.open(experiment.data.lake)
        name = _ingest_file(lake, options.data, Path(name).name.split(".")[0], options, "1GiB")
    experiment = override(experiment, [f"data.name={name}", *options.set])
    folder = Path(options.out) if options.out else _free(Path(f"runs/demo-{name}"))
    result = jobs.run(experiment, folder)
    _show(result, folder, as_json=options.json)
    if not options.json:
        _say(
            "\nwhat next:\n"
            f"  look at {folder / 'report.html'}: plan, curves and scores\n"
            "  a published setting:  stepwell train tgn_collegemsg\n"
            "  your own stream:      stepwell demo --data edits.csv --src user:uid --dst page:pid --time ts"
        )
    return 0


def _free(folder: Path) -> Path:
    """Return the folder, or the same with the first number behind it that is not taken."""
    names = (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def list_datasets(options: Options) -> int:
    """List the registered streams, or show one."""
    rows = []
    for name in [options.name] if options.name else named.datasets:
        data = named.datasets[name]
        here = next((str(f / file.name) for f in data.folders() for file in data.files if (f / file.name).exists()), "")
        urls = [file.url for file in data.files if file.url]
        known = any(file.sha256 for file in data.files)
        row = {"name": name, "summary": data.summary, "here": here, "checksum": known}
        rows.append({**row, "download": urls, "source": data.source})
    held = storage.open(options.lake).names() if Path(options.lake).is_dir() else []
    if options.json:
        return _json({"datasets": rows, "lake": held})
    for row in rows:
        place = "on disk" if row["here"] else "download" if row["checksum"] else "download, unverified"
        _say(f"{row['name']:<24} {place:<21} {row['summary']}")
    if held and not options.name:
        _say(f"in the lake {options.lake}: {', '.join(held)}")
    if options.name:
        _say(
            f"  source    {rows[0]['source']}\n  here      {rows[0]['here'] or 'no'}\n"
            f"  download  {', '.join(urls) or 'none'}"
        )
    return 0


def ingest(options: Options) -> int:
    """Put a stream into a lake."""
    lake = storage.open(options.lake)
    if options.source in named.datasets:
        log = named.datasets[options.source].ingest(lake, name=options.name or None, budget=options.budget)
    else:
        name = options.name or Path(options.source).name.split(".")[0]
        log = lake.events(_ingest_file(lake, options.source, name, options, options.budget))
    stats = log.statistics()
    if options.json:
        return _json({"name": log.name, "events": len(log), "nodes": log.num_nodes, "notes": list(log.notes)})
    _say(
        f"{log.name}: {len(log):,} events, {log.num_nodes:,} nodes, "
        f"{stats.repeat_rate:.0%} of pairs repeat, in {options.lake}"
    )
    for note in log.notes:
        _say(f"  note: {note}")
    name = log.name.split("@")[0]
    _say(f"next: stepwell train link --set data.name={name} --set data.lake={options.lake} --out runs/{name}")
    return 0


def plan(options: Options) -> int:
    """Print the plan of a run; train an epoch for it only if asked."""
    if options.calibrate:
        profile = machine(refresh=True)
        if not options.recipe:
            return _json(asdict(profile)) if options.json else _tell(profile)
    experiment = _planned_experiment(options)
    made = jobs.job(experiment)
    links = made if isinstance(made, jobs.LinkPrediction) else made.links
    found = jobs.plan_job(links, memory=options.memory, accuracy=options.accuracy, price_per_core_hour=options.price)
    if options.what_if:
        found = found.what_if(**_conditions(options.what_if))  # type: ignore[arg-type]
    if options.analyze:
        found = found.analyze()
    if options.html:
        found.to_html(options.html)
    if options.json:
        rows = {"plan": jobs.plan_rows(found.tree), "choices": [asdict(choice) for choice in found.choices]}
        miss = None if found.miss is None else asdict(found.miss)
        return _json({"experiment": json.loads(experiment.to_json()), **rows, "miss": miss})
    _say(str(found))
    if options.table:
        _say(f"\n{found.table}")
    if options.html:
        _say(f"\nwritten to {options.html}")
    return 0


def _planned_experiment(options: Options) -> Experiment:
    """Return the experiment of a recipe, or the usual one for the name of a log or data set."""
    name = options.recipe
    if name and ":" not in name and name not in recipes.recipes:
        lake = override(Experiment(), options.set).data.lake
        held = storage.open(lake).names() if "://" in lake or Path(lake).is_dir() else []
        if name in named.datasets or name in held:
            return override(recipes.recipes["link"](), [f"data.name={name}", *options.set])
    return _experiment(options)


_CONDITIONS = ("memory", "accuracy", "batches", "sampler", "reuse", "placement", "prefetch", "price_per_core_hour")


def _conditions(text: str) -> dict[str, object]:
    """Read `memory=8GiB,prefetch=0`."""
    found: dict[str, object] = {}
    for part in text.split(","):
        name, sep, value = part.partition("=")
        if name not in _CONDITIONS:
            raise UnknownNameError("condition of --what-if", name, _CONDITIONS)
        if not sep or not value:
            raise InvalidValueError("--what-if", part, "NAME=VALUE, as in memory=8GiB")
        number = {"prefetch": int, "price_per_core_hour": float}.get(name, str)
        try:
            found[name] = number(value)
        except ValueError:
            raise InvalidValueError(f"--what-if {name}", value, "a number") from None
    return found


def _tell(profile: Machine) -> int:
    for name, value in asdict(profile).items():
        _say(f"{name:<28} {value:,.4g}")
    return 0


def train(options: Options) -> int:
    """Train a recipe and write its folder."""
    if options.list:
        _say(recipe_list(recipes.recipes))
        return 0
    folder = Path(options.out or f"runs/{options.recipe.replace(':', '-')}")
    experiment = jobs.read_experiment(folder) if options.resume and not options.recipe else _experiment(options)
    result = jobs.run(experiment, folder, resume=options.resume)
    _show(result, folder, as_json=options.json)
    return 0


def evaluate(options: Options) -> int:
    """Score a trained run."""
    report = jobs.open_run(Path(options.folder)).evaluate(options.protocol)
    if options.json:
        return _json({"scores": jobs.score_rows(report.scores)})
    _say(str(report))
    return 0


def predict(options: Options) -> int:
    """Score rows of (source, destination, time)."""
    source = storage.open_source(options.pairs)
    pairs = pa.Table.from_batches(source.batches(), schema=source.schema)
    table = jobs.open_run(Path(options.folder)).predict(pairs)
    out = write_predictions(table, Path(options.out))
    if options.json:
        return _json({"rows": table.num_rows, "out": str(out)})
    _say(f"{table.num_rows:,} scores written to {out}")
    return 0


def bench(options: Options) -> int:
    """Time a recipe's parts on this machine."""
    rows = jobs.time_parts(_experiment(options))
    if options.json:
        return _json({"bench": rows})
    for name, value in rows.items():
        _say(f"{name:<28} {value:,.4g}")
    return 0


def _experiment(options: Options) -> Experiment:
    if not options.recipe:
        raise InvalidValueError("RECIPE", "", f"one of {', '.join(recipes.recipes)}, or module:function")
    return override(recipe_of(options.recipe, recipes.recipes)(), options.set)


def _ingest_file(lake: storage.Lake, path: str, name: str, options: Options, budget: str) -> str:
    source = storage.open_source(path)
    names = source.schema.names
    lake.events(
        name,
        path,
        src=_end(_column(options.src, "src", names)),
        dst=_end(_column(options.dst, "dst", names)),
        time=_column(options.time, "time", names),
        label=options.label or None,
        features=_matching(options.features, names) or None,
        unit=_unit(options.unit),
        budget=budget,
    )
    return name


_USUAL = {
    "src": ("source", "user", "user_id", "u", "from", "sender", "head"),
    "dst": ("destination", "target", "item", "item_id", "i", "v", "to", "receiver", "tail"),
    "time": ("ts", "t", "timestamp", "unixtime", "date", "datetime"),
}


def _column(given: str, end: str, names: list[str]) -> str:
    """Return the column that was named; if none was and the default is absent, the usual name that is there.

    Users and items are numbered apart, so each is a key space of its own.
    """
    if given != end or given in names:
        return given
    lower = {name.lower(): name for name in names}
    usual = next((usual for usual in _USUAL[end] if usual in lower), "")
    space = usual.removesuffix("_id")
    return f"{space}:{lower[usual]}" if space in ("user", "item") else lower.get(usual, given)


def _end(text: str) -> str | tuple[str, str]:
    space, colon, column = text.partition(":")
    return (space, column) if colon else text


def _unit(text: str) -> str | tuple[str, str]:
    given, colon, kept = text.partition(":")
    return (given, kept) if colon else text


def _matching(patterns: str, names: list[str]) -> list[str]:
    chosen = [p for p in patterns.split(",") if p]
    found: list[str] = []
    for pattern in chosen:
        some = [n for n in names if n == pattern or (pattern.endswith("*") and n.startswith(pattern[:-1]))]
        if not some:
            raise UnknownNameError("feature column", pattern, names)
        found += some
    return list(dict.fromkeys(found))


def _show(result: Result, folder: Path, *, as_json: bool) -> None:
    if as_json:
        _json({"folder": str(folder), "scores": jobs.score_rows(result.scores), "seconds": result.seconds})
        return
    miss = largest_miss(result.plan)
    about = "" if miss is None else f"\n\n{miss}"
    _say(
        f"\n{result.table}\n\n{result.plan}{about}\n\nwritten to {folder}: checkpoint, predictions.parquet, report.html"
    )


def _json(value: object) -> int:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
