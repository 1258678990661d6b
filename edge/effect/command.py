"""``hometwin effect``: what a correction does to glucose, asked of records, and of the twin beside them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from core.causal.asked import Asked, Person, ask_people, by_words, doubts, e_value_words, rows
from core.causal.twin_graph import ACTIVITY, ILLNESS
from core.drawing.style import page_begins
from core.errors import InputError, RefusedError
from core.events import parse_event_time
from core.patient import Patient
from core.predictive import HORIZON_LIMIT_MIN, STEP_MIN
from edge.progress import still_working
from edge.readers import Record, read_record
from edge.replay.command import load_patient, notes_of
from edge.replay.outputs import only_ours, write_whole

TABLE: Final = "effect.csv"
PAGE: Final = "report.html"
HEADER: Final = "who,effect,low,high,refused"
BEGINNINGS: Final = {TABLE: f"{HEADER}\n", PAGE: page_begins("effect")}
LEAST_MIN, MOST_MIN = 30.0, 360.0  # before, insulin has hardly begun; later, other things decide
THRESHOLD_MGDL: Final = (100.0, 400.0)
# Of the shorter record's readings; two people share about one in a hundred by chance.
SHARED: Final = 0.1


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
    only_ours(out, BEGINNINGS)
    patients = _patients(patient_files, len(events))
    read = [_person(path, patient, ill, never_ill) for path, patient in zip(events, patients, strict=True)]
    people = [person for person, _ in read]
    _check_apart(events, read)
    try:
        with still_working(
            "effect", "comparing moments, and asking the twin" if with_twin else "comparing moments"
        ):
            asked = ask_people(
                people,
                above_mgdl,
                after_min,
                never_active=never_active,
                with_twin=with_twin,
                draws=draws,
                seed=seed,
            )
    except RefusedError as err:
        raise InputError(err.what, where="refused", mend=_mend(err)) from None
    names = [f"{path.name} ({_days(person)})" for path, person in zip(events, people, strict=True)]
    file = patient_files[0] if patient_files else None  # only whether there is one matters here
    notes = [
        f"{path.name}: {note}"
        for path, (_, record) in zip(events, read, strict=True)
        for note in notes_of(record, file)
    ]
    notes += _assumed_apart(events, [record for _, record in read])
    write_whole(out, {TABLE: table(asked), PAGE: report_html(asked, names, notes)}, BEGINNINGS)
    return [
        *(f"of {name}" for name in names),
        *lines(asked),
        *(f"note: {n}" for n in notes),
        f"see {out / PAGE}",
    ]


def table(asked: Asked) -> str:
    """effect.csv, mg/dL."""
    text = [HEADER]
    for who, mean, low, high, refused in rows(asked):
        numbers = ",".join("" if v != v else f"{v:.2f}" for v in (mean, low, high))
        text.append(f'"{who}",{numbers},"{refused}"')
    return "\n".join(text) + "\n"


def lines(asked: Asked) -> list[str]:
    """What the terminal says."""
    r = asked.records
    said = [
        f"{r.main.identification.words()}",
        f"{r.words()}, above {asked.above_mgdl:g} mg/dL; "
        f"glucose {asked.after_min:g} min later, mg/dL (95 %):",
    ]
    for who, mean, low, high, refused in rows(asked):
        said.append(
            f"  {who}: refused: {refused}" if refused else f"  {who}: {mean:+.1f} ({low:+.1f} to {high:+.1f})"
        )
    said += [f"CAUTION: {doubt}" for doubt in doubts(asked)]
    said.append(e_value_words(asked))
    if asked.twin is not None:
        said.append(f"the model's equations beside the records: {asked.twin.comparison.words()}")
    if r.always_the_same:
        said.append(
            f"note: {', '.join(r.always_the_same)} never varied at these moments: the answer is about such moments"
        )
    said.append(f"note: {by_words(asked)}")
    return said


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


def _check_apart(events: Sequence[Path], read: Sequence[tuple[Person, Record]]) -> None:
    """InputError when two recordings are of one person, by what they say of them or by their readings."""
    seen: list[tuple[frozenset[tuple[int, float]], frozenset[str]]] = []
    for path, (person, record) in zip(events, read, strict=True):
        readings = frozenset((s.time_us, s.value) for s in person.samples if s.kind == "cgm_mgdl")
        for other, owners in seen:
            if _shared(readings, other):
                why = "holds the same readings as another recording"
            elif record.owners & owners:
                why = "carries the name, user or device number of another recording"
            else:
                continue
            raise InputError(
                f"{why}: one person would count as two",
                where=path.name,
                mend="give each person's record once, exported as one",
            )
        seen.append((readings, record.owners))


def _assumed_apart(events: Sequence[Path], records: Sequence[Record]) -> list[str]:
    """What nothing tells: whether recordings that name nobody are of different people."""
    unnamed = [path.name for path, record in zip(events, records, strict=True) if not record.owners]
    if len(events) < 2 or not unnamed:
        return []
    return [f"each taken as a person of its own, for nothing in it says whose it is: {', '.join(unnamed)}"]


def _shared(one: frozenset[tuple[int, float]], other: frozenset[tuple[int, float]]) -> bool:
    """Whether two recordings are of one person: two people hardly read the same to the digit at the same moments."""
    return len(one & other) > SHARED * min(len(one), len(other))


def _days(person: Person) -> str:
    """First and last day of a record, by the person's clock."""
    zone = ZoneInfo(person.patient.timezone)
    first, last = (
        datetime.fromtimestamp(person.samples[k].time_us / 1e6, UTC).astimezone(zone) for k in (0, -1)
    )
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"


def _person(path: Path, patient: Patient, ill: Sequence[str], never_ill: bool) -> tuple[Person, Record]:
    zone = ZoneInfo(patient.timezone)
    spans = () if never_ill else [_span(text, zone) for text in ill] or None
    record = read_record(path, zone)
    samples = sorted(record.samples, key=lambda s: (s.time_us, s.seq))
    for text, (from_us, to_us) in zip(ill, spans or (), strict=bool(spans)):
        if to_us < samples[0].time_us or from_us > samples[-1].time_us:  # it would say: never ill
            raise InputError(
                f"{text} lies outside the record", where="--ill", mend="check the year and the time zone"
            )
    return Person(patient, samples, spans), record


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


def _mend(err: RefusedError) -> str:
    said = []
    if ILLNESS in err.what:
        said.append("say when the person was ill (--ill TIME..TIME), or that they were not (--never-ill)")
    if ACTIVITY in err.what:
        said.append("record heart rates, or say that there was no exercise (--never-active)")
    return "; ".join(said) or err.mend
