"""``hometwin effect``: what a correction does to glucose, asked of records, and of the twin beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from core.causal.effect import Comparison, compare_with_twin
from core.causal.estimate import Estimate
from core.causal.from_records import FromRecords, ask
from core.causal.moments import Moments, moments
from core.causal.on_twin import OnTwin, average, interval
from core.causal.twin_graph import ACTIVITY, GLUCOSE_NOW, ILLNESS, INSULIN
from core.errors import InputError, RefusedError
from core.events import parse_event_time
from core.messages import Sample
from core.patient import Patient
from core.predictive import HORIZON_LIMIT_MIN, STEP_MIN
from core.twin import Twin
from edge.readers import read_record
from edge.replay.command import load_patient
from edge.replay.outputs import write_whole

TABLE: Final = "effect.csv"
PAGE: Final = "report.html"
LEAST_MIN, MOST_MIN = 30.0, 360.0  # before, insulin has hardly begun; later, other things decide
THRESHOLD_MGDL: Final = (100.0, 400.0)
DEFAULT_MGDL: Final = 180.0  # the consensus range ends here
BEGIN_PERCENTILE: Final = (
    10.0  # of glucose at corrections: below, corrections are exceptions and find no comparison
)
FEW: Final = 20


class Person(NamedTuple):
    """One recording."""

    name: str
    patient: Patient
    samples: tuple[Sample, ...]
    moments: Moments


class TwinSays(NamedTuple):
    """The twin's answer at the same corrections, mg/dL; intervals 95 %, of the posterior and with the structure's error."""

    comparison: Comparison  # of the decision, with the records
    decision: tuple[float, float]  # interval with the structure's error
    alone: tuple[float, float, float]  # mean and such an interval of the dose alone
    moments: int


class Asked(NamedTuple):
    """Everything that the page shows."""

    records: FromRecords
    twin: TwinSays | None
    above_mgdl: float
    after_min: float
    names: tuple[str, ...]


def effect(
    events: Sequence[Path],
    patient_files: Sequence[Path],
    out: Path,
    above_mgdl: float | None = None,
    after_min: float = 120.0,
    ill: Sequence[str] = (),
    never_ill: bool = False,
    never_active: bool = False,
    with_twin: bool = True,
    draws: int = 200,
    seed: int = 0,
) -> list[str]:
    """Ask recordings into a folder; returns lines for the terminal.

    patient_files: none, one for all, or one for each recording. ill: "TIME..TIME" each, of the one recording.
    InputError or ConfigError for what cannot be used or answered, before anything in ``out`` is touched.
    """
    from edge.effect.report import report_html

    _check(events, patient_files, above_mgdl, after_min, ill, never_ill, draws)
    known = () if never_ill else ill or None
    patients = _patients(patient_files, len(events))
    recordings = [_read(path, patient) for path, patient in zip(events, patients, strict=True)]
    if above_mgdl is None:
        above_mgdl = begins(recordings)
    people = [
        _person(path.name, patient, samples, above_mgdl, after_min, known, never_active)
        for path, patient, samples in zip(events, patients, recordings, strict=True)
    ]
    try:
        records = ask([p.moments for p in people])
        twin = _twin(people, records, above_mgdl, after_min, draws, seed) if with_twin else None
    except RefusedError as err:
        raise InputError(err.what, where="refused", mend=_mend(err)) from None
    asked = Asked(records, twin, above_mgdl, after_min, tuple(p.name for p in people))
    write_whole(out, {TABLE: table(asked), PAGE: report_html(asked)})
    return [*lines(asked), f"see {out / PAGE}"]


def rows(asked: Asked) -> list[tuple[str, float, float, float, str]]:
    """(who says, effect, low, high, why not) with 95 % intervals; nan where there is none."""
    nan = float("nan")
    found = [_row("adjusted for nothing, all moments", asked.records.everywhere)]
    found.append(_row("adjusted for nothing, where both could happen", asked.records.naive))
    for tried in asked.records.tried:
        whom = "those who corrected" if tried.target == "treated" else "all"
        words = f"{METHOD_WORDS[tried.method]}, {whom}"
        if tried.answer is None:
            found.append((words, nan, nan, nan, tried.refused))
        else:
            found.append(_row(words, tried.answer.estimate))
    if asked.twin is not None:
        twin = asked.twin
        found.append(
            ("the twin, g-computation: the decision", twin.comparison.twin_effect, *twin.decision, "")
        )
        found.append(("the twin, g-computation: the dose alone", *twin.alone, ""))
    return found


METHOD_WORDS: Final = {
    "g-computation": "standardisation (outcome model)",
    "ipw": "inverse probability weights",
    "doubly robust": "doubly robust",
}


def table(asked: Asked) -> str:
    """effect.csv, mg/dL."""
    text = ["who,effect,low,high,refused"]
    for who, mean, low, high, refused in rows(asked):
        numbers = ",".join("" if v != v else f"{v:.2f}" for v in (mean, low, high))
        text.append(f'"{who}",{numbers},"{refused}"')
    return "\n".join(text) + "\n"


def lines(asked: Asked) -> list[str]:
    """What the terminal says."""
    r = asked.records
    said = [
        f"{r.main.identification.words()}",
        f"{r.treated} corrections, and {r.untreated} moments without one, above {asked.above_mgdl:g} mg/dL; "
        f"glucose {asked.after_min:g} min later, mg/dL (95 %):",
    ]
    for who, mean, low, high, refused in rows(asked):
        said.append(
            f"  {who}: refused: {refused}" if refused else f"  {who}: {mean:+.1f} ({low:+.1f} to {high:+.1f})"
        )
    said.append(e_value_words(asked))
    if asked.twin is not None:
        said.append(f"the model's equations beside the records: {asked.twin.comparison.words()}")
    if r.always_the_same:
        said.append(
            f"note: {', '.join(r.always_the_same)} never varied at these moments: the answer is about such moments"
        )
    said.append(f"note: {by_words(asked)}")
    return said


def e_value_words(asked: Asked) -> str:
    """How fragile the answer is."""
    e = asked.records.main.e_value
    return (
        f"E-value {e.point:.1f}, of the interval's near end {e.interval:.1f}: so many times likelier would an unmeasured "
        "cause have to make both the correction and a high outcome to explain the effect away"
    )


def by_words(asked: Asked) -> str:
    """What the intervals rest on."""
    r = asked.records
    if r.by == "person":
        return f"intervals are over {r.main.estimate.groups} people"
    return (
        f"intervals are over {r.main.estimate.groups} days of {'one person' if r.people == 1 else f'{r.people} people'}: "
        "about them, nobody else"
    )


def _row(words: str, found: Estimate) -> tuple[str, float, float, float, str]:
    return words, found.effect, found.low, found.high, ""


def _check(
    events: Sequence[Path],
    patient_files: Sequence[Path],
    above_mgdl: float | None,
    after_min: float,
    ill: Sequence[str],
    never_ill: bool,
    draws: int,
) -> None:
    if len(patient_files) not in (0, 1, len(events)):
        raise InputError("give none, one, or one for each recording", where="--patient")
    if above_mgdl is not None and not THRESHOLD_MGDL[0] <= above_mgdl <= THRESHOLD_MGDL[1]:
        raise InputError(f"must lie in {THRESHOLD_MGDL[0]:g}..{THRESHOLD_MGDL[1]:g} mg/dL", where="--above")
    if not (LEAST_MIN <= after_min <= min(MOST_MIN, HORIZON_LIMIT_MIN) and after_min % STEP_MIN == 0):
        raise InputError(
            f"must be a multiple of {STEP_MIN:g} in {LEAST_MIN:g}..{MOST_MIN:g} min", where="--after"
        )
    if ill and never_ill:
        raise InputError("contradicts --never-ill", where="--ill")
    if ill and len(events) > 1:
        raise InputError("tells of one person: ask of one recording", where="--ill")
    if not 20 <= draws <= 5000:
        raise InputError("must lie in 20..5000", where="--draws")


def _patients(files: Sequence[Path], wanted: int) -> list[Patient]:
    if not files:
        return [Patient()] * wanted
    loaded = [load_patient(path) for path in files]
    return loaded * wanted if len(loaded) == 1 else loaded


def _read(path: Path, patient: Patient) -> tuple[Sample, ...]:
    found = read_record(path, ZoneInfo(patient.timezone)).samples
    return tuple(sorted(found, key=lambda s: (s.time_us, s.seq)))


def begins(recordings: Sequence[Sequence[Sample]]) -> float:
    """Glucose at which corrections begin in these records, mg/dL; DEFAULT_MGDL where there are hardly any."""
    zone = ZoneInfo("UTC")
    glucose = np.concatenate(
        [
            m.columns[GLUCOSE_NOW][m.eligible & (m.columns[INSULIN] > 0), 0]
            for m in (
                moments(r, zone, above_mgdl=THRESHOLD_MGDL[0], after_min=0.0, waking_h=(0, 24))
                for r in recordings
            )
        ]
    )
    if glucose.size < FEW:
        return DEFAULT_MGDL
    return float(np.floor(np.percentile(glucose, BEGIN_PERCENTILE)))


def _person(
    name: str,
    patient: Patient,
    samples: tuple[Sample, ...],
    above_mgdl: float,
    after_min: float,
    ill: Sequence[str] | None,
    never_active: bool,
) -> Person:
    zone = ZoneInfo(patient.timezone)
    spans = None if ill is None else [_span(text, zone) for text in ill]
    found = moments(samples, zone, above_mgdl=above_mgdl, after_min=after_min, ill=spans)
    if never_active:
        found.columns[ACTIVITY] = 0.0 * found.dose_u
    return Person(name, patient, samples, found)


def _span(text: str, zone: ZoneInfo) -> tuple[int, int]:
    start, dots, end = text.partition("..")
    if not dots:
        raise InputError(
            "must read TIME..TIME", where="--ill", mend="e.g. 2026-01-03T08:00..2026-01-05T20:00"
        )
    span = parse_event_time(start, zone, "--ill"), parse_event_time(end, zone, "--ill")
    if span[0] >= span[1]:
        raise InputError("must end after it begins", where="--ill")
    return span


def _twin(
    people: Sequence[Person],
    records: FromRecords,
    above_mgdl: float,
    after_min: float,
    draws: int,
    seed: int,
) -> TwinSays:
    asked = OnTwin(after_min, draws)
    for number, person in enumerate(people):
        m = person.moments
        kept = m.eligible & (m.columns[INSULIN] > 0)
        decided = list(zip(m.time_us[kept].tolist(), m.dose_u[kept].tolist(), strict=True))
        if decided:
            twin = Twin(person.patient, model=person.patient.model.name, seed=seed + number)
            asked.follow(twin, person.samples, decided, above_mgdl)
    decision, alone = asked.against_waiting(records.chance, seed=seed), asked.effects()
    compared = compare_with_twin(records.main.estimate, lambda *_: average(decision), (0.0, 1.0))
    return TwinSays(compared, interval(decision), (average(alone)[0], *interval(alone)), len(asked))


def _mend(err: RefusedError) -> str:
    said = []
    if ILLNESS in err.what:
        said.append("say when the person was ill (--ill TIME..TIME), or that they were not (--never-ill)")
    if ACTIVITY in err.what:
        said.append("record heart rates, or say that there was no exercise (--never-active)")
    return "; ".join(said) or err.mend
