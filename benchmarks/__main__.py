"""`python -m benchmarks` lists the claims; `python -m benchmarks NAME [--quick]` measures one anew."""

from __future__ import annotations

import argparse
import json
import sys
import time
from difflib import get_close_matches
from pathlib import Path

from benchmarks.harness import Claim, claim_modules, claims, read_result, watched_hardware, write_result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", help="a claim, or a file of claims; without it, all are listed")
    parser.add_argument("--quick", action="store_true", help="a slice, in under a minute; kept apart from full results")
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        show_all()
        return 0
    return measure(chosen.name, quick=chosen.quick)


def show_all() -> None:
    """List every claim with its bar and what its last full run measured."""
    for _, claim in claims():
        record = read_result(claim.name)
        if record is None:
            last = "not measured yet"
        else:
            verdict = "holds" if record["holds"] else "does not hold"
            last = f"{record['measured']:.4g} {claim.unit} on {record['date']}: {verdict}"
        print(f"{claim.name}\n    {claim.sentence}\n    bar {_bar(claim)}; {last}")
    print("\nMeasure one again with: make bench CLAIM=<name> [QUICK=1]")


def measure(name: str, *, quick: bool) -> int:
    """Run the file that holds the claim (or is called) `name` and write the results; 2 if there is none."""
    known = {claim.name: file for file, claim in claims()}
    modules = claim_modules()
    file = known.get(name, name)
    if file not in modules:
        near = get_close_matches(name, [*known, *modules], n=1)
        print(f"No claim named {name!r}. {f'Did you mean {near[0]!r}? ' if near else ''}Known: {', '.join(known)}")
        return 2
    begin = time.perf_counter()
    with watched_hardware() as hardware:
        results = modules[file].measure(quick)
    named = {claim.name: claim for claim in modules[file].CLAIMS}
    for result in results:
        path = write_result(named[result.claim], result, hardware, quick=quick)
        _show(named[result.claim], path)
    print(f"took {time.perf_counter() - begin:.0f} s, load {hardware['load_average']}, steal {hardware['steal']:.1%}")
    return 0


def _show(claim: Claim, path: Path) -> None:
    record = json.loads(path.read_text())
    print(f"\n{claim.name}: {record['measured']:.4g} {claim.unit}, bar {_bar(claim)}", end=", ")
    print("holds" if record["holds"] else f"does not hold: {record['why']}")
    for kind in ("baseline", "quality"):
        for contestant, figures in record[kind].items():
            print(f"    {contestant}: {figures}")
    print(f"    written to {path}")


def _bar(claim: Claim) -> str:
    return f"{claim.direction} {claim.bar:g} {claim.unit}"


if __name__ == "__main__":
    sys.exit(main())
