"""A piece of advice as HTML text: every field, its chances with their bounds, and its decision. Pure."""

from __future__ import annotations

from html import escape
from zoneinfo import ZoneInfo

from cloud.portal import words
from cloud.portal.blocks import table
from cloud.queries import AdviceCard
from core.chance import clopper_pearson_upper
from core.messages import DoseAdvice


def advice_block(card: AdviceCard, now_us: int, zone: ZoneInfo) -> str:
    """One piece of advice with all its fields and its decision."""
    a = card.advice
    title = "No dose advised" if a.refused else f"{a.dose_u:g} U bolus"
    meal = f"{a.carbs_g:.0f} g carbohydrate" if a.carbs_g > 0 else "correction, no carbohydrate"
    reasons = "".join(f"<li>{escape(r)}</li>" for r in a.reasons)
    limits = "".join(f"<li>{escape(x)}</li>" for x in a.limits)
    model = escape(a.model) or "not given"
    age = words.span_words(card.created_us - a.data_time_us)
    return (
        f'<header><span class="state {_state_css(card, now_us)}">{_state_words(card, now_us)}</span>'
        f"<h3>{title}</h3><p>{meal}, at about {words.moment(a.for_time_us, now_us, zone)}</p></header>"
        f"{_chances(a)}"
        f'<ul class="reasons">{reasons}</ul>'
        f'<dl class="pairs"><dt>Made</dt><dd>{words.moment(card.created_us, now_us, zone)}, from data {age} old</dd>'
        f"<dt>Newest reading</dt><dd>{words.moment(a.data_time_us, now_us, zone)}</dd>"
        f"<dt>Model</dt><dd>{model}</dd><dt>Number</dt><dd>{escape(a.advice_id)}</dd>{_decision(card, now_us, zone)}</dl>"
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


def _chances(advice: DoseAdvice) -> str:
    if advice.draws < 1 or not (0 <= advice.p_below_70 <= 1 and 0 <= advice.p_below_54 <= 1):
        return '<p class="quiet">No simulation was made.</p>'
    rows = []
    for name, share, limit in (
        ("below 70", advice.p_below_70, "5 %"),
        ("below 54", advice.p_below_54, "1 %"),
    ):
        bound = clopper_pearson_upper(round(share * advice.draws), advice.draws)
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
    if card.lapsed(now_us):
        return "Lapsed undecided"
    return {
        "proposed": "Waits for your decision",
        "approved": "Approved, going out",
        "sent": "Approved and sent",
        "rejected": "Rejected",
    }.get(card.state, escape(card.state))


def _state_css(card: AdviceCard, now_us: int) -> str:
    return "lapsed" if card.lapsed(now_us) else escape(card.state)
