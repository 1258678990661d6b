"""Who did what on which evidence, in a chain: each line seals the one before it.

A line's mark is a keyed digest (the database's key) over the mark before it and its own content, and the newest
mark is kept apart. So a line that is changed, removed, put in or moved shows at that place, and a cut-off end
shows too. Whoever holds the key could write the chain anew; the key lies outside the database.
Lines of before version 2 have no mark; the first marked line seals how many there were and what they said.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud.sealing import Sealer, sealer_of
from cloud.tables import AuditRow, MetaRow
from core.errors import TamperedError

HEAD: Final = "audit_head"
MAX_WHO: Final = 80
MAX_WHAT: Final = 400


def note(session: Session, now_us: int, who: str, what: str, evidence: str = "") -> None:
    """Add a line. ``evidence``: digests and versions that the act rested on; never a reading or a dose."""
    sealer = sealer_of(session.get_bind().dialect)
    head = session.get(MetaRow, HEAD)
    before = head.value if head is not None else _first_mark(session, sealer)
    row = AuditRow(time_us=now_us, who=who[:MAX_WHO], what=what[:MAX_WHAT], evidence=evidence[:MAX_WHAT])
    row.chain = _mark(sealer, before, row)
    session.add(row)
    if head is None:
        session.add(MetaRow(name=HEAD, value=row.chain))
    else:
        head.value = row.chain
    session.flush()


def verify(session: Session) -> int:
    """The number of marked lines when the chain is whole; TamperedError names the first line that is not."""
    sealer = sealer_of(session.get_bind().dialect)
    before, count = _first_mark(session, sealer), 0
    for row in session.scalars(select(AuditRow).where(AuditRow.chain.is_not(None)).order_by(AuditRow.id)):
        if row.chain != _mark(sealer, before, row):
            raise TamperedError("the audit log was changed", where=f"audit line {row.id}")
        before, count = row.chain, count + 1
    head = session.get(MetaRow, HEAD)
    if count and (head is None or head.value != before):
        raise TamperedError("the end of the audit log is missing", where="audit")
    if not count and head is not None:
        raise TamperedError("the audit log is missing", where="audit")
    return count


def _mark(sealer: Sealer, before: bytes, row: AuditRow) -> bytes:
    parts = (str(row.time_us), row.who, row.what, row.evidence or "")
    content = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode() for p in parts)
    return sealer.digest(b"audit\0" + before + content)


def _first_mark(session: Session, sealer: Sealer) -> bytes:
    """Over what stood before there were marks."""
    old = select(AuditRow).where(AuditRow.chain.is_(None)).order_by(AuditRow.id)
    text = "\n".join(f"{row.id} {row.time_us} {row.who} {row.what}" for row in session.scalars(old))
    return sealer.digest(b"audit begins\0" + text.encode())
