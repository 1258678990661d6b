"""A database and messages for the ingest tests."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from sqlalchemy import select

from cloud.db import Database, SampleRow
from cloud.ingest import take_group
from core.messages import Sample, SampleBatch, Up, Uplink, encode
from sync.cloud_link import Outcome, Received

KEY = bytes(range(32))
US_PER_MIN = 60_000_000
T0_US = 1_767_362_400_000_000  # 2026-01-02 14:00 UTC


def open_database(folder: Path, key: bytes = KEY) -> Database:
    return Database.open(f"sqlite:///{folder / 'cloud.sqlite'}", key)


def sample(seq: int, value: float = 104.0, source: str = "cgm", kind: str = "cgm_mgdl", **more) -> Sample:
    return Sample(T0_US + seq * US_PER_MIN, kind, value, source, seq, **more)


def samples(*seqs: int, source: str = "cgm") -> SampleBatch:
    return SampleBatch(tuple(sample(seq, 100.0 + seq % 50, source) for seq in seqs))


def received(number: int, body: Up, after: int = 0, hub_id: str = "hub-1", sent_us: int = 5) -> Received:
    uplink = Uplink(hub_id, number, sent_us, body)
    return Received(hub_id, number, after, 1, encode(uplink), uplink)


class Taker:
    """Commits groups and counts."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.counters: Counter[str] = Counter()
        self._now = itertools.count(1_000_000)

    def __call__(self, *group: Received) -> list[Outcome]:
        with self.db.write() as session:
            return take_group(session, self.db.sealer.digest, group, next(self._now), self.counters)


def stored_seqs(db: Database, source: str = "cgm", hub_id: str = "hub-1") -> list[int]:
    with db.read() as session:
        query = select(SampleRow.seq).where(SampleRow.source == source, SampleRow.hub_id == hub_id)
        return list(session.scalars(query.order_by(SampleRow.id)))
