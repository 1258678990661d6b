"""``hometwin advise``: one question to the twin at one moment of a recording, answered from what was known then."""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from core.advice_types import HARD_MAX_CARBS_G, MODULATE, QUESTIONS, Advice, Policy, policy_of
from core.errors import InputError
from core.events import parse_event_time
from core.twin import Twin
from core.units import US_PER_MIN, US_PER_S
from edge.progress import still_working
from edge.readers import read_record
from edge.replay.command import load_patient

# Three readings of a usual sensor. Of a later moment the record says nothing, and a slip in the date is likelier.
MAX_PAST_END_US: Final = 15 * US_PER_MIN


def advise(
    events: Path,
    patient_file: Path | None,
    at: str,
    carbs_g: float,
    question: str | None,
    draws: int,
    now_us: int | None = None,
) -> tuple[Advice, ZoneInfo, int]:
    """The answer, the person's zone, and the moment asked about (µs UTC). What the file holds later is not used.

    Raises InputError or ConfigError for what cannot be used; for a wrong argument before the file is read, which
    takes a while, as the twin's work on it does.
    """
    patient = load_patient(patient_file)
    zone = ZoneInfo(patient.timezone)
    at_us = parse_event_time(at, zone, "--at")
    policy = policy_of(patient, draws).checked()
    _check_question(carbs_g, question)
    if at_us > (time.time_ns() // 1000 if now_us is None else now_us):
        raise InputError(
            "lies in the future", where="--at", mend="name a moment of the recording, with its time zone"
        )
    record = read_record(events, zone, now_us)
    known = [s for s in record.samples if s.time_us <= at_us]
    if not known:
        first = min((s.time_us for s in record.samples), default=0)
        raise InputError(
            f"lies before the recording, which begins at {_moment(first, zone)}",
            where="--at",
            mend="ask later",
        )
    last_us = max(s.time_us for s in record.samples)
    if at_us > last_us + MAX_PAST_END_US:
        raise InputError(
            f"lies after the recording, which ends at {_moment(last_us, zone)}",
            where="--at",
            mend=f"ask at most {MAX_PAST_END_US // US_PER_MIN:.0f} min after it",
        )
    twin = Twin(patient)
    twin.observe(known)
    with still_working("advise", "following the record and drawing courses"):
        return twin.advise(at_us, carbs_g, policy, question), zone, at_us


def _check_question(carbs_g: float, question: str | None) -> None:
    """What core.advice.advise says of such arguments, in its words, before the twin is made."""
    if not (math.isfinite(carbs_g) and 0 <= carbs_g <= HARD_MAX_CARBS_G):
        raise InputError(f"carbohydrate must lie in 0..{HARD_MAX_CARBS_G:g} g", where="carbs_g")
    if question and question not in (*QUESTIONS, MODULATE):
        raise InputError("unknown question", where="question", mend="use one of " + " ".join(QUESTIONS))
    if question in ("correction", "basal", MODULATE) and carbs_g > 0:
        raise InputError("carbohydrate belongs to the question 'meal'", where="carbs_g")


def no_patient_words() -> str:
    """What an answer without a patient file rests on instead: the defaults, and guesses that the answer lists."""
    assumed = Policy()
    return (
        f"No patient file was given (--patient). Assumed: the clock is UTC, the target {assumed.target_mgdl:g} mg/dL,"
        f" at most {assumed.max_dose_u:g} U at once and {assumed.max_iob_u:g} U on board; weight, usual basal insulin and"
        " ratios are guessed (see the assumptions)."
    )


def advice_json(answer: Advice) -> str:
    """The contract's JSON (DESIGN 4), and the rest of the answer."""
    tree: dict[str, Any] = msgspec.to_builtins(answer)
    return json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False)


def advice_lines(answer: Advice, zone: ZoneInfo, at_us: int) -> list[str]:
    """The same for people: what, why, how likely, and within what limits."""
    lines = [headline(answer), f"asked for {_moment(at_us, zone)}"]
    lines += [f"  {text}" for text in answer.why]
    lines += [f"- {text}" for text in answer.reasons]
    if answer.in_range is not None and answer.in_range_without is not None:
        lines.append(
            f"- Expected time in 70–180 mg/dL over {answer.horizon_min / 60:g} h: {100 * answer.in_range:.0f} %"
            f" with it, {100 * answer.in_range_without:.0f} % without."
        )
    for minutes in (60.0, 120.0, 180.0, 300.0):
        if minutes in answer.band.minutes and minutes in answer.band_without.minutes:
            i = answer.band.minutes.index(minutes)
            w = answer.band_without
            lines.append(
                f"- in {minutes / 60:g} h: {answer.band.p50[i]:.0f} mg/dL"
                f" ({answer.band.p05[i]:.0f}–{answer.band.p95[i]:.0f}); without it {w.p50[i]:.0f}"
                f" ({w.p05[i]:.0f}–{w.p95[i]:.0f})"
            )
    lines += ["What would change this:", *(f"- {text}" for text in answer.changes)] if answer.changes else []
    lines += ["Limits and assumptions:", *(f"- {text}" for text in (*answer.limits, *answer.assumptions))]
    lines.append(
        f"newest reading {_moment(at_us - round(answer.data_age_s * US_PER_S), zone)}, {_age(answer.data_age_s)}"
        f" before; model {answer.model}, {answer.draws} simulated courses"
    )
    return lines


def _age(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.0f} min"
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def headline(answer: Advice) -> str:
    """The answer in one line."""
    if answer.action == "carbs":
        return f"Eat {answer.eat_g:.0f} g of fast carbohydrate now. No insulin."
    if answer.refused:
        return "No dose is advised."
    if answer.action == "basal":
        return f"Basal rate {answer.basal_uph:g} U/h for the next {answer.horizon_min / 60:g} h."
    if answer.action == "bolus":
        what = f"for {answer.carbs_g:.0f} g" if answer.carbs_g > 0 else "as a correction"
        return f"Bolus {answer.dose_u:g} U {what}."
    return "Do nothing now: that is the best choice."


def _moment(time_us: int, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(time_us / US_PER_S, UTC).astimezone(zone):%Y-%m-%d %H:%M}"
