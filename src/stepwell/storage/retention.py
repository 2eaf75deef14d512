"""Which old versions a vacuum must leave alone: whatever some other version still refers to."""

from __future__ import annotations

import json
from collections.abc import Mapping

from stepwell.storage import delta
from stepwell.storage.lineage import Origin

Commits = list[dict[str, object]]


def spared(commits: Mapping[str, Commits], newest: Mapping[str, int]) -> dict[str, set[int]]:
    """Return the versions of each table that a vacuum spares.

    Spared are the newest version of each table, every version that the lineage of some version names as an input, and
    every version of a side table that a spared commit names; of these, what no earlier vacuum has dropped.

    Args:
        commits: Each table's commits, oldest first, as `delta.history` gives them.
        newest: Each table's newest version that changed rows.

    Cost:
        One pass over the commits, twice.
    """
    keep = {name: {newest[name]} for name in commits}
    for entries in commits.values():
        for entry in entries:
            text = delta.metadata_of(entry).get("origin")
            for source in Origin.from_json(text).inputs if text else ():
                if source.version is not None and source.name in keep:
                    keep[source.name].add(source.version)
    for name, entries in commits.items():
        for entry in entries:
            if int(str(entry["version"])) in keep[name]:
                for part, version in json.loads(delta.metadata_of(entry).get("tables", "{}")).items():
                    keep.setdefault(part, set()).add(int(version))
    return {
        name: versions & delta.readable_versions(commits[name]) for name, versions in keep.items() if name in commits
    }
