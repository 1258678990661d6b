"""A piece of advice as HTML text: every field, its chances with their bounds, and its decision. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final
from zoneinfo import ZoneInfo

from cloud.outcomes import Scorecard
from cloud.portal import words
from cloud.portal.blocks import table
from cloud.queries import AdviceCard
from core.chance import clopper_pearson_upper
from core.messages import DoseAdvice, StandingPolicy
from core.units import US_PER_MIN

SET_ASIDE: Final = {
    "insulin_after": "insulin came before it",
    "insulin_late": "insulin came on record that it does not know of",
    "other_record": "it was made for another record than the hub's",
    "another_open": "another advised dose may have been taken",
    "noted_not_on_record": "a dose that the person noted is not on record",
}


def advice_block(card: AdviceCard, now_us: int, zone: ZoneInfo) -> str:
    """One piece of advice with all its fields and its decision."""
    a = card.advice
    title = "No dose advised" if a.refused else f"{a.dose_u:g} U bolus"
    if a.adviser_u is not None:
        title += f" <small>(adviser: {a.adviser_u:g} U)</small>"
    meal = f"{a.carbs_g:.0f} g carbohydrate" if a.carbs_g > 0 else "correction, no carbohydrate"
    reasons = "".join(f"<li>{escape(r)}</li>" for r in a.reasons)
    limits = "".join(f"<li>{escape(x)}</li>" for x in a.limits)
    model = escape(a.model) or "not given"
    age = words.span_words(card.created_us - a.data_time_us)
    return (
        f'<header><span class="state {_state_css(card, now_us)}">{_state_words(card, now_us)}</span>'
        f"<h3>{title}</h3><p>{meal}, at about {words.moment(a.for_time_us, now_us, zone)}</p></header>"
        f"{_closed(card, now_us)}"
        f"{_chances(a)}"
        f"{_why(a)}"
        f'<ul class="reasons">{reasons}</ul>'
        f"{_expected(a)}"
        f'<dl class="pairs"><dt>Made</dt><dd>{words.moment(card.created_us, now_us, zone)}, from data {age} old</dd>'
        f"<dt>Newest reading</dt><dd>{words.moment(a.data_time_us, now_us, zone)}</dd>"
        f"<dt>Model</dt><dd>{model}</dd><dt>Number</dt><dd>{escape(a.advice_id)}</dd>{_decision(card, now_us, zone)}{_done(card, now_us, zone)}</dl>"
        f"{_changes(a)}"
        f'<details><summary>Limits and assumptions</summary><ul class="limits">{limits}</ul></details>'
    )


def advice_title(card: AdviceCard, now_us: int, zone: ZoneInfo) -> str:
    """One line for a decided advice. Plain text, not HTML."""
    a = card.advice
    what = "No dose" if a.refused else f"{a.dose_u:g} U for {a.carbs_g:.0f} g"
    return f"{words.moment(a.for_time_us, now_us, zone)} · {what} · {_state_words(card, now_us).lower()}"


def advice_summary(advice: DoseAdvice, now_us: int, zone: ZoneInfo) -> str:
    """One sentence to confirm before a decision."""
    at = words.moment(advice.for_time_us, now_us, zone)
    if advice.refused:
        return f"“No dose”, because {escape(advice.refused)} (for about {at})"
    return f"{advice.dose_u:g} U for {advice.carbs_g:.0f} g at about {at}"


def scorecard_block(card: Scorecard | None) -> str:
    """How the adviser's promises held, beside what was stated."""
    if card is None:
        return '<p class="empty">No advice has been compared with its outcome yet.</p>'
    rows = [
        f'<tr><th scope="row">below {level}</th><td class="number">{count} of {card.followed}</td>'
        f'<td class="number">{_share(count, card.followed)}</td><td class="number">≤ {100 * stated:.1f} %</td>'
        f'<td class="number">{p:.2f}</td></tr>'
        for level, count, stated, p in (
            ("70", card.lows_70, card.stated_70, card.p_70),
            ("54", card.lows_54, card.stated_54, card.p_54),
        )
    ]
    band = "–" if card.in_band is None else f"{100 * card.in_band:.0f} %"
    stop = (
        '<p class="problem">Lows came far more often than stated: the adviser has stopped proposing.</p>'
        if card.suspended
        else ""
    )
    return (
        stop
        + table(
            ("After advice followed", "Seen", "Share", "Stated", "p"),
            rows,
            "Lowest reading within the hours of an advice",
        )
        + f'<p class="quiet">{card.scored} compared, {card.followed} followed; {100 * card.in_range:.0f} % of readings in'
        f" 70–180, {band} within the predicted 90 % band. p: how probable so many lows are if what was stated is"
        " true.</p>"
    )


def policies_block(policies: Sequence[StandingPolicy], now_us: int, zone: ZoneInfo) -> str:
    """Standing policies that hold now."""
    if not policies:
        return '<p class="empty">None: the hub gives no advice of its own.</p>'
    items = [
        f"<li>{escape(', '.join(p.questions))}: at most {p.max_dose_u:g} U a dose, {p.max_iob_u:g} U on board,"
        f" {p.max_per_day} doses a day; until {words.moment(p.expires_us, now_us, zone)}, by {escape(p.approved_by)}</li>"
        for p in policies
    ]
    return f'<ul class="limits">{"".join(items)}</ul>'


def _share(count: int, n: int) -> str:
    return words.percent(100 * count / n) if n else "–"


def _why(advice: DoseAdvice) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in advice.why)
    return f'<ul class="why">{items}</ul>' if items else ""


def _expected(advice: DoseAdvice) -> str:
    """Predicted glucose with and without the dose, each hour and a half or so."""
    without = {row[0]: row for row in advice.band_without}
    rows = [
        f'<tr><th scope="row">{words.span_words(round(minute * US_PER_MIN))}</th>'
        f'<td class="number">{middle:.0f} ({low:.0f}–{high:.0f})</td>'
        f'<td class="number">{without[minute][2]:.0f} ({without[minute][1]:.0f}–{without[minute][3]:.0f})</td></tr>'
        for minute, low, middle, high in advice.band
        if minute % 60 == 0 and minute in without
    ]
    if not rows:
        return ""
    return table(("After", "With it", "Without"), rows, "Expected glucose, mg/dL (90 %)")


def _closed(card: AdviceCard, now_us: int) -> str:
    """Why there is no button any more."""
    why = card.closed(now_us)
    return f'<p class="warn">It cannot be approved any more: {escape(why)}.</p>' if why else ""


def _changes(advice: DoseAdvice) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in advice.changes)
    return (
        f'<details><summary>What would change this</summary><ul class="limits">{items}</ul></details>'
        if items
        else ""
    )


def _done(card: AdviceCard, now_us: int, zone: ZoneInfo) -> str:
    """What the person did, and how it came out."""
    parts = ""
    if card.confirmed_us is not None and card.took_u is not None:
        at = words.moment(card.confirmed_us, now_us, zone)
        parts += f"<dt>Taken</dt><dd>{card.took_u:g} U, said at {at}</dd>"
    if card.outcome is not None:
        o = card.outcome
        band = "" if o.in_band is None else f", {100 * o.in_band:.0f} % within the predicted band"
        parts += f"<dt>Outcome</dt><dd>lowest {words.glucose(o.lowest_mgdl)} mg/dL, {100 * o.in_range:.0f} % in range{band}</dd>"
    return parts


def _chances(advice: DoseAdvice) -> str:
    if advice.draws < 1 or not (0 <= advice.p_below_70 <= 1 and 0 <= advice.p_below_54 <= 1):
        return '<p class="quiet">No simulation was made.</p>'
    rows = []
    for name, share, limit in (
        ("below 70", advice.p_below_70, "5 %"),
        ("below 54", advice.p_below_54, "1 %"),
    ):
        # For a changed dose the shares are upper bounds already (cloud.decisions.edited).
        edited = advice.adviser_u is not None
        bound = share if edited else clopper_pearson_upper(round(share * advice.draws), advice.draws)
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="number">{words.percent(100 * share)}</td>'
            f'<td class="number">≤ {100 * bound:.1f} %</td><td class="number">{limit}</td></tr>'
        )
    hours = advice.horizon_min / 60
    caption = f"Chance of a low within {hours:g} h; {advice.draws} simulated courses"
    return table(("mg/dL", "Chance", "95 % sure", "Allowed"), rows, caption)


def _decision(card: AdviceCard, now_us: int, zone: ZoneInfo) -> str:
    if card.decided_by is None:
        return ""
    verb = "Rejected by" if card.state == "rejected" else "Approved by"
    at = words.moment(card.decided_us or 0, now_us, zone)
    note = f"<dt>Note</dt><dd>{escape(card.note)}</dd>" if card.note else ""
    return f"<dt>{verb}</dt><dd>{escape(card.decided_by)}, {at}</dd>{note}"


def _state_words(card: AdviceCard, now_us: int) -> str:
    if card.closed(now_us):
        return "Lapsed undecided"
    if card.set_aside:
        return f"Set aside by the hub: {SET_ASIDE.get(card.set_aside, 'it must not be used')}"
    return {
        "proposed": "Waits for your decision",
        "approved": "Approved, going out",
        "sent": "Approved and sent",
        "rejected": "Rejected",
        "alone": "Given by the hub under a standing policy",
    }.get(card.state, escape(card.state))


def _state_css(card: AdviceCard, now_us: int) -> str:
    return "lapsed" if card.closed(now_us) or card.set_aside else escape(card.state)
