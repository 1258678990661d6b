"""Gives a hub back what damage took from its store: samples that it told once, a page for each question.

Nothing is remembered of an answer. A question that was committed and not answered (a crash, a lost connection) is
asked again by its hub, and says itself where to go on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from cloud.db import Database
from cloud.tables import SampleRow
from core.errors import StoreError
from core.messages import Resend, Returned, Sample
from sync.cloud_link import Commit, Outcome, Received

log = structlog.get_logger()

PAGE_SAMPLES: Final = 200  # as many as a message of the hub holds

Answer = Callable[[str, Returned], bool]


class Returns:
    """Stands before ingest's ``commit``, and answers once that is done."""

    def __init__(self, db: Database, counters: Counter[str], commit: Commit, answer: Answer) -> None:
        self._db, self._counters, self._commit, self._answer = db, counters, commit, answer
        self._asked: dict[str, Resend] = {}  # the newest question of each hub
        self._news = asyncio.Event()

    async def commit(self, group: Sequence[Received]) -> Sequence[Outcome]:
        """As ingest's. Repeated questions count: their answer may have been lost with the acknowledgement."""
        outcomes = await self._commit(group)
        for received, outcome in zip(group, outcomes, strict=True):
            if outcome in (Outcome.TAKEN, Outcome.REPEATED) and received.uplink is not None:
                body = received.uplink.body
                if isinstance(body, Resend):
                    self._asked[received.hub_id] = body
                    self._news.set()
        return outcomes

    async def run(self) -> None:
        """Until cancelled. One question at a time: nobody waits for it but a hub that waits for minutes."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._asked:
                hub_id, question = self._asked.popitem()
                try:
                    page = await self._db.query(returned, hub_id, question)
                except StoreError as err:
                    log.error("returns.not_looked_up", hub=hub_id, reason=str(err))
                    continue
                if self._answer(hub_id, page):
                    self._counters["returns.samples"] += len(page.samples)


def returned(session: Session, hub_id: str, question: Resend) -> Returned:
    """The next page, in the order in which the hub told the samples, which is that of their ids."""
    in_spans = [
        or_(
            and_(SampleRow.received_us >= start, SampleRow.received_us <= end),
            and_(SampleRow.time_us >= start, SampleRow.time_us <= end),
        )
        for start, end in question.spans
    ]
    rows = session.scalars(
        select(SampleRow)
        .where(SampleRow.hub_id == hub_id, SampleRow.id > question.after, or_(*in_spans))
        .order_by(SampleRow.id)
        .limit(PAGE_SAMPLES)
    ).all()
    following = rows[-1].id if rows else question.after
    more = len(rows) == PAGE_SAMPLES
    return Returned(question.request, question.after, tuple(map(_sample, rows)), following, more)


def _sample(row: SampleRow) -> Sample:
    has_target = row.amends_source is not None and row.amends_seq is not None
    return Sample(
        time_us=row.time_us,
        kind=row.kind,
        value=row.value,
        source=row.source,
        seq=row.seq,
        quality=row.quality,
        received_us=row.received_us,
        amends=(row.amends_source, row.amends_seq) if has_target else None,  # type: ignore[arg-type]
        deleted=row.deleted,
    )
