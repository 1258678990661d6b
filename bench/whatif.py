"""What if, on bodies of another structure: simglucose's people, two noisy days to learn from, a third to answer for.

Protocol: two days with a CGM's noise and everything logged; the third day's glucose is predicted from its inputs
alone, and then again with every bolus times 0.7 and times 1.3. All is judged against the simulator's own glucose
without noise, 288 values a day. Therapy (basal rate, carbohydrate ratio, correction factor, weight) is in the patient
file, as a clinic would have it. Nothing on the third day reacts: no corrections, no rescue sugar.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np
from rich.progress import track

from bench.padova import PORTION, START_US, simulator
from bench.recordings import US_PER_MIN
from bench.report import Figure, Section, Table
from core.advice import iob_fraction
from core.causal.counterfactual import abduct, answer
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin

FIT_MIN: Final = 2 * 1440
END_MIN: Final = 3 * 1440
FACTORS: Final = (0.7, 1.3)
MEALS: Final = ((7 * 60, 45.0), (12 * 60 + 30, 70.0), (18 * 60 + 30, 80.0))
MEAL_CV: Final = 0.20
COUNT_CV: Final = 0.10  # doses are for the counted meal, the log holds the eaten one
AT_MIN: Final = 30  # meals move by as much from day to day
RESCUE_MGDL: Final = 65.0
RESCUE_G: Final = 15.0
RESCUE_EVERY_MIN: Final = 20
PROTOCOL: Final = ("adult#004", "adult#009", "adult#010")
# Settings were found on these people at seeds 1 and 2 alone; no score below is of them at these seeds. Seeds 11 to 13 were
# scored once with an older search for noise, 21 to 23 three times (see the notes), 31 to 35 once, and once more with the code
# before what comes again after each meal, for comparison. 41 to 45 were scored once with structural errors .26 and .30, 51 to 55
# once with two kinds of people: decision 0009.
SEEN: Final = (
    *("adult#002", "adult#003", "adult#005", "adult#006", "adult#007", "adult#008"),
    *("adolescent#002", "adolescent#003", "adolescent#004", "child#001"),
)
SEEDS: Final = (51, 52, 53, 54, 55)
DRAWS: Final = 1000
# The best of the public twins and rules in an earlier run of the same protocol (three adults): ReplayBG 1.4 in its two
# ways, and a rule that knows the simulator's own factors.
TARGETS: Final = {
    "day3": (17.8, "ReplayBG 1.4, chained days: 17.8"),
    "bg0.7": (19.6, "ReplayBG 1.4, joint: 19.6"),
    "bg1.3": (21.3, "ReplayBG 1.4, chained days: 21.3"),
    "change0.7": (7.6, "rule with the simulator's factors: 7.6"),
    "change1.3": (8.2, "rule with the simulator's factors: 8.2"),
}
WORDS: Final = {
    "day3": "day 3, known inputs, RMSE",
    "bg0.7": "boluses ×0.7: RMSE of glucose",
    "bg1.3": "boluses ×1.3: RMSE of glucose",
    "change0.7": "boluses ×0.7: error of the change",
    "change1.3": "boluses ×1.3: error of the change",
}
SMALLEST_MGDL: Final = 2.0  # a change smaller than this has no sign to cover
ANSWER_MS: Final = 200.0


@dataclass(frozen=True)
class Life:
    """One person: what was logged, and glucose that nobody sees."""

    name: str
    seed: int
    weight_kg: float
    basal_uph: float
    ratio: float
    correction: float
    acts: tuple[tuple[int, str, float], ...]  # minute, kind, value; of all three days
    readings: tuple[tuple[int, float], ...]
    truth: dict[float, np.ndarray]  # factor on boluses -> float64[288] of day 3


@dataclass(frozen=True)
class Score:
    """Of one person and method. RMSE in mg/dL; coverage as a share."""

    name: str
    rmse: dict[str, float]
    cover: dict[str, float]
    size: dict[str, float]  # of the change: regression on the truth, and its RMS
    cautions: tuple[str, ...] = ()
    seconds: float = math.nan


def live(name: str, seed: int) -> Life:
    """Let a person of the simulator live three days, the third in three ways."""
    world, rng = simulator(), np.random.default_rng((seed, 77))
    body = world.person(name)
    p = body._params
    quest = world.quest.loc[world.quest.Name == name].squeeze()
    basal_upm = p.u2ss * p.BW / 6000.0
    portion = PORTION[name.split("#")[0]]
    noise = world.noise(world.sensor, seed=seed)
    meals = {
        day * 1440 + at + int(rng.integers(-AT_MIN, AT_MIN + 1)): grams
        * portion
        * max(0.3, 1.0 + MEAL_CV * rng.standard_normal())
        for day in range(3)
        for at, grams in MEALS
    }
    doses = {m: g * max(0.3, 1.0 + COUNT_CV * rng.standard_normal()) / quest.CR for m, g in meals.items()}
    acts: list[tuple[int, str, float]] = []
    readings: list[tuple[int, float]] = []
    rescue_at = -math.inf
    for minute in range(FIT_MIN):
        glucose = body.observation.Gsub
        carbs_g, bolus_u = meals.get(minute, 0.0), doses.get(minute, 0.0)
        if minute % 5 == 0:
            readings.append((minute, min(max(glucose + float(next(noise)), 39.0), 600.0)))
        if carbs_g:
            acts += [(minute, "bolus_u", bolus_u), (minute, "carbs_g", carbs_g)]
        elif glucose < RESCUE_MGDL and minute - rescue_at >= RESCUE_EVERY_MIN:
            rescue_at, carbs_g = minute, RESCUE_G * portion
            acts.append((minute, "carbs_g", carbs_g))
        body.step(world.action(insulin=basal_upm + bolus_u, CHO=carbs_g))
    later = sorted(m for m in meals if m >= FIT_MIN)
    acts += [a for m in later for a in ((m, "bolus_u", doses[m]), (m, "carbs_g", meals[m]))]
    truth = {}
    for factor in (1.0, *FACTORS):
        branch, course = world.branch(body), []
        for minute in range(FIT_MIN, END_MIN):
            dose = factor * doses.get(minute, 0.0)
            branch.step(world.action(insulin=basal_upm + dose, CHO=meals.get(minute, 0.0)))
            if (minute + 1) % 5 == 0:
                course.append(branch.observation.Gsub)
        truth[factor] = np.array(course)
    return Life(
        *(name, seed, float(p.BW), 60.0 * basal_upm, float(quest.CR), float(quest.CF)),
        *(tuple(acts), tuple(readings), truth),
    )


def twin_of(life: Life) -> Twin:
    """The twin that has seen what a hub would have."""
    therapy = Therapy(
        basal_profile=(("00:00", round(life.basal_uph, 3)),),
        carb_ratio_g_per_u=life.ratio,
        correction_mgdl_per_u=life.correction,
    )
    twin = Twin(Patient(weight_kg=life.weight_kg, therapy=therapy))
    twin.observe(Sample(START_US + m * US_PER_MIN, "cgm_mgdl", value, "cgm", m) for m, value in life.readings)
    twin.observe(
        Sample(START_US + m * US_PER_MIN, kind, value, "log", n)
        for n, (m, kind, value) in enumerate(life.acts)
    )
    return twin


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def score_twin(life: Life) -> Score:
    """Predict and answer."""
    began = time.process_time()
    window = (START_US + FIT_MIN * US_PER_MIN, START_US + END_MIN * US_PER_MIN)
    known = abduct(twin_of(life), *window, DRAWS)
    answers = {factor: answer(known, f"bolus_u*={factor}") for factor in FACTORS}
    seconds = time.process_time() - began
    plain = life.truth[1.0]
    first = answers[FACTORS[0]]
    rmse = {"day3": rms(first.factual.mean[1:] - plain)}
    cover = {"day3": float(np.mean((first.factual.p05[1:] <= plain) & (plain <= first.factual.p95[1:])))}
    size = {}
    for factor, found in answers.items():
        true, change = life.truth[factor], life.truth[factor] - plain
        cf, effect = found.counterfactual, found.effect
        rmse[f"bg{factor}"] = rms(cf.mean[1:] - true)
        rmse[f"change{factor}"] = rms(effect.mean[1:] - change)
        cover[f"bg{factor}"] = float(np.mean((cf.p05[1:] <= true) & (true <= cf.p95[1:])))
        seen = np.abs(change) > SMALLEST_MGDL
        inside = (effect.p05[1:] <= change) & (change <= effect.p95[1:])
        cover[f"change{factor}"] = float(np.mean(inside[seen])) if seen.any() else math.nan
        size[f"size{factor}"] = float(effect.mean[1:] @ change / (change @ change))
        size[f"true{factor}"] = rms(change)
    loud = tuple(c.code for f in answers.values() for c in f.cautions if c.loud)
    return Score(life.name, rmse, cover, size, loud, seconds)


def score_peers(life: Life) -> dict[str, Score]:
    """Flat mean, mean by clock, and the rule of correction factor and carbohydrate ratio."""
    values = np.array([v for _, v in life.readings])
    flat = np.full(288, values.mean())
    clock = np.roll(values.reshape(2, 288).mean(axis=0), -1)
    courses = {
        "flat mean": dict.fromkeys((1.0, *FACTORS), flat),
        "mean of days 1–2 by clock": dict.fromkeys((1.0, *FACTORS), clock),
        "rule: correction factor and ratio": {f: values.mean() + rule(life, f) for f in (1.0, *FACTORS)},
    }
    # The rule's level is where its own two days were, not the mean of a day with meals in it.
    courses["rule: correction factor and ratio"] = {
        f: c - rule(life, 1.0).mean() for f, c in courses["rule: correction factor and ratio"].items()
    }
    out = {}
    for name, by_factor in courses.items():
        rmse = {"day3": rms(by_factor[1.0] - life.truth[1.0])}
        for f in FACTORS:
            change = life.truth[f] - life.truth[1.0]
            rmse[f"bg{f}"] = rms(by_factor[f] - life.truth[f])
            rmse[f"change{f}"] = rms(by_factor[f] - by_factor[1.0] - change)
        out[name] = Score(life.name, rmse, {}, {})
    return out


def rule(life: Life, factor: float) -> np.ndarray:
    """Change of glucose by the day's meals and boluses: float64[288]; what has acted stays."""
    minutes = np.arange(FIT_MIN + 5, END_MIN + 1, 5)
    change = np.zeros(minutes.size)
    for at, kind, value in life.acts:
        since = (minutes - at).astype(float)
        if at < FIT_MIN:
            continue
        acted = np.array([1.0 - iob_fraction(t) if t > 0 else 0.0 for t in since])
        eaten = np.where(since > 0, 1.0 - (1.0 + since / 40.0) * np.exp(-np.maximum(since, 0.0) / 40.0), 0.0)
        if kind == "bolus_u":
            change -= factor * value * life.correction * acted
        else:
            change += value * life.correction / life.ratio * eaten
    return change


def one(name: str, seed: int) -> tuple[Score, dict[str, Score]]:
    """A person's day, for all methods."""
    life = live(name, seed)
    return score_twin(life), score_peers(life)


def answer_ms(name: str, seed: int) -> tuple[float, float]:
    """CPU and wall milliseconds of one more question about a day, 1,000 draws; medians of nine."""
    known = abduct(
        twin_of(live(name, seed)), START_US + FIT_MIN * US_PER_MIN, START_US + END_MIN * US_PER_MIN, DRAWS
    )
    answer(known, "bolus_u*=0.9")
    cpu, wall = [], []
    for k in range(9):
        began = (time.process_time(), time.perf_counter())
        answer(known, f"bolus_u*={0.8 + 0.05 * k:.2f}")
        cpu.append(1000.0 * (time.process_time() - began[0]))
        wall.append(1000.0 * (time.perf_counter() - began[1]))
    return statistics.median(cpu), statistics.median(wall)


def run(quick: bool = False) -> Section:
    """See the module."""
    simulator()  # absent: an error before anything else
    adults = [f"adult#{k:03d}" for k in range(1, 11)]
    work = [(name, SEEDS[0]) for name in adults] + [(n, s) for s in SEEDS[1:] for n in PROTOCOL]
    work += [(n, SEEDS[0]) for n in ("adolescent#001", "adolescent#005", "adolescent#006")]
    if quick:
        work = [(PROTOCOL[0], SEEDS[0])]
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        waiting = [pool.submit(one, *item) for item in work]
        done = [w.result() for w in track(waiting, "what if", transient=True)]
    by = dict(zip(work, done, strict=True))
    groups = {
        "protocol's three adults": [w for w in work if w[0] in PROTOCOL],
        "all ten adults": [w for w in work if w[0].startswith("adult") and w[1] == SEEDS[0]],
        "adolescents": [w for w in work if w[0].startswith("adolescent")],
    }
    groups = {label: items for label, items in groups.items() if items}
    rows, figures = [], []
    for label, items in groups.items():
        scores = [by[i][0] for i in items]
        rows.append((f"twin: {label}", *_cells(scores), str(len(items))))
        rows += [
            (f"{peer}: {label}", *_cells([by[i][1][peer] for i in items]), str(len(items)))
            for peer in by[items[0]][1]
        ]
    for label in list(groups)[:2]:
        scores = [by[i][0] for i in groups[label]]
        for key, (limit, peer) in TARGETS.items():
            mean = float(np.mean([s.rmse[key] for s in scores]))
            figures.append(
                Figure(f"{label}, {WORDS[key]}", f"< {limit:g} mg/dL", f"{mean:.1f}", peer, mean < limit)
            )
    everyone = [by[w][0] for w in work]
    for what, keys in (("glucose", ("day3", "bg0.7", "bg1.3")), ("the change", ("change0.7", "change1.3"))):
        share = float(np.nanmean([s.cover[k] for s in everyone for k in keys]))
        figures.append(
            Figure(
                f"90 % band of {what}, all people",
                "85–95 %",
                f"{100 * share:.0f} %",
                reached=0.85 <= share <= 0.95,
            )
        )
    cpu_ms, wall_ms = answer_ms(*work[0])
    figures.append(
        Figure(
            "one question about a day, 1,000 draws, one core",
            f"< {ANSWER_MS:g} ms",
            f"{cpu_ms:.0f} ms CPU ({wall_ms:.0f} ms on the clock)",
            reached=cpu_ms < ANSWER_MS,
        )
    )
    people = tuple(
        (
            f"{name}, seed {seed}",
            *(f"{s.rmse[k]:.1f}" for k in TARGETS),
            f"{s.size['size0.7']:.2f} {s.size['size1.3']:.2f}",
            f"{s.size['true0.7']:.1f} {s.size['true1.3']:.1f}",
            *(f"{s.cover[k]:.2f}" for k in ("day3", "change0.7", "change1.3")),
            " ".join(sorted(set(s.cautions))) or "–",
        )
        for (name, seed), (s, _) in by.items()
    )
    columns = ("", *(WORDS[k] for k in TARGETS), "people × seeds")
    return Section(
        "whatif",
        "counterfactuals on bodies of another structure",
        (
            Table("RMSE mg/dL against noise-free glucose, mean over people", columns, tuple(rows)),
            Table(
                "Each person",
                (
                    *("", "day 3", "bg ×.7", "bg ×1.3", "change ×.7", "change ×1.3"),
                    *("size, times true", "RMS of true change", "cover day 3", "… ×.7", "… ×1.3", "cautions"),
                ),
                people,
            ),
        ),
        (
            "simglucose 0.2.11, its own CGM noise (SD about 11 mg/dL), three meals a day (CV 20 %, ±30 min), boluses by its Quest"
            " ratio for a count with 10 % error; the log holds what was eaten",
            f"settings (priors, errors of therapy facts, size of structural error, prior and grid of the noises' sizes, the errors that "
            f"come again after each meal and at the same hour of each day) were found on other people, seeds 1 and 2: {', '.join(SEEN)}; "
            f"these people were not scored at these seeds ({', '.join(map(str, SEEDS))}) before",
            "history: the protocol's three adults were scored at seeds 11–13 once (bands held 99 %), and all at seeds 21–23 three times: "
            "with structural error .25 and a narrower search for noise (bands of glucose held 96 %, of the change 83 %); without an error "
            "of level that comes again each day (day 3 of the three adults 17.8, all ten 12.5; bands 92 and 90 %); and with it (18.1 and "
            "11.4; 90 and 90 %), 17.8 missed each time",
            "all at seeds 31–35 twice: before what comes again after each meal (day 3 of the three adults 14.6, of all ten 8.7; bands held "
            "94 % of glucose, 95 % of the change) and with it (9.9 and 6.2; 96 % and a little over 95 %, both missed); at seeds 41–45 once, "
            "with structural error .26 and .30 (day 3 11.0 and 5.4 in both; 97 and 93 %, 97 and 96 %), the first not taken",
            "ReplayBG and the rule in the target column are of an earlier run of this protocol on other draws; the rule in the"
            " table is ours (correction factor times insulin acted, no return), on these draws; ReplayBG was not run here",
            f"fit and both answers: {np.median([s.seconds for s in everyone]):.1f} s of CPU a person (median)",
            "simulation is not clinical evidence",
        ),
        tuple(figures),
    )


def _cells(scores: Sequence[Score]) -> tuple[str, ...]:
    return tuple(f"{np.mean([s.rmse[k] for s in scores]):.1f}" for k in TARGETS)
