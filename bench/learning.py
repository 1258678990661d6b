"""Learning without forgetting: people of another structure whose insulin sensitivity falls for a week and comes back.

A → B → A: sensitivity × 0.6 from day 10 to day 17. Up to day 7 all arms are one filter; then each learns in its own way, and
what a night's batch says is computed once per person, along the plain filter, and given to all arms. HOMETWIN_JOBS processes
share people (all cores when it is not set).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any, Final, NamedTuple

import numpy as np
from rich.progress import track

from bench import learning_real
from bench.learning_loop import LOOP_SEED, calibration, closed_loop, covered, followed
from bench.report import Figure, Section, Table
from bench.truth import START_US, US_PER_MIN, samples_of
from core import learning, memory, replay
from core.consolidate import posterior, read_night
from core.errors import InputError
from core.guidance import Guidance
from core.learning import Protection
from core.memory import USUAL, Memory, NightInfo
from core.messages import Sample
from core.models import hovorka as model
from core.patient import Patient
from core.predictive import STEP_MIN as PATH_STEP_MIN
from core.predictive import base_path
from core.twin import Twin
from core.units import US_PER_DAY
from firmware_sim.person import VirtualPerson
from firmware_sim.person_cgm import AVERAGE_NOISE

SEEDS: Final = tuple(range(300, 320))
MATCHED_PEOPLE: Final = 80
DAYS: Final = 20
APART_DAY: Final = 7.0
FALL_DAY: Final = 10.0
BACK_DAY: Final = 17.0
FACTOR: Final = 0.6
FIRST_NIGHT: Final = 3
STEP_MIN: Final = 30
LOOK_STEPS: Final = 6  # 3 h
HORIZON_MIN: Final = 60
FAR_MIN: Final = 240  # the mechanism alone, told what is eaten and injected: here learned parameters show
FAR_STEPS: Final = 2  # of STEP_MIN
NIGHT_H: Final = 3.0
SCORED: Final = (  # days from, to
    ("A", APART_DAY, FALL_DAY), ("B, 0–12 h", 10.0, 10.5), ("12–24 h", 10.5, 11.0), ("24–36 h", 11.0, 11.5),
    ("36–48 h", 11.5, 12.0), ("rest of B", 12.0, 17.0), ("back, 0–6 h", 17.0, 17.25), ("0–24 h", 17.0, 18.0),
    ("then", 18.0, 20.0),
)  # fmt: skip
FAR_SCORED: Final = (
    ("A", APART_DAY, FALL_DAY), ("B, 0–12 h", 10.0, 10.5), ("12–36 h", 10.5, 11.5), ("rest of B", 11.5, 17.0),
    ("back, 0–6 h", 17.0, 17.25), ("0–24 h", 17.0, 18.0), ("then", 18.0, 20.0),
)  # fmt: skip
NEAR: Final = 1.10


class Arm(NamedTuple):
    """One way to learn. ``sd``, ``tau``: factors of the filter's spread and memory of ln s."""

    protection: Protection | None = None  # None: no nights
    sd: float = 1.0
    tau: float = 1.0
    knows: bool = False


ARMS: Final = {
    "filter alone": Arm(),
    "rigid filter": Arm(sd=0.2, tau=10.0),
    "plastic filter": Arm(sd=2.0, tau=0.2),
    "nights unprotected": Arm(Protection(False, False, False)),
    "nights, EWC": Arm(Protection(True, False, False)),
    "nights, rehearsal": Arm(Protection(False, True, False)),
    "nights, both": Arm(Protection(True, True, False)),
    "twin, all and contexts": Arm(Protection(True, True, True)),
    "filter that knew": Arm(knows=True),
}
ALL: Final = "twin, all and contexts"
KNEW: Final = "filter that knew"
PLAIN: Final = "filter alone"


@dataclass
class Course:
    """What one arm did on one person. Arrays over the scored steps."""

    day: np.ndarray
    error: np.ndarray  # of the forecast, mg/dL
    far: (
        np.ndarray
    )  # of the mechanism alone, FAR_MIN ahead with inputs known, mg/dL; NaN where it was not asked
    ln_s: np.ndarray
    changes: list[tuple[float, int]] = field(default_factory=list)  # (day, context)
    refused: int = 0
    nights: int = 0
    usual_moved: float = 0.0  # the usual anchor's ln s, before B and after it
    memory_bytes: int = 0
    replay_bytes: int = 0
    cpu_s: float = 0.0


@dataclass
class Life:
    """A person, and what is the same for all arms."""

    samples: list[Sample]
    plasma: np.ndarray
    ln_truth: np.ndarray  # per minute, mean over 24 h
    snapshot: bytes
    nights: dict[int, NightInfo]
    given: int
    night_cpu_s: float


def night_us(day: int) -> int:
    """When the night's work of a day is done."""
    return START_US + day * US_PER_DAY + round(NIGHT_H * 60) * US_PER_MIN


def lived(seed: int) -> Life:
    """The person, the plain filter up to where arms part, and every night's batch."""
    person = VirtualPerson(
        seed,
        sensor=AVERAGE_NOISE,
        sensitivity_change=((FALL_DAY, FACTOR), (BACK_DAY, 1.0 / FACTOR)),
    )
    record = person.record(START_US, DAYS)
    samples = samples_of(record.events)
    twin = Twin(Patient(timezone="UTC", weight_kg=person.weight_kg))
    nights: dict[int, NightInfo] = {}
    given, snapshot, apart, spent_s = 0, b"", 0, 0.0
    for day in range(1, DAYS):
        for until_us in (night_us(day), START_US + (day + 1) * US_PER_DAY):
            upto = _upto(samples, given, until_us)
            twin.observe(samples[given:upto])
            given = upto
            if until_us == night_us(day) and day >= FIRST_NIGHT:
                started_s = time.process_time()
                try:
                    nights[day] = read_night(twin, until_us - US_PER_DAY, until_us)[0]
                except (InputError, np.linalg.LinAlgError):
                    continue
                finally:
                    spent_s += time.process_time() - started_s
            if until_us == START_US + round(APART_DAY) * US_PER_DAY:
                twin.estimate(until_us)
                snapshot, apart = twin.snapshot(), given
    truth = np.log(record.truth.sensitivity)
    total = np.concatenate([[0.0], np.cumsum(truth)])
    at = np.arange(len(truth))
    low, high = np.maximum(at - 720, 0), np.minimum(at + 720, len(truth))
    smooth = (total[high] - total[low]) / (high - low)
    return Life(samples, record.truth.plasma_mgdl, smooth, snapshot, nights, apart, spent_s / len(nights))


def _upto(samples: list[Sample], at: int, until_us: int) -> int:
    while at < len(samples) and samples[at].time_us <= until_us:
        at += 1
    return at


def follow(life: Life, arm: Arm, seed: int) -> Course:
    """One arm from where they part to the end."""
    started_s = time.process_time()
    twin = Twin.restore(life.snapshot)
    rng = np.random.default_rng(seed)
    known, kept, number = Memory(), [], 0
    course = Course(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    if arm.knows:
        for day, ln in ((FALL_DAY, math.log(FACTOR)), (BACK_DAY, -math.log(FACTOR))):
            twin.guide(Guidance(START_US + round(day * US_PER_DAY), "shift", (ln, *(0.0,) * 4)))
    if arm.sd != 1.0 or arm.tau != 1.0:
        filter_ = twin._track
        assert filter_ is not None
        dynamics = filter_.nominal.dynamics.copy()
        dynamics[: model.N_THETA, 2] *= np.where(
            np.arange(model.N_THETA) == model.LN_S, arm.sd, min(arm.sd, 1.0)
        )
        dynamics[model.LN_S, 1] *= arm.tau
        filter_.bind(filter_.nominal._replace(dynamics=dynamics))
        twin._checkpoints.clear()
        twin._keep_checkpoint()
        twin._calibrations = 3
    given = life.given
    if arm.protection is not None:  # the nights before: their anchor, without guidance
        for day in range(FIRST_NIGHT, round(APART_DAY)):
            if day in life.nights:
                known, kept, number = _one_night(
                    twin, known, kept, number, day, rng, arm.protection, life, course, False
                )
    rows: list[tuple[float, float, float, float]] = []
    before = after = math.nan
    for step in range(round((DAYS - APART_DAY) * 1440 / STEP_MIN) - FAR_MIN // STEP_MIN):
        day = APART_DAY + step * STEP_MIN / 1440
        now_us = START_US + round(day * 1440) * US_PER_MIN
        upto = _upto(life.samples, given, now_us)
        twin.observe(life.samples[given:upto])
        given = upto
        if arm.protection is not None:
            if arm.protection.contexts and step % LOOK_STEPS == 0:
                was = known.current
                known = learning.look(twin, known, now_us)
                if known.current != was:
                    course.changes.append((day, known.current))
            whole = int(day)
            if now_us == night_us(whole) and whole in life.nights:
                was = known.current
                known, kept, number = _one_night(
                    twin, known, kept, number, whole, rng, arm.protection, life, course, True
                )
                if known.current != was:
                    course.changes.append((day, known.current))
                usual = known.anchor(USUAL)
                if usual is not None and arm.protection.ewc:
                    ln_s = float(posterior(usual, twin.patient.therapy, twin.consts()).theta()[0][0])
                    before = ln_s if day < FALL_DAY else before
                    after = ln_s if day < BACK_DAY else after
        forecast = twin.forecast(now_us, (HORIZON_MIN,)).forecast
        error = forecast.mean[0] - float(life.plasma[round(day * 1440) + HORIZON_MIN])
        far = math.nan
        if step % FAR_STEPS == 0:
            far = _far(twin, life, given, now_us) - float(life.plasma[round(day * 1440) + FAR_MIN])
        rows.append((day, error, far, twin.estimate(now_us).mean[model.LN_S]))
    table = np.array(rows)
    course.day, course.error, course.far, course.ln_s = table.T
    course.usual_moved = after - before
    course.memory_bytes = len(memory.to_bytes(known))
    course.replay_bytes = sum(episode.size for _, episode in kept)
    course.cpu_s = time.process_time() - started_s
    return course


def _far(twin: Twin, life: Life, given: int, now_us: int) -> float:
    """The mechanism's glucose in FAR_MIN with the doses and meals until then told, mg/dL."""
    later = life.samples[given : _upto(life.samples, given, now_us + FAR_MIN * US_PER_MIN)]
    plan = [(s.time_us, s.kind, s.value) for s in later if s.kind in ("bolus_u", "carbs_g", "basal_uph")]
    return float(base_path(twin._at(now_us), FAR_MIN, plan)[round(FAR_MIN / PATH_STEP_MIN)])


def _one_night(
    twin: Twin,
    known: Memory,
    kept: list[tuple[int, replay.Episode]],
    number: int,
    day: int,
    rng: np.random.Generator,
    protection: Protection,
    life: Life,
    course: Course,
    told: bool,
) -> tuple[Memory, list[tuple[int, replay.Episode]], int]:
    found = learning.night(twin, known, kept, night_us(day), rng, protection, life.nights[day])
    if told:
        twin.guide(*found.guidance)
    course.refused += not found.record.accepted
    course.nights += 1
    kept = [item for item in kept if item[0] not in found.drop]
    for episode in found.keep:
        number += 1
        kept.append((number, episode))
    return found.memory, kept, number


def rmse(courses: list[Course], first: float, last: float) -> float:
    """Over all people's forecasts of these days."""
    errors = np.concatenate([c.error[(c.day >= first) & (c.day < last)] for c in courses])
    return float(np.sqrt(np.mean(errors**2)))


def far_rmse(courses: list[Course], first: float, last: float) -> float:
    """As ``rmse``, of the mechanism alone with inputs known."""
    errors = np.concatenate([c.far[(c.day >= first) & (c.day < last)] for c in courses])
    return float(np.sqrt(np.nanmean(errors**2)))


def strayed(courses: list[Course], lives: list[Life], first: float, last: float) -> float:
    """RMS of ln s against the truth of the day; the level of each arm in A is its own."""
    out = []
    for course, life in zip(courses, lives, strict=True):
        off = course.ln_s - life.ln_truth[np.round(course.day * 1440).astype(int)]
        usual = float(np.mean(off[course.day < FALL_DAY]))
        out.append(off[(course.day >= first) & (course.day < last)] - usual)
    return float(np.sqrt(np.mean(np.concatenate(out) ** 2)))


def share_seen(courses: list[Course], hours: float) -> float:
    """Share of the fall that ln s shows ``hours`` after it (mean of a day around that)."""
    middle = FALL_DAY + hours / 24.0
    shares = [
        (np.mean(c.ln_s[np.abs(c.day - middle) < 0.5]) - np.mean(c.ln_s[c.day < FALL_DAY])) / math.log(FACTOR)
        for c in courses
    ]
    return float(np.mean(shares))


def adapted_h(ours: list[Course], knew: list[Course]) -> float:
    """Hours after the fall from which every 12 h of B are within NEAR of the filter that knew; inf: never."""
    bins = np.arange(FALL_DAY, BACK_DAY, 0.5)
    ratios = [rmse(ours, b, b + 0.5) / rmse(knew, b, b + 0.5) for b in bins]
    bad = [k for k, ratio in enumerate(ratios) if ratio > NEAR]
    first = bad[-1] + 1 if bad else 0
    return math.inf if first == len(bins) else 12.0 * first


def _found(courses: list[Course]) -> tuple[list[float], int, list[float], int]:
    """(hours until a change was found in B, false ones in A, hours until A was found again, how many stayed in B)."""
    delays, false, returns, lost = [], 0, [], 0
    for course in courses:
        false += sum(number != USUAL for day, number in course.changes if day < FALL_DAY)
        hit = next(
            (day for day, number in course.changes if FALL_DAY <= day < BACK_DAY and number != USUAL), None
        )
        if hit is not None:
            delays.append(24.0 * (hit - FALL_DAY))
        state = USUAL
        for day, number in course.changes:
            if day < BACK_DAY:
                state = number
        if state != USUAL:
            home = next((day for day, number in course.changes if day >= BACK_DAY and number == USUAL), None)
            if home is None:
                lost += 1
            else:
                returns.append(24.0 * (home - BACK_DAY))
    return delays, false, returns, lost


def one_person(seed: int) -> tuple[Life, dict[str, Course]]:
    """All arms on one person; what is not scored stays behind."""
    life = lived(seed)
    courses = {name: follow(life, arm, seed) for name, arm in ARMS.items()}
    return replace(life, samples=[], nights={}, snapshot=b""), courses


def spread(work: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Results in the order of ``work``, of HOMETWIN_JOBS processes (all cores, when not set)."""
    jobs = max(1, int(os.environ.get("HOMETWIN_JOBS", os.cpu_count() or 1)))
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting: list[Future[Any]] = [pool.submit(call, *given) for call, given in work]
        for _ in track(as_completed(waiting), description="learning", total=len(waiting)):
            pass
        return [each.result() for each in waiting]


def run(quick: bool = False) -> Section:
    """The section. ``quick``: one person."""
    seeds = SEEDS[:1] if quick else SEEDS
    people = range(4 if quick else MATCHED_PEOPLE)
    real = learning_real.names()[:1] if quick else learning_real.names()
    work: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        *((one_person, (seed,)) for seed in seeds),
        (followed, (LOOP_SEED, 6 if quick else 30)),
        *((learning_real.follow, (name, on)) for name in real for on in (True, False)),
        *((covered, (k,)) for k in people),
    ]
    done = spread(work)
    found = done[: len(seeds)]
    lives = [life for life, _ in found]
    courses = {name: [of_arm[name] for _, of_arm in found] for name in ARMS}
    rest = done[len(seeds) :]
    real_on, real_off = rest[1 : 1 + 2 * len(real) : 2], rest[2 : 2 + 2 * len(real) : 2]
    knew = courses[KNEW]
    forecasts = tuple((name, *(f"{rmse(c, a, b):.1f}" for _, a, b in SCORED)) for name, c in courses.items())
    spans = (
        ("A", 7.0, 10.0),
        ("B, from 36 h", 11.5, 17.0),
        ("back, 0–24 h", 17.0, 18.0),
        ("then", 18.0, 20.0),
    )
    parameters = tuple(
        (
            name,
            *(f"{strayed(c, lives, a, b):.2f}" for _, a, b in spans),
            f"{share_seen(c, 48.0):.2f}",
            _hours(adapted_h(c, knew)),
        )
        for name, c in courses.items()
    )
    ours = courses[ALL]
    delays, false, returns, lost = _found(ours)
    figures = _judged(courses, lives, (delays, false, returns, lost))
    loop_rows, loop_figures = closed_loop(rest[:1], 6 if quick else 30)
    matched_rows, matched_figure = calibration(rest[1 + 2 * len(real) :])
    cost = (
        ("a night's batch", f"{np.mean([life.night_cpu_s for life in lives]):.1f} s of CPU", ""),
        (
            "13 days of looks, rehearsals and filter",
            f"{np.mean([c.cpu_s for c in ours]):.1f} s of CPU",
            f"filter alone {np.mean([c.cpu_s for c in courses[PLAIN]]):.1f} s",
        ),
        ("contexts, anchors, days", f"{np.mean([c.memory_bytes for c in ours]) / 1024:.1f} KiB", ""),
        (
            "replay memory after 17 nights",
            f"{np.mean([c.replay_bytes for c in ours]) / 1024:.0f} KiB",
            f"budget {replay.BUDGET_BYTES >> 10} KiB",
        ),
    )
    tables = (
        Table(
            f"RMSE of {HORIZON_MIN}-min forecasts, mg/dL", ("", *(label for label, _, _ in SCORED)), forecasts
        ),
        Table(
            f"RMSE of the mechanism alone {FAR_MIN} min ahead, doses and meals known, mg/dL",
            ("", *(label for label, _, _ in FAR_SCORED)),
            tuple(
                (name, *(f"{far_rmse(c, a, b):.1f}" for _, a, b in FAR_SCORED)) for name, c in courses.items()
            ),
        ),
        Table(
            "ln insulin sensitivity: RMS distance to the truth of the day, share of the fall seen, adaptation",
            ("", *(label for label, _, _ in spans), "seen after 48 h", "within 10 % from"),
            parameters,
        ),
        Table(
            "Contexts, all people",
            ("", "people", "hours"),
            (
                ("change found in B", f"{len(delays)} of {len(ours)}", _spread(delays)),
                ("false changes in A (3 days each)", str(false), ""),
                (
                    "A found again, of those in B then",
                    f"{len(returns)} of {len(returns) + lost}",
                    _spread(returns),
                ),
                (
                    "nights refused by rehearsal",
                    f"{sum(c.refused for c in ours)} of {sum(c.nights for c in ours)}",
                    "",
                ),
            ),
        ),
        Table(
            "Following the twin, 30 days",
            ("", "ln s days 10–20", "ln s days 20–30", "furthest of any parameter", "TIR", "<70"),
            loop_rows,
        ),
        Table(
            "People of the twin's own structure: 90 % intervals of the night's posterior",
            ("", "covered", "of"),
            matched_rows,
        ),
        learning_real.table(real_on, real_off),
        Table("Bytes and time", ("", "ours", ""), cost),
    )
    notes = (
        f"seeds {seeds[0]}–{seeds[-1]}, {DAYS} days each; sensitivity × {FACTOR} from day {FALL_DAY:g} to {BACK_DAY:g}; arms part at day {APART_DAY:g}; weight given and nothing else",
        "a night's batch runs along the plain filter and is shared by the arms",
        "real people: nothing is told of them, and there is no truth: how often contexts are found is not how often life changed",
        "the filter that knew: ln s and its mean are shifted at the two moments",
        "simulation is not clinical evidence",
    )
    return Section(
        "learning", "learning without forgetting", tables, notes, (*figures, *loop_figures, matched_figure)
    )


def _hours(value: float) -> str:
    return f"{value:.0f} h" if math.isfinite(value) else "never"


def _spread(hours: list[float]) -> str:
    return f"{np.median(hours):.0f} ({min(hours):.0f}–{max(hours):.0f})" if hours else "–"


def _judged(
    courses: dict[str, list[Course]], lives: list[Life], found: tuple[list[float], int, list[float], int]
) -> list[Figure]:
    knew, ours = courses[KNEW], courses[ALL]
    hours = adapted_h(ours, knew)

    def back(name: str) -> float:
        return rmse(courses[name], BACK_DAY, BACK_DAY + 1.0) / rmse(courses[name], APART_DAY, FALL_DAY)

    paired = rmse(ours, BACK_DAY, BACK_DAY + 1.0) / rmse(knew, BACK_DAY, BACK_DAY + 1.0)
    others = ", ".join(
        f"{_hours(adapted_h(courses[n], knew))} ({n})" for n in ("rigid filter", "plastic filter")
    )
    delays, false, returns, lost = found
    moved = [abs(c.usual_moved) for c in ours if math.isfinite(c.usual_moved)]
    drifted = [abs(c.usual_moved) for c in courses["nights, both"] if math.isfinite(c.usual_moved)]
    return [
        Figure(
            "A → B: hours until 60-min RMSE stays within 10 % of a filter that knew",
            "≤ 36",
            f"{hours:.0f}",
            others,
            hours <= 36.0,
        ),
        Figure(
            "back in A, first day: RMSE against its own in A before",
            "≤ 1.10",
            f"{back(ALL):.2f}",
            f"{back('rigid filter'):.2f} rigid, {back('plastic filter'):.2f} plastic, {back(KNEW):.2f} knew",
            back(ALL) <= NEAR,
        ),
        Figure(
            "… against the filter that knew, the same hours", "≤ 1.10", f"{paired:.2f}", "1", paired <= NEAR
        ),
        *_far_figures(courses),
        Figure(
            "sensitivity in B after 36 h, distance to the truth (ln)",
            "below the filter's",
            f"{strayed(ours, lives, 11.5, 17.0):.2f}",
            f"{strayed(courses[PLAIN], lives, 11.5, 17.0):.2f} (filter alone)",
            strayed(ours, lives, 11.5, 17.0) < strayed(courses[PLAIN], lives, 11.5, 17.0),
        ),
        Figure(
            "share of the fall that ln s shows after 48 h",
            "≥ 0.7",
            f"{share_seen(ours, 48.0):.2f}",
            f"{share_seen(courses[PLAIN], 48.0):.2f} (filter alone)",
            share_seen(ours, 48.0) >= 0.7,
        ),
        Figure(
            "forgetting: the usual anchor's ln s moved in B by",
            "–",
            f"{np.mean(moved):.2f}",
            f"{np.mean(drifted):.2f} (without contexts)",
        ),
        Figure(
            "a change of context found in B",
            "every person",
            f"{len(delays)} of {len(ours)}, median {np.median(delays) if delays else math.nan:.0f} h; falsely {false}",
            reached=len(delays) == len(ours) and false == 0,
        ),
        Figure(
            "… and A found again",
            "every person in B then",
            f"{len(returns)} of {len(returns) + lost}",
            reached=lost == 0,
        ),
    ]


def _far_figures(courses: dict[str, list[Course]]) -> list[Figure]:
    """Where the learned correction does not stand in for the parameters: hours ahead, inputs known."""

    def against(name: str, other: str, span: tuple[float, float], of: tuple[float, float]) -> float:
        return far_rmse(courses[name], *span) / far_rmse(courses[other], *of)

    found = []
    for words, span, own in (
        ("mechanism alone, 4 h, inputs known: 12–36 h into B, × the filter that knew", (10.5, 11.5), False),
        ("… first 6 h back in A, × its own error in A before", (BACK_DAY, BACK_DAY + 0.25), True),
        ("… first day back in A, × the filter that knew", (BACK_DAY, BACK_DAY + 1.0), False),
    ):
        of = (APART_DAY, FALL_DAY) if own else span
        ours, *others = (
            against(name, name if own else KNEW, span, of) for name in (ALL, "rigid filter", "plastic filter")
        )
        beside = "{:.2f} rigid, {:.2f} plastic".format(*others)
        found.append(Figure(words, "≤ 1.10", f"{ours:.2f}", beside, ours <= NEAR))
    return found
