"""``hometwin replay``: read, run, write; a stop leaves marked parts."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from core.errors import ConfigError
from core.patient import WHOLE_FILE, Patient
from core.twin import Twin
from edge.progress import progress_bar
from edge.readers import Record, read_record
from edge.replay.outputs import ReplayFolder, json_text
from edge.replay.pipeline import Trace, run, usable
from edge.replay.report import report_html
from edge.replay.summary import summarise

MAX_PATIENT_BYTES: Final = 1 << 20  # a hundred times the longest one that makes sense


def replay(events: Path, patient_file: Path | None, model: str | None, out: Path) -> list[str]:
    """Replay a recording into a folder; returns lines for the terminal.

    ``model``: None takes the patient file's.
    Raises InputError or ConfigError for what cannot be used, before anything in ``out`` is touched. On
    KeyboardInterrupt the files so far stay, named ``*.partial.*``, and the interrupt goes on.
    """
    patient = load_patient(patient_file)
    twin = Twin(patient, model=model)
    record = read_record(events, ZoneInfo(patient.timezone))
    samples, notes = usable(record.samples)
    trace = Trace(samples, notes=[*notes, *_without_patient(record, patient_file)])
    with ReplayFolder(out) as folder:
        stopped = False
        try:
            readings = sum(1 for s in samples if s.kind == "cgm_mgdl")
            with progress_bar("replay", readings, "readings") as on_progress:
                run(trace, twin, folder, on_progress)
        except KeyboardInterrupt:
            stopped = True
        if stopped:
            trace.notes.append("stopped before the end: figures are of the part that was replayed")
        summary = summarise(trace, record, events.name, patient.timezone)
        folder.write("summary.json", json_text(summary))
        folder.write("report.html", report_html(trace, summary, time.time()))
        if stopped:
            sys.stderr.write(f"hometwin: stopped; what there is so far is in {out} (*.partial.*)\n")
            raise KeyboardInterrupt
        folder.done()
    return _lines(summary, out, trace)


def notes_of(record: Record, patient_file: Path | None) -> tuple[str, ...]:
    """What the reader left out or assumed, and what the missing patient file would have said."""
    return *record.notes, *_without_patient(record, patient_file)


def _without_patient(record: Record, patient_file: Path | None) -> tuple[str, ...]:
    if patient_file is None and record.format in ("event file", "Dexcom Clarity CSV", "LibreView CSV"):
        return ("no patient file: local times are taken as UTC, and the person's body as average",)
    return ()


def load_patient(path: Path | None) -> Patient:
    """The patient file, or a person of whom nothing is known. ConfigError names what is wrong in it."""
    if path is None:
        return Patient()
    try:
        with path.open("rb") as file:
            text = file.read(MAX_PATIENT_BYTES + 1)
    except OSError as err:
        raise ConfigError(
            f"cannot be read: {err.strerror or type(err).__name__}",
            where=path.name,
            mend="check --patient",
        ) from None
    if len(text) > MAX_PATIENT_BYTES:
        raise ConfigError(
            f"larger than {MAX_PATIENT_BYTES >> 20} MiB", where=path.name, mend="check --patient"
        )
    try:
        return Patient.from_toml(text)
    except ConfigError as err:
        place = path.name if err.where == WHOLE_FILE else f"{path.name}: {err.where}"
        raise ConfigError(err.what, where=place, mend=err.mend) from None


def _lines(summary: dict[str, object], out: Path, trace: Trace) -> list[str]:
    lines = [
        f"{summary['readings']} readings over {summary['days']:.1f} days in {trace.total_s:.1f} s "
        f"({summary['format']})"
    ]
    horizons = summary["horizons"]
    assert isinstance(horizons, dict)
    for horizon in ("30", "60", "120"):
        row = horizons[horizon]
        if row["n"]:
            lines.append(
                f"{horizon:>4} min: RMSE {row['rmse']:.1f} mg/dL (persistence {row['persistence_rmse']:.1f}), "
                f"90 % band holds {100 * row['coverage']:.1f} %"
            )
    notes = summary["notes"]
    assert isinstance(notes, list)
    lines += [f"note: {note}" for note in notes]
    lines.append(f"see {out / 'report.html'}")
    return lines
