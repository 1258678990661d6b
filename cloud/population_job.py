"""Fits the population anew when enough has come in, or at night; keeps the fit with its provenance.

The adviser takes each hub's prior from the stored fit. Beyond IN_MEMORY people the passes over them run on
Dask (threads here, or whatever cluster the current Dask client has): each pass only adds up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud import population, queries
from cloud.config import CloudConfig
from cloud.db import ContributionRow, Database, SampleRow
from core import hierarchy
from core.clock import Clock
from core.errors import ConfigError, HometwinError
from core.patient import Patient
from core.units import US_PER_DAY, US_PER_MIN, US_PER_S

log = structlog.get_logger()

LOOK_EVERY_US: Final = 5 * US_PER_MIN
MIN_WAIT_S: Final = 1.0  # on a fast clock: never spin
MAX_WAIT_S: Final = 60.0
NEW_SHARE: Final = 0.1  # so many hubs with something new, of all in the last fit, and it is fitted at once
NEW_HUBS: Final = 3  # ... but at least so many
CHUNK: Final = 5000  # people; 2.5 MB of matrices
IN_MEMORY: Final = 20_000  # people that one process passes over in about a tenth of a second
PUMP, PEN = "pump", "pens"


def on_dask(chunks: Sequence[hierarchy.People]) -> Callable[[hierarchy.Point], Iterable[hierarchy.Sums]]:
    """Passes over the chunks as Dask tasks, one a chunk; the sums come back in the chunks' order."""
    import dask  # large, and not needed by small clouds

    parts = [dask.delayed(chunk, pure=False) for chunk in chunks]
    sums_of = dask.delayed(hierarchy.sums_of, pure=False)

    def each(point: hierarchy.Point) -> Iterable[hierarchy.Sums]:
        found: tuple[hierarchy.Sums, ...] = dask.compute(*(sums_of(part, point) for part in parts))
        return found

    return each


class Refitter:
    """One per cloud."""

    def __init__(self, db: Database, config: CloudConfig, clock: Clock) -> None:
        self._db, self._config, self._clock = db, config, clock

    async def run(self) -> None:
        """Until cancelled. A failed fit is logged; the last good one stays."""
        while True:
            try:
                await self.look()
            except HometwinError as err:
                log.error("population.failed", error=type(err).__name__, reason=err.what)
            await asyncio.sleep(min(max(self._clock.wait_s(LOOK_EVERY_US), MIN_WAIT_S), MAX_WAIT_S))

    async def look(self) -> bool:
        """Fit if it is due; True when it was."""
        now_us = self._clock.now_us()
        before = await self._db.query(queries.population_fit)
        new_hubs = await self._db.query(_new_hubs, before.newest_id if before else 0)
        if not is_due(before, new_hubs, now_us):
            return False
        given = await self._db.query(queries.newest_contributions)
        corrections = await self._db.query(queries.corrections)
        newest_id = await self._db.query(_newest_id)
        facts = await self._db.query(_facts)
        strata = {hub: self._stratum(hub, seen, now_us) for hub, seen in facts.items()}
        fitted = await asyncio.to_thread(
            population.refit,
            {hub: contribution for hub, (_, contribution) in given.items()},
            strata,
            now_us,
            newest_id,
            before,
            on_dask if len(given) > IN_MEMORY else None,
            CHUNK,
            corrections,
        )
        await self._db.run(queries.keep_population_fit, fitted, now_us)
        log.info(
            "population.fitted",
            number=fitted.number,
            people=fitted.people,
            corrections=len(fitted.corrected),
            refused=fitted.refused,
            passes=fitted.passes,
            converged=fitted.converged,
        )
        return True

    def _stratum(self, hub_id: str, seen: Mapping[str, float], now_us: int) -> str:
        """From the person's file, else from the record; what neither says is left out."""
        path = self._config.path(self._config.keys.hubs_dir) / f"{hub_id}.patient.toml"
        patient = _patient(path)
        year = datetime.fromtimestamp(now_us / US_PER_S, UTC).year
        age = None if patient.birth_year is None else float(year - patient.birth_year)
        weight = patient.weight_kg if patient.weight_kg is not None else seen.get("weight_kg")
        therapy = None
        if patient.therapy.basal_profile or "basal_uph" in seen:
            therapy = PUMP
        elif patient.therapy.long_acting_u_per_day is not None or "long_acting_u" in seen:
            therapy = PEN
        return population.stratum_of(age, weight, patient.sex, therapy)


def is_due(before: population.Fitted | None, new_hubs: int, now_us: int) -> bool:
    """Enough hubs have something new; or a new day began (UTC) and there is anything new."""
    if new_hubs == 0:
        return False
    if before is None or new_hubs >= max(NEW_HUBS, NEW_SHARE * before.people):
        return True
    return now_us // US_PER_DAY > before.made_us // US_PER_DAY


async def run_population(db: Database, config: CloudConfig, clock: Clock) -> None:
    """Run a refitter until cancelled."""
    await Refitter(db, config, clock).run()


def _patient(path: Path) -> Patient:
    try:
        return Patient.from_toml(path.read_bytes())
    except (OSError, ConfigError, RecursionError):
        return Patient()  # the adviser, who needs the file, says what is wrong with it


def _new_hubs(session: Session, after_id: int) -> int:
    newer = select(func.count(func.distinct(ContributionRow.hub_id))).where(ContributionRow.id > after_id)
    return session.scalar(newer) or 0


def _newest_id(session: Session) -> int:
    return session.scalar(select(func.max(ContributionRow.id))) or 0


def _facts(session: Session) -> dict[str, dict[str, float]]:
    """Per hub: which of the kinds that tell a stratum its record holds, and the last weight."""
    found: dict[str, dict[str, float]] = {hub: {} for hub in queries.hub_ids(session)}
    for kind in ("weight_kg", "basal_uph", "long_acting_u"):
        newest = (
            select(SampleRow.hub_id, func.max(SampleRow.id))
            .where(SampleRow.kind == kind, SampleRow.deleted.is_(False))
            .group_by(SampleRow.hub_id)
        )
        ids = {row_id: hub_id for hub_id, row_id in session.execute(newest)}
        if kind != "weight_kg":
            for hub_id in ids.values():
                found.setdefault(hub_id, {})[kind] = 1.0
            continue
        for row_id, hub_id in ids.items():
            row = session.get(SampleRow, row_id)
            if row is not None and row.value > 0:
                found.setdefault(hub_id, {})[kind] = row.value
    return found
