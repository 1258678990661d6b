"""Does the twin know what insulin and carbohydrate do? RMSE hardly rewards it, so it is asked directly.

Real people: the 3 h after boluses without a meal, and after meals, where knowing the act should help against
the same filter blind to it; and forecasts from just before the act, with it planned and not. Bodies of another
structure, whose answer is known: the project's ground truth and simglucose. There, the same question "what if
one more unit, or ten more grams, now" goes to body and twin.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
from rich.progress import track

from bench.forecast import best_peer, cells
from bench.nights import KeptTwin
from bench.padova import EXTRA, GROUPS, RESPONSE_MIN, Answers, ask, simulator
from bench.real import BLIND, HORIZONS_MIN, TWIN, Person, bootstrap, measured, patient
from bench.recordings import US_PER_MIN
from bench.report import Figure, Section, Table
from bench.truth import DAYS, SEEDS, START_US, samples_of
from core.errors import EnvironmentMissing
from core.messages import Sample
from core.patient import Patient
from core.twin import Twin
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

BOLUS_U: Final = 3.0
MEAL_G: Final = 30.0
ALONE_MIN: Final = 60.0  # no meal this close to a bolus
WINDOW_MIN: Final = 180.0
FEW: Final = 30  # forecasts in a window for a person to count
GAIN_PERCENT: Final = 3.0  # the stated margin over the blind filter, at 60 and 120 min
JUDGED_MIN: Final = (60, 120)
PLAN_MIN: Final = (60, 120, 180, 240)
FRESH_MIN: Final = 10.0  # a forecast before an act starts from a reading at most this old
WITH_MEAL_MIN: Final = 20.0  # boluses this close to a meal belong to it
ASK_HOURS: Final = (3, 10, 16)
ASK_FROM_DAY: Final = 5
ROUGH_PEOPLE: Final = 5
SIZE: Final = (0.5, 2.0)  # times the true size
WHOLE: Final = "therapy told, nights"


@dataclass(frozen=True)
class Act:
    """A bolus without a meal, or a meal with its boluses."""

    at_min: float
    samples: tuple[Sample, ...]


def acts(person: Person, kind: str) -> list[Act]:
    """Boluses ≥ 3 U without a meal within an hour, or meals ≥ 30 g, anywhere in the record."""
    meals = [s for s in person.who.samples if s.kind == "carbs_g"]
    boluses = [s for s in person.who.samples if s.kind == "bolus_u"]
    meal_us = np.array([m.time_us for m in meals])
    bolus_us = np.array([b.time_us for b in boluses])
    if kind == "bolus_u":
        return [
            Act(b.time_us / US_PER_MIN, (b,))
            for b in boluses
            if b.value >= BOLUS_U and not np.any(np.abs(meal_us - b.time_us) <= ALONE_MIN * US_PER_MIN)
        ]
    found = []
    for meal in meals:
        if meal.value >= MEAL_G:
            near = np.flatnonzero(np.abs(bolus_us - meal.time_us) <= WITH_MEAL_MIN * US_PER_MIN)
            found.append(Act(meal.time_us / US_PER_MIN, (meal, *(boluses[k] for k in near))))
    return found


def after(person: Person, found: Sequence[Act]) -> np.ndarray:
    """Which scored times lie within 3 h after an act."""
    at = np.array(sorted(act.at_min for act in found))
    if not len(at):
        return np.zeros(len(person.times), dtype=bool)
    k = np.searchsorted(at, person.times, side="right") - 1
    since = person.times - at[np.maximum(k, 0)]
    return np.asarray((k >= 0) & (since <= WINDOW_MIN))


def windows(people: Sequence[Person]) -> tuple[Table, list[Figure]]:
    """All methods in the windows after acts; the twin against the blind one."""
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for label, kind in (("bolus ≥ 3 U without meal", "bolus_u"), ("meal ≥ 30 g", "carbs_g")):
        masks = [after(p, acts(p, kind)) for p in people]
        used = [(p, m) for p, m in zip(people, masks, strict=True) if m.sum() >= FEW]
        count = f"{len(used)} · {sum(int(m.sum()) for _, m in used)}"
        each = {name: np.array([p.rmse(name, m) for p, m in used]) for name in people[0].methods}
        rows += [(f"{name}: {label}", *cells(each[name].mean(axis=0)), count) for name in each]
        for horizon in JUDGED_MIN:
            k = HORIZONS_MIN.index(horizon)
            gain, low, high = bootstrap(each[TWIN][:, k], each[BLIND][:, k])
            best = best_peer(each, k)
            figures.append(
                Figure(
                    f"3 h after {label}, {horizon} min, gain over blind",
                    f"≥ {GAIN_PERCENT:g} %",
                    f"{gain:+.1f} % ({low:+.1f} to {high:+.1f})",
                    f"{each[best][:, k].mean():.1f}, ours {each[TWIN][:, k].mean():.1f} mg/dL",
                    gain >= GAIN_PERCENT,
                )
            )
    columns = ("method: 3 h after", *(f"{h} min" for h in HORIZONS_MIN), "people · forecasts")
    return Table("Real people: RMSE mg/dL in windows where inputs matter", columns, tuple(rows)), figures


def planned(people: Sequence[Person]) -> Table:
    """Forecasts from the last reading before each act of the second half, with the act planned and without."""
    kinds = {"bolus_u": "bolus ≥ 3 U without meal", "carbs_g": "meal ≥ 30 g with its boluses"}
    errors: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for person in track(people, description="acts planned"):
        due = sorted(
            ((act, kind) for kind in kinds for act in acts(person, kind) if act.at_min >= person.times[0]),
            key=lambda pair: pair[0].at_min,
        )
        twin, samples, position = Twin(patient(), population=person.prior), person.who.samples, 0
        table: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
        for act, kind in due:
            first_us = min(s.time_us for s in act.samples)
            last = np.searchsorted(person.who.cgm_min, first_us / US_PER_MIN, side="right") - 1
            from_min = float(person.who.cgm_min[max(int(last), 0)])
            if first_us / US_PER_MIN - from_min > FRESH_MIN:
                continue
            t_us = min(round(from_min * US_PER_MIN), first_us - 1)
            upto = position
            while upto < len(samples) and samples[upto].time_us <= t_us:
                upto += 1
            twin.observe(samples[position:upto])
            position = upto
            ahead = [t_us / US_PER_MIN + h for h in PLAN_MIN]
            true = person.who.at(np.array(ahead))
            without = np.array(twin.forecast(t_us, PLAN_MIN).forecast.mean)
            with_it = np.array(twin.forecast(t_us, PLAN_MIN, planned=act.samples).forecast.mean)
            table[kind].append(np.stack([without - true, with_it - true]))
        for kind, rows in table.items():
            if len(rows) >= FEW:
                errors[kind].append(np.sqrt(np.nanmean(np.array(rows) ** 2, axis=0)))
    rows_out: list[tuple[str, ...]] = []
    for kind, label in kinds.items():
        if errors[kind]:
            mean = np.mean(errors[kind], axis=0)
            rows_out.append((f"twin, act unknown: {label}", *cells(mean[0]), str(len(errors[kind]))))
            rows_out.append((f"twin, act planned: {label}", *cells(mean[1]), str(len(errors[kind]))))
    columns = ("", *(f"{h} min" for h in PLAN_MIN), "people")
    return Table("Real people: RMSE mg/dL from the last reading before an act", columns, tuple(rows_out))


def ask_truth(seed: int, whole: bool = False) -> Answers:
    """Ground truth C: the same question at three hours of the last days, each in a life of its own.

    ``whole``: the twin as a hub keeps it, with the person's patient file and its nights.
    """
    person = VirtualPerson(seed, sensor=AVERAGE_NOISE)
    record = person.record(START_US, DAYS)
    if whole:
        twin: Twin = KeptTwin(Patient.from_toml(person.prescription()), START_US, seed)
    else:
        twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg))
    samples, position = samples_of(record.events), 0
    minutes = [d * 1440 + h * 60 for d in range(ASK_FROM_DAY, DAYS) for h in ASK_HOURS]
    believed: dict[str, list[np.ndarray]] = {kind: [] for kind, _ in EXTRA}
    for minute in minutes:
        t_us = START_US + minute * US_PER_MIN
        upto = position
        while upto < len(samples) and samples[upto].time_us <= t_us:
            upto += 1
        twin.observe(samples[position:upto])
        position = upto
        plain = np.array(twin.forecast(t_us, RESPONSE_MIN).forecast.mean)
        for kind, amount in EXTRA:
            extra = [Sample(t_us, kind, amount, "plan", 1)]
            believed[kind].append(
                np.array(twin.forecast(t_us, RESPONSE_MIN, planned=extra).forecast.mean) - plain
            )
    true: dict[str, np.ndarray] = {}
    base = record.truth.plasma_mgdl
    for kind, amount in EXTRA:
        rows = {}
        for hour in ASK_HOURS:  # a life per hour of day: acts a day apart hardly meet
            at = [m for m in minutes if m % 1440 == hour * 60]
            changed = person.plasma_if(record.truth, **{kind: dict.fromkeys(at, amount)}) - base
            for minute in at:
                reach = [min(minute + h, len(changed) - 1) for h in RESPONSE_MIN]
                rows[minute] = changed[reach]
        true[kind] = np.array([rows[m] for m in minutes])
    return Answers(f"seed {seed}", {k: np.array(v) for k, v in believed.items()}, true)


def judge(label: str, answers: Sequence[Answers]) -> tuple[list[tuple[str, ...]], list[Figure]]:
    """Sign and size per person, at 120 and 180 min, on the person's mean over all questions."""
    rows: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for kind, amount in EXTRA:
        usable = [a for a in answers if len(a.true[kind])]
        true = np.array([a.true[kind].mean(axis=0) for a in usable])
        ours = np.array([a.believed[kind].mean(axis=0) for a in usable])
        what = f"{amount:g} {'U' if kind == 'bolus_u' else 'g'}"
        right = np.all(np.sign(ours) == np.sign(true), axis=1)
        late = slice(1, 3)
        ratio = ours[:, late].mean(axis=1) / true[:, late].mean(axis=1)
        fits = (ratio >= SIZE[0]) & (ratio <= SIZE[1])
        with np.errstate(invalid="ignore"):
            follows = np.corrcoef(ours[:, 1], true[:, 1])[0, 1] if len(usable) > 2 else np.nan
        rows.append((f"body, {label}, +{what}", *(f"{v:+.1f}" for v in true.mean(axis=0)), "", "", ""))
        rows.append(
            (
                f"twin, {label}, +{what}",
                *(f"{v:+.1f}" for v in ours.mean(axis=0)),
                f"{int(right.sum())} of {len(usable)}",
                f"{np.median(ratio):.2f} ({ratio.min():.2f}–{ratio.max():.2f})",
                f"{follows:+.2f}",
            )
        )
        figures.append(
            Figure(
                f"{label}, +{what}: sign right; size within {SIZE[0]:g}–{SIZE[1]:g}×",
                "every person",
                f"{int(right.sum())}; {int(fits.sum())} of {len(usable)}, median {np.median(ratio):.2f}×",
                "–",
                bool(right.all() and fits.all()),
            )
        )
    return rows, figures


def _groups(quick: bool) -> list[tuple[str, list[str], bool, bool]]:
    """(label, people, rough sensor, whole twin) of simglucose."""
    world = simulator()
    if quick:
        return [("adult", world.names("adult")[:1], False, False)]
    groups = [(group, world.names(group), False, False) for group in GROUPS]
    groups.append(("adult, rough sensor", world.names("adult")[:ROUGH_PEOPLE], True, False))
    return [*groups, *((f"{group}, {WHOLE}", world.names(group), False, True) for group in GROUPS)]


def _shared(function: Callable[..., Answers], work: Sequence[tuple[Any, ...]], label: str) -> list[Answers]:
    """The function on each piece of work, spread over processes where there is enough of it."""
    if len(work) < 4:
        return [function(*piece) for piece in track(work, description=label)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(function, *piece) for piece in work]
        return [each.result() for each in track(waiting, description=label)]


def run(quick: bool = False) -> Section:
    """The section. ``quick``: two people, two seeds, one of simglucose."""
    people = measured(quick)
    table, figures = windows(people)
    tables = [table, planned(people)]
    seeds = SEEDS[:2] if quick else SEEDS
    rows, more = judge("ground truth C", _shared(ask_truth, [(s,) for s in seeds], "what if, C"))
    figures += more
    if not quick:
        part, more = judge(
            f"ground truth C, {WHOLE}", _shared(ask_truth, [(s, True) for s in seeds], "what if, C, whole")
        )
        rows += part
        figures += more
    notes = [
        f"blind: the same filter on the record without inputs, its own prior; margin stated beforehand "
        f"({GAIN_PERCENT:g} %), interval 5–95 % over resampled people",
        "“act unknown” already expects the acts this person usually does at this hour; “planned” adds the whole "
        "effect of the act",
        f"ground truth C: seeds {seeds[0]}–{seeds[-1]}, {DAYS} days each, weight given and nothing else",
        f"“{WHOLE}”: the twin as a hub keeps it, with a patient file (correction factor, ratio) and its nightly batches",
    ]
    try:
        for group, names, rough, whole in _groups(quick):
            label = f"simglucose {group}"
            work = [(name, k, rough, whole) for k, name in enumerate(names)]
            part, more = judge(label, _shared(ask, work, label))
            rows += part
            figures += more
        notes.append(
            "simglucose 0.2.11, therapy from its Quest table, meals counted with 20 % error, rescue sugar below "
            "65 mg/dL; answers that fall below 30 mg/dL are left out, since its glucose freezes below zero; grams only on a "
            "nearly empty stomach (a snack changes how the simulator empties the meal before); sensor: "
            "its own model, or a rough one (AR(1) .7 per 5 min, SD 7 mg/dL)"
        )
    except EnvironmentMissing as err:
        notes.append(f"simglucose: not measured ({err.what})")
    columns = ("", *(f"{h} min" for h in RESPONSE_MIN), "sign right", "size, times true", "r over people")
    tables.append(
        Table(
            "Change of glucose (mg/dL) by one more input now; sign at all four times, size at 120–180 min",
            columns,
            tuple(rows),
        )
    )
    return Section(
        "mechanism", "what insulin and carbohydrate do", tuple(tables), tuple(notes), tuple(figures)
    )
