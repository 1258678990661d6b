"""From proposal to decision and deed: the only places that change an advice's state. Functions of one write session.

    proposed --approve (as it is, or with another dose)--> approved --handed to the downlink--> sent
        +----reject----> rejected                        a hub's own, under a standing policy: alone

A decision is final, is made once, names who made it, and lands in the audit log in the same transaction, with the
digest of the data that it rests on. Whether the hub set it aside, what the person did, and how it came out, is added
later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud import audit, closing
from cloud.db import AdviceRow, PolicyRow
from cloud.queries import overtaken
from core.advice_types import HARD_MAX_DOSE_U, HARD_MAX_IOB_U, QUESTIONS
from core.errors import InputError, RefusedError
from core.messages import Confirmation, DoseAdvice, OwnAdvice, StandingPolicy, decode, encode
from core.units import US_PER_DAY

NOBODY: Final = "nobody: demo mode approves by itself"
MAX_NOTE: Final = 2000
MAX_NAME: Final = 80
MAX_P_BELOW_70: Final = 0.05  # an edited dose is held to the same bounds as the adviser's own
MAX_P_BELOW_54: Final = 0.01
MAX_POLICY_DAYS: Final = 30  # a therapy that nobody looks at for longer has outlived its approval


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
    audit.note(
        session,
        now_us,
        "adviser",
        f"{outcome} advice {advice.advice_id}, model {advice.model}",
        evidence_of(advice),
    )
    return True


def decide(
    session: Session,
    advice_id: str,
    *,
    approve: bool,
    who: str,
    note: str,
    now_us: int,
    dose_u: float | None = None,
) -> DoseAdvice:
    """Approve (``dose_u``: with this dose instead) or reject a proposal.

    RefusedError when it is decided already, its meal's time has passed, its insulin or food is on record, or the dose is
    not within the limits; InputError for what makes no sense.
    """
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
    why = overtaken(session, row.hub_id, advice) or closing.past(advice, now_us) if approve else ""
    if why:
        raise RefusedError(f"{why}: it cannot be approved any more", mend="wait for the next advice")
    if not approve and not note:
        raise InputError("a rejection needs a note", where="note", mend="say why in a few words")
    verb = "approved" if approve else "rejected"
    if approve:
        if dose_u is not None and dose_u != advice.dose_u:
            if not note:
                raise InputError("a changed dose needs a note", where="note", mend="say why in a few words")
            advice, verb = edited(advice, dose_u), "approved with another dose"
        advice = msgspec.structs.replace(advice, approved_by=who, approved_us=now_us)
        row.body = encode(advice)
    row.state = "approved" if approve else "rejected"
    row.decided_by, row.decided_us, row.note = who, now_us, note or None
    audit.note(session, now_us, who, f"{verb} advice {advice_id}", evidence_of(advice))
    return advice


def edited(advice: DoseAdvice, dose_u: float) -> DoseAdvice:
    """The advice with a clinician's dose, and the chances at the next dose above it that was simulated.

    RefusedError beyond the limits that stood over the advice, or where a low would be too likely.
    """
    if not math.isfinite(dose_u) or dose_u < 0:
        raise InputError("must be a number of units, 0 or more", where="dose")
    if dose_u > min(advice.max_dose_u, HARD_MAX_DOSE_U):
        raise RefusedError(
            f"at most {min(advice.max_dose_u, HARD_MAX_DOSE_U):g} U are allowed for this person",
            mend="change the limit in the patient file first",
        )
    if advice.refused is not None and dose_u > 0:
        raise RefusedError(
            "no dose was advised, so none was simulated", mend="reject it, and decide outside of this program"
        )
    rung = next((r for r in sorted(advice.ladder) if r[0] >= dose_u - 1e-9), None)
    if dose_u > 0 and rung is None:
        raise RefusedError("no dose as large as this was simulated", mend="choose a smaller one")
    p70, p54 = (advice.p_below_70, advice.p_below_54) if rung is None else rung[1:]
    if dose_u > 0 and (p70 > MAX_P_BELOW_70 or p54 > MAX_P_BELOW_54):
        raise RefusedError("with this dose a low is too likely", mend="choose a smaller one")
    change = f"A clinician changed the adviser's {advice.dose_u:g} U to {dose_u:g} U."
    return msgspec.structs.replace(
        advice,
        dose_u=dose_u,
        adviser_u=advice.dose_u,
        action="bolus" if dose_u > 0 else "none",
        p_below_70=p70,
        p_below_54=p54,
        reasons=(change, *advice.reasons),
        limits=(*advice.limits, "The chances are upper bounds for the changed dose."),
        band=(),
    )


def evidence_of(advice: DoseAdvice) -> str:
    """What the audit log says an advice rests on."""
    return f"record {advice.evidence or 'unknown'}, newest {advice.data_time_us}, {advice.draws} courses"


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
        audit.note(session, now_us, "adviser", f"handed advice {advice_id} to the downlink")


# ---- what the person did ----------------------------------------------------------------------------------


def confirm(session: Session, hub_id: str, said: Confirmation, now_us: int) -> bool:
    """Keep what the person says was done; False for an unknown advice or one that was confirmed before."""
    row = session.get(AdviceRow, said.advice_id)
    if row is None or row.hub_id != hub_id or row.confirmed_us is not None:
        return False
    row.confirmed_us, row.took_u = said.time_us, said.took_u
    followed = "followed" if said.took_u > 0 else "did not follow"
    audit.note(session, now_us, f"person of {hub_id}", f"{followed} advice {said.advice_id}")
    return True


def set_aside(session: Session, hub_id: str, told: Mapping[str, str], now_us: int) -> int:
    """Keep which advice the hub lets nobody use, and why; returns how much of it was not known before.

    A hub says it with each report, so nothing is lost if one is.
    """
    if not told:
        return 0
    rows = session.scalars(
        select(AdviceRow).where(
            AdviceRow.advice_id.in_(tuple(told)),
            AdviceRow.hub_id == hub_id,
            AdviceRow.state.in_(("approved", "sent", "alone")),
            AdviceRow.set_aside.is_(None),
        )
    ).all()
    for row in rows:
        row.set_aside = told[row.advice_id] or "void"
        audit.note(session, now_us, f"hub {hub_id}", f"set aside advice {row.advice_id}: {row.set_aside}")
    return len(rows)


def keep_own(session: Session, hub_id: str, own: OwnAdvice, now_us: int) -> bool:
    """Keep what a hub advised alone; False when it is there already."""
    advice = own.advice
    if session.get(AdviceRow, advice.advice_id) is not None:
        return False
    session.add(
        AdviceRow(
            advice_id=advice.advice_id,
            hub_id=hub_id,
            created_us=advice.approved_us,
            state="alone",
            body=encode(advice),
            decided_by=advice.approved_by[:MAX_NAME],
            decided_us=advice.approved_us,
        )
    )
    what = f"advised alone {advice.advice_id} under policy {own.policy_id}"
    audit.note(session, now_us, f"hub {hub_id}", what, evidence_of(advice))
    return True


# ---- standing policies ------------------------------------------------------------------------------------


def approve_policy(session: Session, hub_id: str, policy: StandingPolicy, now_us: int) -> None:
    """A clinician's leave for the hub to advise alone. InputError for what no policy may say."""
    if not policy.approved_by.strip():
        raise InputError("a policy needs the name of who approves it", where="approved_by")
    if not policy.person:
        raise RefusedError("the hub has not said yet whom it lives with", mend="wait for its next report")
    if not policy.questions or any(q not in QUESTIONS for q in policy.questions):
        raise InputError("must be among " + " ".join(QUESTIONS), where="questions")
    for name, value, most in (
        ("max_dose_u", policy.max_dose_u, HARD_MAX_DOSE_U),
        ("max_iob_u", policy.max_iob_u, HARD_MAX_IOB_U),
        ("max_per_day", policy.max_per_day, 24),
    ):
        if not (math.isfinite(value) and 0 < value <= most):
            raise InputError(f"must lie in 0..{most:g}", where=name)
    if not 70 <= policy.target_mgdl <= 180:
        raise InputError("must lie in 70..180 mg/dL", where="target_mgdl")
    if not now_us < policy.expires_us <= now_us + MAX_POLICY_DAYS * US_PER_DAY:
        raise InputError(f"must end within {MAX_POLICY_DAYS} days", where="expires")
    session.add(
        PolicyRow(
            policy_id=policy.policy_id,
            hub_id=hub_id,
            approved_us=now_us,
            expires_us=policy.expires_us,
            sent=False,
            body=encode(policy),
        )
    )
    audit.note(
        session,
        now_us,
        policy.approved_by,
        f"approved standing policy {policy.policy_id} for {hub_id} ({' '.join(policy.questions)})",
        f"person {policy.person or 'unknown'}, until {policy.expires_us}",
    )


def waiting_policies(session: Session, now_us: int) -> list[tuple[str, StandingPolicy]]:
    """(hub_id, policy) of those that wait for the downlink and still hold."""
    rows = session.scalars(
        select(PolicyRow)
        .where(PolicyRow.sent.is_(False), PolicyRow.expires_us > now_us)
        .order_by(PolicyRow.approved_us)
    )
    return [(row.hub_id, decode(row.body, StandingPolicy)) for row in rows]


def mark_policy_sent(session: Session, policy_id: str, now_us: int) -> None:
    """The downlink holds it durably."""
    row = session.get(PolicyRow, policy_id)
    if row is not None and not row.sent:
        row.sent = True
        audit.note(session, now_us, "adviser", f"handed policy {policy_id} to the downlink")
