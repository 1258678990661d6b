"""What one more unit, or ten more grams, does to the people of simglucose: an extra of this bench only.

simglucose is an open port of the UVA/Padova simulator (MIT); ``pip install simglucose`` and a setuptools that
still has pkg_resources. Its own right-hand side and integrator are used; parameters are handed over as plain
attributes, since a pandas row costs a hundredfold. Its "BG" is subcutaneous glucose; below zero it freezes for
ever, so a low gets rescue sugar here, and answers that touch FLOOR are left out. The sensor is its own model of a
5-min one (smooth, SD about 11 mg/dL), or a rough one (first-order noise, new at each reading).
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Final

import msgspec
import numpy as np

from bench.nights import KeptTwin
from bench.recordings import US_PER_MIN
from core.errors import EnvironmentMissing
from core.messages import Sample
from core.patient import Patient, Therapy
from core.twin import Twin

START_US: Final = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
DAYS: Final = 5
ASK_DAYS: Final = (3, 4)
ASK_MIN: Final = (3 * 60, 10 * 60 + 30, 16 * 60)
RESPONSE_MIN: Final = (60, 120, 180, 240)
EXTRA: Final = (("bolus_u", 1.0), ("carbs_g", 10.0))
MEALS: Final = ((7 * 60, 45.0), (12 * 60 + 30, 70.0), (18 * 60 + 30, 80.0))
PORTION: Final = {"adult": 1.0, "adolescent": 0.85, "child": 0.5}
MEAL_CV: Final = 0.15
COUNT_CV: Final = 0.20
SENSOR: Final = "GuardianRT"
ROUGH_SD: Final = 7.0  # mg/dL, first-order with ROUGH_RHO per 5 min
ROUGH_RHO: Final = 0.7
RESCUE_MGDL: Final = 65.0
RESCUE_G: Final = 15.0
RESCUE_EVERY_MIN: Final = 20
CORRECT_ABOVE_MGDL: Final = 160.0
# A snack on a full stomach changes how the simulator empties the meal before: the body's own answer may be negative.
STOMACH_MG: Final = 2000.0
FLOOR_MGDL: Final = 30.0  # below, the simulator is about to freeze
GROUPS: Final = ("adult", "adolescent", "child")


@dataclass(frozen=True)
class Answers:
    """Changes of glucose, mg/dL, of one person: float64[n_asked, len(RESPONSE_MIN)] per kind."""

    name: str
    believed: dict[str, np.ndarray]
    true: dict[str, np.ndarray]


class Simulator:
    """The parts of simglucose that are used, imported once."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                module = importlib.import_module("simglucose.patient.t1dpatient")
                noise = importlib.import_module("simglucose.sensor.noise_gen")
                pandas = importlib.import_module("pandas")
            except ImportError as err:
                raise EnvironmentMissing(
                    f"simglucose cannot be imported ({err.name or 'unknown'} is lacking)",
                    where="bench",
                    mend="pip install simglucose 'setuptools<80'",
                ) from None
        self.patient: Any = module.T1DPatient
        self.action: Any = module.Action
        self.noise: Any = noise.CGMNoise
        sensors = pandas.read_csv(str(module.PATIENT_PARA_FILE).replace("vpatient_params", "sensor_params"))
        self.sensor = sensors.loc[sensors.Name == SENSOR].squeeze()
        self.people = pandas.read_csv(module.PATIENT_PARA_FILE)
        self.quest = pandas.read_csv(str(module.PATIENT_PARA_FILE).replace("vpatient_params", "Quest"))

    def names(self, group: str) -> list[str]:
        """Ten names."""
        return [n for n in self.people.Name if n.startswith(group)]

    def person(self, name: str) -> Any:
        """A patient at rest."""
        row = self.people.loc[self.people.Name == name].squeeze()
        made = self.patient(row)
        made.row, made._params = row, SimpleNamespace(**row.to_dict())
        return made

    def branch(self, person: Any) -> Any:
        """An independent copy at the same moment."""
        other = self.patient(person.row, init_state=np.array(person.state), t0=person.t)
        other.row, other._params = person.row, person._params
        for name in ("_last_Qsto", "_last_foodtaken", "_last_action", "is_eating", "planned_meal"):
            setattr(other, name, getattr(person, name))
        return other

    def run_on(self, person: Any, basal_upm: float, bolus_u: float, carbs_g: float) -> np.ndarray:
        """Glucose at RESPONSE_MIN from now, with one bolus or meal now and nothing else."""
        body = self.branch(person)
        out = []
        for minute in range(RESPONSE_MIN[-1]):
            now = minute == 0
            body.step(self.action(insulin=basal_upm + (bolus_u if now else 0.0), CHO=carbs_g if now else 0.0))
            if minute + 1 in RESPONSE_MIN:
                out.append(body.observation.Gsub)
        return np.array(out)


@functools.cache
def simulator() -> Simulator:
    """The simulator, once per process."""
    return Simulator()


def rough(rng: np.random.Generator) -> Iterator[float]:
    """First-order noise, mg/dL, one value per reading."""
    value = 0.0
    while True:
        value = ROUGH_RHO * value + ROUGH_SD * math.sqrt(1.0 - ROUGH_RHO**2) * rng.standard_normal()
        yield value


def ask(name: str, seed: int, rough_sensor: bool, whole: bool = False) -> Answers:
    """Let a person live, a twin follow, and ask both the same question at quiet times of the last days.

    ``whole``: the twin as a hub keeps it, told the therapy (Quest table), with its nights; else told the weight alone.
    """
    rng = np.random.default_rng((seed, 41))
    world = simulator()
    body = world.person(name)
    p = body._params
    quest = world.quest.loc[world.quest.Name == name].squeeze()
    basal_upm = p.u2ss * p.BW / 6000.0
    portion = PORTION[name.split("#")[0]]
    patient = Patient(timezone="UTC", weight_kg=float(p.BW))
    if whole:
        therapy = Therapy(carb_ratio_g_per_u=float(quest.CR), correction_mgdl_per_u=abs(float(quest.CF)))
        twin: Twin = KeptTwin(msgspec.structs.replace(patient, therapy=therapy), START_US, seed)
    else:
        twin = Twin(patient)
    noise = rough(rng) if rough_sensor else world.noise(world.sensor, seed=seed)
    rescue_at, number = -math.inf, 0
    meals = {
        day * 1440 + at: grams * portion * max(0.3, 1.0 + MEAL_CV * rng.standard_normal())
        for day in range(DAYS)
        for at, grams in MEALS
    }
    believed: dict[str, list[np.ndarray]] = {kind: [] for kind, _ in EXTRA}
    true: dict[str, list[np.ndarray]] = {kind: [] for kind, _ in EXTRA}

    def tell(minute: int, kind: str, value: float) -> None:
        nonlocal number
        number += 1
        twin.observe([Sample(START_US + minute * US_PER_MIN, kind, float(value), kind, number)])

    for minute in range(DAYS * 1440):
        glucose = body.observation.Gsub
        bolus_u = carbs_g = 0.0
        if minute % 60 == 0:
            tell(minute, "basal_uph", basal_upm * 60.0)
        if minute % 5 == 0:
            tell(minute, "cgm_mgdl", min(max(glucose + float(next(noise)), 39.0), 600.0))
        if minute % 1440 in ASK_MIN and minute // 1440 in ASK_DAYS:
            _question(world, body, twin, minute, basal_upm, believed, true)
        if minute in meals:
            carbs_g = meals[minute]
            counted = carbs_g * max(0.2, 1.0 + COUNT_CV * rng.standard_normal())
            bolus_u = counted / quest.CR
            if glucose > CORRECT_ABOVE_MGDL:
                bolus_u += 0.5 * (glucose - 120.0) / quest.CF
            tell(minute, "bolus_u", bolus_u)
            tell(minute, "carbs_g", counted)
        elif glucose < RESCUE_MGDL and minute - rescue_at >= RESCUE_EVERY_MIN:
            rescue_at, carbs_g = minute, RESCUE_G
            tell(minute, "carbs_g", carbs_g)
        body.step(world.action(insulin=basal_upm + bolus_u, CHO=carbs_g))
    return Answers(
        name,
        {kind: np.array(rows).reshape(-1, len(RESPONSE_MIN)) for kind, rows in believed.items()},
        {kind: np.array(rows).reshape(-1, len(RESPONSE_MIN)) for kind, rows in true.items()},
    )


def _question(
    world: Simulator,
    body: Any,
    twin: Twin,
    minute: int,
    basal_upm: float,
    believed: dict[str, list[np.ndarray]],
    true: dict[str, list[np.ndarray]],
) -> None:
    t_us = START_US + minute * US_PER_MIN
    plain = world.run_on(body, basal_upm, 0.0, 0.0)
    forecast = np.array(twin.forecast(t_us, RESPONSE_MIN).forecast.mean)
    for kind, amount in EXTRA:
        bolus_u, carbs_g = (amount, 0.0) if kind == "bolus_u" else (0.0, amount)
        if carbs_g and body.state[0] + body.state[1] > STOMACH_MG:
            continue
        changed = world.run_on(body, basal_upm, bolus_u, carbs_g)
        if min(changed.min(), plain.min()) < FLOOR_MGDL:
            continue
        planned = [Sample(t_us, kind, amount, "plan", 1)]
        with_it = np.array(twin.forecast(t_us, RESPONSE_MIN, planned=planned).forecast.mean)
        believed[kind].append(with_it - forecast)
        true[kind].append(changed - plain)
