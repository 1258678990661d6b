"""``hometwin whatif``: read a recording, ask the twin, write the table and a page."""

from __future__ import annotations

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
from edge.readers import read_record
from edge.replay.command import load_patient
from edge.replay.outputs import iso, only_ours, write_whole
from edge.whatif.report import report_html

TABLE: Final = "counterfactual.csv"
PAGE: Final = "report.html"
HEADER: Final = (
    "time,factual_mean,factual_p05,factual_p95,cf_mean,cf_p05,cf_p95,effect_mean,effect_p05,effect_p95"
)
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
    answer = twin.whatif(parsed, start_us, end_us, draws=draws)
    texts = {
        TABLE: table(answer),
        PAGE: report_html(answer, changes, events.name, used, patient.timezone, time.time()),
    }
    write_whole(out, texts, BEGINNINGS)
    return lines(answer, out)


def table(answer: Counterfactual) -> str:
    """counterfactual.csv: one line each five minutes, mg/dL."""
    rows = [HEADER]
    courses = (answer.factual, answer.counterfactual, answer.effect)
    for k, time_us in enumerate(answer.times_us.tolist()):
        numbers = ",".join(f"{v:.2f}" for c in courses for v in (c.mean[k], c.p05[k], c.p95[k]))
        rows.append(f"{iso(time_us)},{numbers}")
    return "\n".join(rows) + "\n"


def lines(answer: Counterfactual, out: Path) -> list[str]:
    """What the terminal says."""
    mean, low, high = answer.mean_effect
    said = [
        f"{answer.question}: mean effect on glucose {mean:+.1f} mg/dL (90 %: {low:+.1f} to {high:+.1f}), {answer.draws} draws",
        f"below 70 mg/dL: {100 * answer.below_70[0]:.1f} % of the time, then {100 * answer.below_70[1]:.1f} %; "
        f"above 180: {100 * answer.above_180[0]:.1f} %, then {100 * answer.above_180[1]:.1f} %",
    ]
    if not answer.trustworthy:
        said.append("NOT TRUSTWORTHY: this question leaves the domain of the model")
    said += [f"{'CAUTION' if c.loud else 'note'}: {c.text}" for c in answer.cautions]
    said.append(f"see {out / PAGE}")
    return said
