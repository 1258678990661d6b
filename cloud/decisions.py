"""From proposal to decision: the only places that change an advice's state. Functions of one write session.

    proposed ──approve──> approved ──handed to the downlink──> sent
        └────reject────> rejected

A decision is final, is made once, names who made it, and lands in the audit log in the same transaction.
"""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud.db import AdviceRow, AuditRow
from cloud.queries import ADVICE_GRACE_US
from core.errors import InputError, RefusedError
from core.messages import DoseAdvice, decode, encode

NOBODY: Final = "nobody: demo mode approves by itself"
MAX_NOTE: Final = 2000
MAX_NAME: Final = 80


def propose(session: Session, hub_id: str, advice: DoseAdvice, now_us: int) -> bool:
    """Store a proposal for a clinician; False when this very advice is there already."""
    if session.get(AdviceRow, advice.advice_id) is not None:
        return False
    session.add(
        AdviceRow(
            advice_id=advice.advice_id,
            hub_id=hub_id,
            created_us=now_us,
            state="proposed",
            body=encode(advice),
        )
    )
    outcome = "refused" if advice.refused else "proposed"
    _audit(session, now_us, "adviser", f"{outcome} advice {advice.advice_id}, model {advice.model}")
    return True


def decide(
    session: Session, advice_id: str, *, approve: bool, who: str, note: str, now_us: int
) -> DoseAdvice:
    """Approve or reject a proposal. RefusedError when it is decided already or lapsed; InputError otherwise."""
    who, note = who.strip(), note.strip()
    if not who or len(who) > MAX_NAME:
        raise InputError("a decision needs the name of who decides", where="decided_by")
    if len(note) > MAX_NOTE:
        raise InputError(f"the note is longer than {MAX_NOTE} characters", where="note", mend="shorten it")
    row = session.scalars(
        select(AdviceRow).where(AdviceRow.advice_id == advice_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise InputError("there is no such advice", where="advice_id")
    if row.state != "proposed":
        raise RefusedError(f"this advice is {row.state} already", mend="reload the page")
    advice = decode(row.body, DoseAdvice)
    if approve and now_us > advice.for_time_us + ADVICE_GRACE_US:
        raise RefusedError("its time has passed", mend="reject it, or wait for the next")
    if not approve and not note:
        raise InputError("a rejection needs a note", where="note", mend="say why in a few words")
    if approve:
        advice = msgspec.structs.replace(advice, approved_by=who, approved_us=now_us)
        row.body = encode(advice)
    row.state = "approved" if approve else "rejected"
    row.decided_by, row.decided_us, row.note = who, now_us, note or None
    _audit(session, now_us, who, f"{row.state} advice {advice_id}")
    return advice


def approved(session: Session) -> list[tuple[str, DoseAdvice]]:
    """(hub_id, advice) of all that wait for the downlink, oldest decision first."""
    rows = session.scalars(
        select(AdviceRow)
        .where(AdviceRow.state == "approved")
        .order_by(AdviceRow.decided_us, AdviceRow.advice_id)
    )
    return [(row.hub_id, decode(row.body, DoseAdvice)) for row in rows]


def mark_sent(session: Session, advice_id: str, now_us: int) -> None:
    """The downlink holds it durably."""
    row = session.get(AdviceRow, advice_id)
    if row is not None and row.state == "approved":
        row.state = "sent"
        _audit(session, now_us, "adviser", f"handed advice {advice_id} to the downlink")


def _audit(session: Session, now_us: int, who: str, what: str) -> None:
    session.add(AuditRow(time_us=now_us, who=who[:80], what=what[:400]))
