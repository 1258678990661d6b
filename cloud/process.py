"""The cloud as one process: ingest and downlink, adviser, portal, on one event loop over one database.

A part that fails is logged and begun again; what a person must mend (no broker, port taken, wrong key) ends
the process with one line. Adviser and portal are imported here, not above: ingest runs where they cannot.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from cloud.config import CloudConfig
from cloud.db import Database
from cloud.downlink import DownlinkQueue
from cloud.ingest import Ingest
from cloud.registry import Registry
from cloud.returns import Returns
from cloud.sealing import read_database_key
from core.clock import Clock
from core.errors import ConfigError, EnvironmentMissing, HometwinError
from sync.cloud_link import CloudLink
from sync.faults import BrokerFault
from sync.keyfiles import read_signing_key
from sync.mqtt import BrokerAddress

log = structlog.get_logger()

# At boot broker and cloud start together; a broker that is not there after this long is a mistake to report.
BROKER_PATIENCE_S: Final = 10.0
RESTART_FIRST_S: Final = 1.0
RESTART_MAX_S: Final = 60.0
STABLE_S: Final = 60.0
# One line with all counters, when they have moved.
SUMMARY_EVERY_S: Final = 60.0

Part = Callable[[], Awaitable[None]]


async def run(config: CloudConfig, clock: Clock, *, broker_patience_s: float = BROKER_PATIENCE_S) -> None:
    """Until cancelled. Raises InputError, WrongKeyError or NewerVersionError for what a person must mend."""
    counters: Counter[str] = Counter()
    address = BrokerAddress(
        config.mqtt.host,
        config.mqtt.port,
        config.path(config.mqtt.ca),
        config.path(config.mqtt.cert),
        config.path(config.mqtt.key),
    )
    address.tls_context()  # complains of a missing file now rather than later
    signing_key = read_signing_key(config.path(config.keys.signing_key))
    registry = Registry(config.path(config.keys.hubs_dir))
    db = Database.open(config.database_url, read_database_key(config.path(config.database.key_file)))
    try:
        link = CloudLink(address, registry.key, signing_key, clock, counters)
        downlink = DownlinkQueue(db, clock, counters, link)
        returns = Returns(db, counters, Ingest(db, clock, counters).commit, link.answer)
        link.bind(
            commit=returns.commit,
            on_hello=downlink.on_hello,
            on_connected=downlink.on_connected,
            hub_ids=registry.hub_ids,
        )
        parts: dict[str, Part] = {
            "sync": lambda: _run_link(link, broker_patience_s),
            "returns": returns.run,
            "summary": lambda: _run_summary(counters),
        }
        run_adviser = _imported("cloud.adviser", "run_adviser")
        if run_adviser is not None:
            parts["adviser"] = lambda: run_adviser(db, config, clock, downlink)
        run_population = _imported("cloud.population_job", "run_population")
        if run_population is not None:
            parts["population"] = lambda: run_population(db, config, clock)
        run_portal = _imported("cloud.portal", "run_portal")
        if run_portal is not None:
            parts["portal"] = lambda: run_portal(db, config, clock)
        log.info("cloud.started", parts=sorted(parts), hubs=len(registry.hub_ids()))
        await _run_parts(parts, counters)
    finally:
        db.close()
        log.info("cloud.stopped")


def _imported(module: str, name: str) -> Callable[..., Awaitable[None]] | None:
    """``module.name``; None when this installation has no such part, which is said in the log."""
    try:
        part: Callable[..., Awaitable[None]] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as err:
        if err.name != module:
            raise EnvironmentMissing(
                f"the Python package {err.name} is not installed",
                where=module,
                mend="pip install 'hometwin[cloud]'",
            ) from None
        log.warning("cloud.part_missing", part=module)
        return None
    return part


async def _run_link(link: CloudLink, patience_s: float) -> None:
    try:
        await link.run(patience_s)
    except BrokerFault as err:
        raise EnvironmentMissing(err.what, where=err.where, mend=err.mend) from None


async def _run_summary(counters: Counter[str]) -> None:
    told: dict[str, int] = {}
    while True:
        await asyncio.sleep(SUMMARY_EVERY_S)
        if counters != told:
            told = dict(counters)
            log.info("cloud.summary", **{name.replace(".", "_"): n for name, n in sorted(told.items())})


async def _run_parts(parts: dict[str, Part], counters: Counter[str]) -> None:
    """All parts, until this is cancelled or one of them meets what a person must mend."""
    tasks = [asyncio.create_task(_keep(name, part, counters), name=name) for name, part in parts.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(name: str, part: Part, counters: Counter[str]) -> None:
    pause_s, is_first = RESTART_FIRST_S, True
    while True:
        started_s = time.monotonic()
        try:
            await part()
            return
        except HometwinError as err:
            if is_first and isinstance(err, (ConfigError, EnvironmentMissing)):
                raise  # port taken, no broker: at start, so a person is there to mend it
            log.error("part.failed", part=name, error=type(err).__name__, reason=str(err))
        except Exception as err:
            # Its text may quote a value, so only its type is told.
            log.error("part.failed", part=name, error=type(err).__name__)
            log.debug("part.failed", part=name, exc_info=True)
        is_first = False
        counters[f"part.{name}"] += 1
        if time.monotonic() - started_s > STABLE_S:
            pause_s = RESTART_FIRST_S
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, RESTART_MAX_S)
