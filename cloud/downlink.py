"""Messages to hubs: numbered without gaps or repetition, kept until the hub confirms or they expire.

The row is durable before anything is published, so a number is never given twice. A hub says at every
connection, after every message, and now and then, which number it has; whatever lies above that and has not
expired is sent again, in order, unless it has only just been sent and may still be on its way.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cloud.db import Database
from cloud.ingest import ensure_hub
from cloud.tables import DownlinkRow, HubRow
from core.clock import Clock
from core.errors import InputError
from core.messages import Ack, Down, Downlink, Returned, decode, encode

log = structlog.get_logger()

# A hub that fetches a queue of n messages speaks n times; without a pause it would be sent n²/2 of them.
RESEND_PAUSE_S: Final = 10.0


class SendDown(Protocol):
    """What CloudLink offers."""

    def send_down(self, downlink: Downlink) -> bool:
        """Publish; False without a connection."""
        ...


class DownlinkQueue:
    """The one way to a hub."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        counters: Counter[str],
        link: SendDown,
        mono_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._clock = clock
        self._counters = counters
        self._link = link
        self._mono_s = mono_s
        self._sent_s: dict[tuple[str, int], float] = {}  # when, for what is not confirmed

    async def send(self, hub_id: str, body: Down, expires_us: int) -> int:
        """Give ``body`` the hub's next number, keep it, publish it; returns the number.

        Durable on return: without connection, or for a hub that is off, it goes out later. InputError when it
        would have expired already, and for an Ack or Returned, which belong to the link.
        """
        if isinstance(body, Ack | Returned):
            raise InputError("acknowledgements and answers are the link's own business", where=hub_id)
        now_us = self._clock.now_us()
        if expires_us <= now_us:
            raise InputError("a message to a hub must expire in the future", where=hub_id)
        downlink = await self._db.run(_number, hub_id, body, now_us, expires_us)
        self._counters["downlink.queued"] += 1
        log.info("downlink.queued", hub=hub_id, number=downlink.number, kind=type(body).__name__)
        self._publish(downlink)
        return downlink.number

    async def on_hello(self, hub_id: str, last_down: int) -> None:
        """The hub has everything up to ``last_down``: take note, and send what lies above it."""
        waiting = await self._db.run(_confirm, hub_id, last_down, self._clock.now_us())
        for key in [key for key in self._sent_s if key[0] == hub_id and key[1] <= last_down]:
            del self._sent_s[key]
        just_now_s = self._mono_s() - RESEND_PAUSE_S
        for downlink in waiting:
            if self._sent_s.get((hub_id, downlink.number), float("-inf")) <= just_now_s:
                self._publish(downlink)

    async def on_connected(self) -> None:
        """A new connection to the broker: what we published on the old one may be lost."""
        self._sent_s.clear()
        for downlink in await self._db.query(_unconfirmed, self._clock.now_us()):
            self._publish(downlink)

    def _publish(self, downlink: Downlink) -> None:
        if self._link.send_down(downlink):
            self._sent_s[downlink.hub_id, downlink.number] = self._mono_s()


def _number(session: Session, hub_id: str, body: Down, now_us: int, expires_us: int) -> Downlink:
    hub = ensure_hub(session, hub_id)
    newest = session.scalar(select(func.max(DownlinkRow.number)).where(DownlinkRow.hub_id == hub_id)) or 0
    # last_down counts too: after the loss of this database the hub still refuses what it has seen.
    downlink = Downlink(hub_id, max(newest, hub.last_down) + 1, now_us, expires_us, body)
    session.add(
        DownlinkRow(
            hub_id=hub_id,
            number=downlink.number,
            body=encode(downlink),
            issued_us=now_us,
            expires_us=expires_us,
            acked=False,
        )
    )
    return downlink


def _confirm(session: Session, hub_id: str, last_down: int, now_us: int) -> list[Downlink]:
    hub: HubRow = ensure_hub(session, hub_id)
    hub.last_down = max(hub.last_down, last_down)
    session.execute(
        update(DownlinkRow)
        .where(DownlinkRow.hub_id == hub_id, DownlinkRow.number <= last_down, DownlinkRow.acked.is_(False))
        .values(acked=True)
    )
    # Also those confirmed earlier: a hub whose store began anew says 0 and needs its prior again.
    rows = session.scalars(
        select(DownlinkRow)
        .where(DownlinkRow.hub_id == hub_id, DownlinkRow.number > last_down, DownlinkRow.expires_us > now_us)
        .order_by(DownlinkRow.number)
    ).all()
    return _messages(rows)


def _unconfirmed(session: Session, now_us: int) -> list[Downlink]:
    rows = session.scalars(
        select(DownlinkRow)
        .where(DownlinkRow.acked.is_(False), DownlinkRow.expires_us > now_us)
        .order_by(DownlinkRow.hub_id, DownlinkRow.number)
    ).all()
    return _messages(rows)


def _messages(rows: Sequence[DownlinkRow]) -> list[Downlink]:
    return [decode(row.body, Downlink) for row in rows]
