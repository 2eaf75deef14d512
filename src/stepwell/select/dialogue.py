"""The searcher's part of a session: it is asked for orders and told results, and both are written down.

A searcher lives through the log again when a study goes on, so it stands where it stood; an order whose effect a crash
cut off is carried out once more.
"""

from __future__ import annotations

import math
import shutil
from typing import cast

from stepwell.core.errors import CheckpointError
from stepwell.core.state import Json
from stepwell.select.journal import Journal
from stepwell.select.log import Event, read_log
from stepwell.select.orders import Add, End, Go, Order, Searcher, Told
from stepwell.select.records import Config
from stepwell.select.space import Params
from stepwell.select.trainee import checksum


class Dialogue:
    """Asks a searcher, carries out its orders, and tells it what configurations reached.

    Args:
        journal: Where orders and results are written down.
        searcher: Gives the orders.
        at_once: Most configurations under way at a time, or None.
    """

    def __init__(self, journal: Journal, searcher: Searcher, at_once: int | None) -> None:
        self._journal, self._records = journal, journal.records
        self._searcher, self._at_once = searcher, at_once

    def pick_up(self) -> None:
        """Let the searcher live through what the log says, and check the states on disk."""
        for event in read_log(self._records.folder / "log.jsonl"):
            if event["kind"] == "asked":
                order = self._searcher.ask(str(event["name"]), room=bool(event["room"]))
                if _plain(order) != event["order"]:
                    raise CheckpointError(
                        f"{self._records.folder}: the searcher answers {_plain(order)}, the log says {event['order']}. "
                        "Continue with the search that began this study, or begin another folder."
                    )
            elif event["kind"] == "told" and event["searched"]:
                self._tell_searcher(event)
        self._finish_orders()
        for config in list(self._records.configs.values()):
            if config.alive:
                self.check_state(config)

    def _tell_searcher(self, event: Event) -> str:
        value = event["value"]
        told = Told(
            str(event["config"]), cast("int", event["epoch"]), -math.inf if value is None else cast("float", value)
        )
        return self._searcher.tell(told)

    def _finish_orders(self) -> None:
        """Carry out the last order again if a crash came between it and its effect; tell what was not told."""
        last: Event | None = None
        for event in read_log(self._records.folder / "log.jsonl"):
            if event["kind"] in ("asked", "config", "go", "end"):
                last = event
        if last is not None and last["kind"] == "asked":
            self._carry_out(str(last["name"]), cast("dict[str, Json]", last["order"]))
        for config in list(self._records.configs.values()):
            due = config.epoch >= config.until or config.status in ("failed", "stopped")
            if config.searched and due and config.until not in config.told and config.status != "finished":
                self.tell(config)

    def check_state(self, config: Config) -> None:
        """Fall back to the newest state whose checksum is right."""
        version = config.version
        while version and not self._is_whole(config, version):
            version -= 1
            if version not in config.states:
                version = 0
        if version != config.version:
            self._journal.write("back", {"config": config.name, "version": version})

    def _is_whole(self, config: Config, version: int) -> bool:
        path = self._records.state_path(config.name, version)
        try:
            return checksum(path.read_bytes()) == config.states.get(version)
        except OSError:
            return False

    def ask(self) -> None:
        """Carry out the searcher's orders until it has none."""
        while True:
            room = self._at_once is None or len(self._records.waiting) < self._at_once
            name = f"c{len(self._records.configs)}"
            order = self._searcher.ask(name, room=room)
            if order is None:
                return
            self._journal.write("asked", {"name": name, "room": room, "order": _plain(order)})
            self._carry_out(name, _plain(order))

    def _carry_out(self, name: str, order: dict[str, Json]) -> None:
        if order["do"] == "add":
            parent = str(order["parent"])
            self.add(name, cast("Params", order["params"]), cast("int", order["until"]), parent, warm=bool(parent))
            return
        config = self._records.configs[str(order["config"])]
        if order["do"] == "go" and config.searched and config.status == "paused":
            self._journal.write("go", {"config": config.name, "until": order["until"]})
        elif order["do"] == "end" and config.searched and config.alive:
            self._journal.write("end", {"config": config.name, "status": "stopped", "reason": order["why"]})

    def add(self, name: str, params: Params, until: int, parent: str, *, warm: bool, searched: bool = True) -> None:
        version = 0
        if warm:
            version = self._records.configs[parent].version
            warm = version > 0
        if warm:
            target = self._records.state_path(name, version)
            shutil.copyfile(self._records.state_path(parent, version), target)
        self._journal.write(
            "config",
            {
                **{"name": name, "number": len(self._records.configs), "params": cast("Json", dict(params))},
                **{"until": until, "parent": parent, "warm": warm, "version": version, "searched": searched},
            },
        )

    def tell(self, config: Config) -> None:
        """Tell the searcher what a configuration reached, or that it failed."""
        failed = config.status in ("failed", "stopped") or config.value is None
        value = None if failed else self._records.sign * cast("float", config.value)
        if value is not None and not math.isfinite(value):
            value = None
        event: Event = {"config": config.name, "epoch": config.until, "value": value, "searched": config.searched}
        verdict = self._tell_searcher(event) if config.searched else "finish"
        self._journal.write("told", {**event, "verdict": verdict}, durable=True)

    def tell_if_searched(self, name: str) -> None:
        config = self._records.configs[name]
        if config.searched and config.until not in config.told:
            self.tell(config)


def _plain(order: Order | None) -> dict[str, Json]:
    if isinstance(order, Add):
        return {"do": "add", "params": cast("Json", dict(order.params)), "until": order.until, "parent": order.parent}
    if isinstance(order, Go):
        return {"do": "go", "config": order.config, "until": order.until}
    if isinstance(order, End):
        return {"do": "end", "config": order.config, "why": order.why}
    return {"do": "nothing"}
