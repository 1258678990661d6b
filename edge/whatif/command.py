"""``hometwin whatif``: read a recording, ask the twin, write the table and a page."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from core.causal.change import parse_all
from core.causal.counterfactual import Counterfactual
from core.drawing.style import page_begins
from core.errors import InputError
from core.events import parse_event_time
from core.twin import HISTORY_US, Twin
from edge.progress import still_working
from edge.readers import read_record
from edge.replay.command import load_patient, notes_of
from edge.replay.outputs import iso, only_ours, write_whole
from edge.whatif.report import report_html

TABLE: Final = "counterfactual.csv"
PAGE: Final = "report.html"
HEADER: Final = (
    "time,factual_mean,factual_p05,factual_p95,cf_mean,cf_p05,cf_p95,effect_mean,effect_p05,effect_p95"
)
TERMINAL_WORDS: Final = {
    "counterfactual": "counterfactual",
    "interventional": "interventional (no readings in the window)",
    "both": "partly counterfactual, partly interventional (the window outlasts the readings)",
}
BEGINNINGS: Final = {TABLE: f"{HEADER}\n", PAGE: page_begins("whatif")}


def whatif(
    events: Path,
    patient_file: Path | None,
    start: str,
    end: str,
    changes: Sequence[str],
    out: Path,
    draws: int,
    seed: int,
) -> list[str]:
    """Answer one question about a recording into a folder; returns lines for the terminal.

    start, end: ISO times, naive ones on the person's local clock. InputError or ConfigError for what cannot be used,
    before anything in ``out`` is touched.
    """
    patient = load_patient(patient_file)
    zone = ZoneInfo(patient.timezone)
    start_us = parse_event_time(start, zone, "--from")
    end_us = parse_event_time(end, zone, "--to")
    parsed = parse_all(changes, zone)
    only_ours(out, BEGINNINGS)
    record = read_record(events, zone)
    # The twin looks back 15 days at most; what came after the window tells nothing that may be used here.
    used = [s for s in record.samples if start_us - HISTORY_US < s.time_us < end_us]
    if not used:
        raise InputError(
            "holds nothing before the window ends", where=events.name, mend="check --from and --to"
        )
    twin = Twin(patient, seed=seed)
    twin.observe(used)
    with still_working("whatif", "fitting the person to the record and drawing courses"):
        answer = twin.whatif(parsed, start_us, end_us, draws=draws)
    notes = notes_of(record, patient_file)
    texts = {
        TABLE: table(answer),
        PAGE: report_html(answer, changes, events.name, used, patient.timezone, time.time(), notes),
    }
    write_whole(out, texts, BEGINNINGS)
    return lines(answer, out, notes)


def table(answer: Counterfactual) -> str:
    """counterfactual.csv: one line each five minutes, mg/dL."""
    rows = [HEADER]
    courses = (answer.factual, answer.counterfactual, answer.effect)
    for k, time_us in enumerate(answer.times_us.tolist()):
        numbers = ",".join(f"{v:.2f}" for c in courses for v in (c.mean[k], c.p05[k], c.p95[k]))
        rows.append(f"{iso(time_us)},{numbers}")
    return "\n".join(rows) + "\n"


def lines(answer: Counterfactual, out: Path, notes: Sequence[str] = ()) -> list[str]:
    """What the terminal says."""
    mean, low, high = answer.mean_effect
    said = [
        f"{TERMINAL_WORDS[answer.question]}: mean effect on glucose {mean:+.1f} mg/dL (90 %: {low:+.1f} to {high:+.1f}), {answer.draws} draws",
        f"below 70 mg/dL: {share_words(answer.below_70, answer.share_change(-math.inf, 70.0))}; "
        f"above 180: {share_words(answer.above_180, answer.share_change(180.0, math.inf))}",
    ]
    if not answer.trustworthy:
        said.insert(0, "NOT TRUSTWORTHY: this question leaves the domain of the model")
    said += [f"{'CAUTION' if c.loud else 'note'}: {c.text}" for c in answer.cautions]
    said += [f"note: {note}" for note in notes]
    said.append(f"see {out / PAGE}")
    return said


def share_words(share: tuple[float, float], change: tuple[float, float]) -> str:
    """A share of the window without and with the change, and what the change may be."""
    return (
        f"{100 * share[0]:.1f} % of the time, then {100 * share[1]:.1f} % "
        f"(90 %: {100 * change[0]:+.1f} to {100 * change[1]:+.1f} points)"
    )
