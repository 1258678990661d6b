"""Nominal values of one person: from the patient file, else from the record, else from the population.

They set where the filter starts and what its parameters return to. Every value that was not given is listed
in ``assumed`` with where it came from, so that output can say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from core.messages import Prior
from core.models import hovorka as model
from core.patient import LocalTime, Patient
from core.record import Entry
from core.units import US_PER_DAY, mmoll_from_mgdl

BASAL_U_PER_KG_DAY: Final = 0.35  # W10 ports: need .35 ± .14 U/kg/d
REST_BPM: Final = 68.0
TYPICAL_MGDL: Final = 140.0


class Tuning(NamedTuple):
    """Hyperparameters of the filter, the same for all people; found on first halves of recordings."""

    sd_disturbance: float = 0.026  # mmol/kg/min, stationary
    tau_disturbance_min: float = 30.0
    sd_sensor_mgdl: float = 5.0
    tau_sensor_min: float = 11.0
    white_mgdl: float = 1.0
    revert_per_min: float = model.DEFAULTS[model.K_REVERT]
    meal_factor: float = 0.85  # logged meals are mistimed and misjudged: how much of one to believe
    meal_slow: float = 1.0  # times tG
    sd_carbs: float = 0.3  # relative error of a logged meal, anew with each; the person's habit is ln AG


class Nominal(NamedTuple):
    """What the filter starts from. Arrays are never written to after they are made."""

    consts: model.Array
    dynamics: model.Array  # float64[8, 3]
    basal_mupm: float  # background when the record has no basal at all, else at the start
    fasting_mmoll: float
    rest_bpm: float
    background: bool  # no basal information: the background runs for ever
    assumed: tuple[tuple[str, str], ...]
    own_dynamics: model.Array  # before a population prior was blended in
    prior_version: int = 0


def make_nominal(
    patient: Patient, entries: Sequence[Entry], local: LocalTime, tuning: Tuning, prior: Prior | None
) -> Nominal:
    """Nominal values from what is known. ``entries``: the record so far (may be empty)."""
    assumed: list[tuple[str, str]] = []
    weight_kg = patient.weight_kg
    if weight_kg is None:
        weight_kg = next((e.value for e in reversed(entries) if e.kind == "weight_kg"), None)
        assumed.append(("weight_kg", "75 kg" if weight_kg is None else "from the record"))
        weight_kg = min(max(weight_kg or 75.0, 5.0), 400.0)
    basal_uph, background, source = _basal_uph(patient, entries, weight_kg)
    if source:
        assumed.append(("basal", source))
    fasting_mgdl, source = _fasting_mgdl(patient, entries, local)
    if source:
        assumed.append(("fasting glucose", source))
    rest = patient.resting_heart_rate_bpm
    if rest is None:
        rates = [e.value for e in entries if e.kind == "heart_rate_bpm"]
        rest = float(np.quantile(rates, 0.1)) if len(rates) >= 48 else REST_BPM
        assumed.append(("resting heart rate", "from the record" if len(rates) >= 48 else f"{REST_BPM:g}"))

    half_life_min = model.LONG_HALF_LIFE_H[patient.therapy.long_acting] * 60.0
    constants = {
        "bw": weight_kg,
        "k_long": math.log(2.0) / half_life_min,
        "tau_d": tuning.tau_disturbance_min,
        "k_revert": tuning.revert_per_min,
        "tg": model.DEFAULTS[model.TG] * tuning.meal_slow,
        "ag": model.DEFAULTS[model.AG] * tuning.meal_factor,
    }
    constants["g_revert"] = mmoll_from_mgdl(fasting_mgdl)  # where the basal rate holds, nothing pulls
    constants.update(patient.model.overrides)
    consts = model.make_consts(**constants)

    dynamics = np.zeros((model.N_LINEAR, 3))
    for i in range(model.N_THETA):
        dynamics[i] = (0.0, model.PRIOR_TAU_MIN[i], model.PRIOR_SD[i])
    basal_mupm = basal_uph * 1000.0 / 60.0
    fasting_mmoll = mmoll_from_mgdl(fasting_mgdl)
    dynamics[model.LN_S, 0] = model.ln_s_from_fasting(consts, basal_mupm, fasting_mmoll)
    if not background:
        dynamics[model.LN_S, 2] = model.SD_LN_S_KNOWN_BASAL
    dynamics[model.SENSOR_SLOW] = dynamics[model.SENSOR] = (0.0, tuning.tau_sensor_min, tuning.sd_sensor_mgdl)
    dynamics[model.DISTURBANCE] = (0.0, tuning.tau_disturbance_min, tuning.sd_disturbance)
    nominal = Nominal(consts, dynamics, basal_mupm, fasting_mmoll, rest, background, tuple(assumed), dynamics)
    return nominal if prior is None else with_prior(nominal, prior)


def with_prior(nominal: Nominal, prior: Prior) -> Nominal:
    """Move where parameters return to, by precision: the person's own steady state stays in."""
    dynamics = nominal.own_dynamics.copy()
    for row, name in enumerate(prior.names):
        if name not in model.NAMES[: model.N_THETA]:
            continue
        i = model.NAMES.index(name)
        var_prior = prior.covariance[row * (row + 1) // 2 + row]
        if i == model.LN_S:
            var_own = model.PRIOR_SD[i] ** 2  # between people; ``dynamics`` has how far one moves
            share = var_own / (var_own + var_prior)
            dynamics[i, 0] += share * (prior.mean[row] - dynamics[i, 0])
        else:
            dynamics[i, 0] = prior.mean[row]
            dynamics[i, 2] = min(math.sqrt(var_prior), 2.0 * model.PRIOR_SD[i])
    return nominal._replace(dynamics=dynamics, prior_version=prior.version)


def _basal_uph(patient: Patient, entries: Sequence[Entry], weight_kg: float) -> tuple[float, bool, str]:
    """(U/h, is background for ever, source or '' when given)."""
    profile = patient.mean_profile_uph()
    if profile is not None:
        return max(profile, 0.02), False, ""
    if patient.therapy.long_acting_u_per_day is not None:
        return max(patient.therapy.long_acting_u_per_day / 24.0, 0.02), False, ""
    rates = [e for e in entries if e.kind == "basal_uph"]
    if rates:
        end_us = entries[-1].time_us
        total = span = 0.0
        for entry, later in zip(rates, [*(r.time_us for r in rates[1:]), end_us], strict=True):
            hold = min(later - entry.time_us, US_PER_DAY)
            total += entry.value * hold
            span += hold
        mean = total / span if span > 0 else rates[-1].value
        return max(mean, 0.05), False, "mean pump rate of the record"
    pens = [e for e in entries if e.kind == "long_acting_u"]
    if pens:
        # At most one usual dose a day is missing from most records: the median dose per active day counts.
        by_day: dict[int, float] = {}
        for pen in pens:
            day = pen.time_us // US_PER_DAY
            by_day[day] = by_day.get(day, 0.0) + pen.value
        return (
            max(float(np.median(list(by_day.values()))) / 24.0, 0.05),
            False,
            "long-acting doses of the record",
        )
    days = max(1.0, (entries[-1].time_us - entries[0].time_us) / US_PER_DAY) if entries else 1.0
    bolus_u = sum(e.value for e in entries if e.kind == "bolus_u")
    need = BASAL_U_PER_KG_DAY * weight_kg
    if days >= 0.9 and bolus_u > 0:
        # People on basal-bolus therapy take about half as basal; half-way to the population in logs.
        need = math.sqrt(need * min(max(bolus_u / days, 0.2 * need), 4.0 * need))
        return need / 24.0, True, "as much a day as boluses and the population suggest"
    return need / 24.0, True, f"{BASAL_U_PER_KG_DAY:g} U/kg a day"


def _fasting_mgdl(patient: Patient, entries: Sequence[Entry], local: LocalTime) -> tuple[float, str]:
    """Glucose that the basal rate holds: of quiet night hours, else of the whole record, else the target."""
    glucose = [(e.time_us, e.value) for e in entries if e.kind in ("cgm_mgdl", "smbg_mgdl")]
    night = [value for at, value in glucose if 2.5 <= local.hour(at) < 7.0]
    if len(night) >= 12:
        return min(max(float(np.median(night)), 80.0), 220.0), "median night glucose of the record"
    if len(glucose) >= 24:
        return min(max(float(np.median([v for _, v in glucose])), 80.0), 220.0), "median of the record"
    if patient.therapy.target_mgdl is not None:
        return patient.therapy.target_mgdl, ""
    return TYPICAL_MGDL, f"{TYPICAL_MGDL:g} mg/dL"
