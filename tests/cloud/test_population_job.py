"""The population is fitted when it is due, from each hub's newest usual contribution, and kept sealed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sqlalchemy import select, text

from cloud import population, queries
from cloud.db import AuditRow, ContributionRow, Database, HubRow
from cloud.population_job import Refitter, is_due, on_dask
from core import hierarchy
from core.messages import Contribution, Sample, encode
from core.units import US_PER_DAY
from tests.cloud import filled
from tests.cloud.filled import NOW_US, contribution


class Clock:
    time_us = NOW_US

    def now_us(self) -> int:
        return self.time_us

    def wait_s(self, span_us: int) -> float:
        return span_us / 1e6


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = filled.open_database(tmp_path)
    yield database
    database.close()


def give(db: Database, hub_id: str, given: Contribution) -> None:
    with db.write() as session:
        if session.get(HubRow, hub_id) is None:
            session.add(HubRow(hub_id=hub_id, person=hub_id))
            session.flush()
        session.add(
            ContributionRow(
                hub_id=hub_id, time_us=given.time_us, model=given.model, prior_version=1, body=encode(given)
            )
        )


def stored(db: Database) -> population.Fitted:
    with db.read() as session:
        found = queries.population_fit(session)
    assert found is not None
    return found


async def test_a_fit_is_kept_with_its_provenance_and_sealed(db: Database, tmp_path: Path) -> None:
    for i in range(5):
        give(db, f"h{i}", contribution(0.3, 300.0))
    give(db, "bad", msgspec.structs.replace(contribution(0.3), delta_information=(5e4,) * 5))
    refitter = Refitter(db, filled.config(tmp_path), Clock())
    assert await refitter.look()
    fitted = stored(db)
    assert (fitted.number, fitted.people, fitted.refused, fitted.converged) == (1, 5, 1, True)
    with db.read() as session:
        [said] = [row.what for row in session.scalars(select(AuditRow)) if row.who == "population"]
        raw = session.execute(text("select value from meta where name = 'population.glucose/1'")).scalar()
        prior, _ = population.prior_for("new", population.AGES[0], queries.contributions(session), NOW_US, 1)
    assert "5 people in 1 strata" in said
    assert "1 contributions refused" in said
    assert b"type-1 adult" not in raw  # nothing of it lies in clear
    assert prior.mean[0] > 0.03
    assert not await refitter.look()  # nothing new


async def test_a_newer_contribution_replaces_the_older_and_an_illness_does_not(
    db: Database, tmp_path: Path
) -> None:
    hour = 3_600_000_000
    give(db, "h", contribution(0.1, 300.0, NOW_US))
    give(db, "h", contribution(0.4, 300.0, NOW_US + hour))
    ill = msgspec.structs.replace(contribution(-0.9, 300.0, NOW_US + 2 * hour), context="illness")
    give(db, "h", ill)
    give(db, "only-ill", ill)
    assert await Refitter(db, filled.config(tmp_path), Clock()).look()
    fitted = stored(db)
    assert fitted.people == 2
    assert fitted.hubs["h"].contribution == contribution(0.4, 300.0, NOW_US + hour)
    assert fitted.hubs["only-ill"].contribution == ill


async def test_the_stratum_comes_from_the_file_and_the_record(db: Database, tmp_path: Path) -> None:
    config = filled.config(tmp_path)
    give(db, "h", contribution(0.1))
    (tmp_path / "hubs" / "h.patient.toml").write_text('birth_year = 2014\nsex = "female"\n')
    with db.write() as session:
        kinds = (("weight_kg", 40.0), ("basal_uph", 0.4))
        filled.add_samples(session, [Sample(NOW_US, kind, v, "x", 1) for kind, v in kinds], "h")
    give(db, "unknown", contribution(0.1))
    await Refitter(db, config, Clock()).look()
    fitted = stored(db)
    strata = {hub: fitted.strata[given.stratum] for hub, given in fitted.hubs.items()}
    assert strata["h"] == "type-1 under 18, under 60 kg, female, pump"
    assert strata["unknown"] == "type-1 adult"


def test_it_is_due_when_enough_is_new_or_a_new_day_began() -> None:
    before = population.refit({f"h{i}": contribution(0.1) for i in range(50)}, {}, NOW_US)
    assert is_due(None, 1, NOW_US)
    assert not is_due(None, 0, NOW_US)
    assert not is_due(before, 4, NOW_US + 1)
    assert is_due(before, 5, NOW_US + 1)
    assert is_due(before, 1, NOW_US + US_PER_DAY)
    assert not is_due(before, 0, NOW_US + US_PER_DAY)


def test_dask_gives_what_memory_gives() -> None:
    given = {f"h{i}": contribution(0.1 * (i % 7), 300.0) for i in range(40)}
    here = population.refit(given, {}, NOW_US, chunk=9)
    there = population.refit(given, {}, NOW_US, chunk=9, spread=on_dask)
    assert there.passes == here.passes
    for name in here.arrays:
        a, b = (np.frombuffer(f.arrays[name], "<f8") for f in (here, there))
        assert b == pytest.approx(a, abs=1e-9), name
    assert hierarchy.NU_GRID[there.nu] == hierarchy.NU_GRID[here.nu]


async def test_a_fit_of_another_version_is_as_if_there_were_none(db: Database, tmp_path: Path) -> None:
    give(db, "h", contribution(0.3, 300.0))
    await Refitter(db, filled.config(tmp_path), Clock()).look()
    with db.write() as session:
        sealed = queries.POPULATION_SEAL.process_bind_param(b"\x81\x01", session.get_bind().dialect)
        session.execute(text("update meta set value = :v where name = 'population.glucose/1'"), {"v": sealed})
    with db.read() as session:
        assert queries.population_fit(session) is None
        assert queries.contributions(session) == {"h": contribution(0.3, 300.0)}
