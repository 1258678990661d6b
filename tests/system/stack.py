"""The whole house for tests: the demo's own processes, with faults on demand and a look into the database."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from cloud.config import load_config
from cloud.db import Database
from cloud.tables import SampleRow
from core.errors import HometwinError
from core.units import US_PER_S
from edge.control import ask_hub
from edge.demo.demo import Demo, DemoPlan, find_start, parse_length
from edge.demo.layout import HUB_ID, free_port, make_layout

LONDON = ZoneInfo("Europe/London")


@dataclass(frozen=True)
class Row:
    """One sample in the cloud's database."""

    row: int
    source: str
    kind: str
    seq: int
    time_us: int
    value: float
    quality: int


class Stack(Demo):
    """A demo without a screen."""

    def status(self) -> dict[str, Any]:
        """The hub's status; HometwinError while it is away."""
        return ask_hub(self.layout.hub_socket, {"do": "status"})

    async def when(
        self, what: str, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Wait until the hub's status says so; AssertionError with what was seen last otherwise."""
        deadline_s = time.monotonic() + timeout_s
        seen: Any = "no answer"
        while time.monotonic() < deadline_s:
            try:
                seen = await asyncio.to_thread(self.status)
                if holds(seen):
                    return dict(seen)
            except HometwinError as err:
                seen = str(err)
            await asyncio.sleep(0.1)
        if isinstance(seen, dict):
            seen = {k: seen[k] for k in ("counters", "devices", "sync", "engine")}
        raise AssertionError(
            f"waited {timeout_s:g} s in vain for: {what}; last seen: {seen}; {self.logs_tail()}"
        )

    async def sensors_do(self, device: str, do: str, **more: Any) -> dict[str, Any]:
        """A fault, by the sensors' control socket. Waits for a sensors process that is just starting."""
        deadline_s = time.monotonic() + 20
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self.layout.sensor_control))
                writer.write(json.dumps({"device": device, "do": do, **more}).encode() + b"\n")
                answer: dict[str, Any] = json.loads(await asyncio.wait_for(reader.readline(), 10))
                writer.close()
                return answer
            except (OSError, ValueError):
                if time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(0.1)

    def cloud_rows(self, kinds: tuple[str, ...]) -> list[Row]:
        """Samples in the cloud's database, in the order in which they got there."""
        config = load_config(self.layout.cloud_toml)
        key = (self.layout.cloud_toml.parent / "database.key").read_bytes()
        db = Database.open(config.database.url, key)
        try:
            with db.read() as session:
                query = (
                    select(SampleRow)
                    .where(SampleRow.hub_id == HUB_ID, SampleRow.kind.in_(kinds))
                    .order_by(SampleRow.id)
                )
                return [
                    Row(r.id, r.source, r.kind, r.seq, r.time_us, r.value, r.quality)
                    for r in session.scalars(query)
                ]
        finally:
            db.close()

    def logs_tail(self) -> str:
        """The last words of every process, for a failing test."""
        return "; ".join(f"{name}: {self.group.last_words(name)}" for name in self.group.children)


@contextlib.asynccontextmanager
async def running_stack(
    root: Path,
    *,
    recording: Path | None,
    speed: float,
    length: str,
    start: str = "",
    approval: str = "demo",
    seed: int = 1,
) -> AsyncIterator[Stack]:
    """The house, built but not started; everything is ended at the end."""
    plan = DemoPlan(recording, speed, length, start, "Europe/London", seed, root, free_port())
    start_us = find_start(plan)
    layout = make_layout(root, plan.timezone, plan.portal_port, approval)
    stack = Stack(plan, layout, start_us, start_us + parse_length(length))
    try:
        yield stack
    finally:
        await stack.end()


def recorded(path: Path, kind: str, start_us: int, end_us: int) -> list[tuple[int, float]]:
    """(time, value) of one kind in the file, read with nothing of ours."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] != kind:
                continue
            local = datetime.fromisoformat(row["time"]).replace(tzinfo=LONDON)
            time_us = round(local.timestamp()) * US_PER_S
            if start_us <= time_us < end_us:
                rows.append((time_us, float(row["value"])))
    return sorted(rows)


def sfloat_step(value: float, unit: float = 1.0) -> float:
    """Half a step of a 16-bit medical float near ``value`` given in ``unit``: what it may be off by."""
    mantissa, step = abs(value / unit), 1.0
    while mantissa / step > 2045:
        step *= 10
    while step > 1e-8 and mantissa / (step / 10) <= 2045:
        step /= 10
    return 0.5 * step * unit * (1 + 1e-6) + 1e-9
