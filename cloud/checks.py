"""Whether what a hub said can be meant. Pure.

Authentic is not the same as usable: a hub with a broken clock, a half-written memory or a bad update signs
nonsense as well. Every function returns why something cannot be used, in words without any of its content, or
"" when it can. Ingest keeps aside what fails here, and reading skips it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from core.correction_pool import read
from core.correction_prior import POPULATION
from core.errors import DecodeError
from core.messages import (
    Alarm,
    Confirmation,
    Contribution,
    DoseAdvice,
    Estimate,
    Forecast,
    HubStatus,
    OwnAdvice,
    Resend,
    Sample,
)
from core.units import KINDS

EARLIEST_US: Final = 631_152_000_000_000  # 1990-01-01 UTC; before it there was nothing to measure with
LATEST_US: Final = 7_258_118_400_000_000  # 2200-01-01 UTC
INT64_MAX: Final = (1 << 63) - 1
INT32_MAX: Final = (1 << 31) - 1
MAX_NAMES: Final = 500  # states of a model, horizons of a forecast
MAX_HORIZON_MIN: Final = 7 * 24 * 60.0
MAX_NAME: Final = 80  # characters; a column's width
MAX_MODEL: Final = 40
MAX_TAKEN_U: Final = 100.0
MAX_TEXT: Final = 400


def sample_problem(sample: Sample) -> str:
    """Why this sample cannot be stored."""
    spec = KINDS.get(sample.kind)
    if spec is None:
        return "unknown kind"
    if not _is_time(sample.time_us):
        return "impossible time"
    if not math.isfinite(sample.value):
        return "not a number"
    if not sample.deleted and not spec.low <= sample.value <= spec.high:
        return "implausible value"
    amends_source, amends_seq = sample.amends or (sample.source, 0)
    if not (_is_name(sample.source) and _is_name(amends_source)):
        return "unusable source"
    if not (_is_count(sample.seq) and _is_count(amends_seq) and _is_count(sample.received_us)):
        return "number out of range"
    return "" if 0 <= sample.quality <= INT32_MAX else "number out of range"


def problem_of(body: Any) -> str:
    """Why this message cannot be used. SampleBatch is judged sample by sample, see ``sample_problem``."""
    match body:
        case Estimate():
            return _estimate_problem(body)
        case Forecast():
            return _forecast_problem(body)
        case Alarm():
            return _alarm_problem(body)
        case Contribution():
            return _contribution_problem(body)
        case HubStatus():
            return _status_problem(body)
        case Confirmation():
            return _confirmation_problem(body)
        case OwnAdvice():
            return _advice_problem(body.advice) or ("" if _is_name(body.policy_id, 64) else "unusable name")
        case Resend():
            return _resend_problem(body)
        case _:
            return ""


def _estimate_problem(e: Estimate) -> str:
    n = len(e.names)
    if not _is_time(e.time_us):
        return "impossible time"
    if not 0 < n <= MAX_NAMES or len(e.units) != n or len(e.mean) != n or len(e.covariance) != _triangle(n):
        return "lengths disagree"
    if not _are_finite((*e.mean, *e.covariance, e.output_mean, e.output_sd)) or e.output_sd < 0:
        return "not a number"
    if any(e.covariance[_triangle(i + 1) - 1] < 0 for i in range(n)):
        return "negative variance"
    if math.isinf(e.nis) or not _is_age(e.data_age_s):
        return "not a number"
    return "" if _are_names((e.model, e.status, *e.names)) and _are_texts(e.units) else "unusable name"


def _forecast_problem(f: Forecast) -> str:
    n = len(f.horizons_min)
    if not _is_time(f.made_at_us):
        return "impossible time"
    columns = (f.mean, f.sd, f.p05, f.p50, f.p95)
    if not 0 < n <= MAX_NAMES or any(len(column) != n for column in columns):
        return "lengths disagree"
    if not all(_are_finite(column) for column in (f.horizons_min, *columns)) or min(f.sd) < 0:
        return "not a number"
    if not all(0 <= h <= MAX_HORIZON_MIN for h in f.horizons_min):
        return "impossible horizon"
    if not _is_age(f.data_age_s):
        return "not a number"
    if not (math.isnan(f.low_chance) or 0 <= f.low_chance <= 1):
        return "impossible chance"
    return "" if _are_names((f.model, f.status)) else "unusable name"


def _alarm_problem(a: Alarm) -> str:
    if not _is_time(a.time_us):
        return "impossible time"
    if not _is_count(a.number) or not 0 <= a.level <= INT32_MAX:
        return "number out of range"
    if math.isinf(a.value) or not _is_age(a.data_age_s):
        return "not a number"
    return "" if _is_name(a.name) else "unusable name"


def _contribution_problem(c: Contribution) -> str:
    n = len(c.names)
    if not _is_time(c.time_us):
        return "impossible time"
    if not _is_count(c.prior_version):
        return "number out of range"
    if not 0 < n <= MAX_NAMES or len(c.delta_precision) != _triangle(n) or len(c.delta_information) != n:
        return "lengths disagree"
    if not _are_finite((*c.delta_precision, *c.delta_information, c.noise_sd)) or c.noise_sd < 0:
        return "not a number"
    if c.correction:
        try:
            read(c.correction, POPULATION)
        except DecodeError as err:
            return err.what
    is_named = _are_names(c.names) and _is_name(c.model, MAX_MODEL) and _are_texts((c.context,))
    return "" if is_named else "unusable name"


def _status_problem(s: HubStatus) -> str:
    # Its time is not judged: a hub whose clock is wrong must be able to say how it is.
    texts = (s.version, s.person, *s.devices, *s.devices.values(), *s.counters, *s.set_aside.values())
    texts += tuple(s.set_aside)
    return "" if len(texts) <= 4 * MAX_NAMES and _are_texts(texts) else "unusable name"


def _confirmation_problem(c: Confirmation) -> str:
    if not _is_time(c.time_us):
        return "impossible time"
    if not (math.isfinite(c.took_u) and 0 <= c.took_u <= MAX_TAKEN_U):
        return "implausible value"
    return "" if _is_name(c.advice_id, 64) else "unusable name"


def _resend_problem(r: Resend) -> str:
    numbers = (r.request, r.after, *(moment_us for span in r.spans for moment_us in span))
    return "" if 0 < len(r.spans) <= MAX_NAMES and all(map(_is_count, numbers)) else "number out of range"


def _advice_problem(a: DoseAdvice) -> str:
    if not (_is_time(a.for_time_us) and _is_time(a.data_time_us) and _is_time(a.approved_us)):
        return "impossible time"
    numbers = (a.carbs_g, a.dose_u, a.p_below_70, a.p_below_54, a.horizon_min, a.eat_g, a.max_dose_u)
    rows = (*a.ladder, *a.band, *a.band_without)
    if not _are_finite((*numbers, *(value for row in rows for value in row))) or min(numbers) < 0:
        return "not a number"
    if not 0 <= a.draws <= INT32_MAX or a.dose_u > MAX_TAKEN_U or max(a.p_below_70, a.p_below_54) > 1:
        return "number out of range"
    texts = (*a.reasons, *a.limits, *a.why, *a.changes, a.person, a.evidence, a.refused or "")
    if len(texts) + len(rows) > 4 * MAX_NAMES or any(len(text) > MAX_TEXT for text in texts):
        return "too long"
    return "" if _are_names((a.advice_id, a.model, a.approved_by, a.action)) else "unusable name"


def _is_time(time_us: int) -> bool:
    return EARLIEST_US <= time_us < LATEST_US


def _is_age(age_s: float) -> bool:
    """Infinite before the first reading."""
    return not math.isnan(age_s)


def _is_count(number: int) -> bool:
    return 0 <= number <= INT64_MAX


def _is_name(name: str, limit: int = MAX_NAME) -> bool:
    # PostgreSQL takes no NUL, and nobody can read the other control characters.
    return 0 < len(name) <= limit and name.isprintable()


def _are_names(names: Iterable[str]) -> bool:
    return all(_is_name(name) for name in names)


def _are_texts(texts: Iterable[str]) -> bool:
    """As names, but they may be empty: a ratio has no unit."""
    return all(not text or _is_name(text) for text in texts)


def _are_finite(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) for number in numbers)


def _triangle(n: int) -> int:
    """Numbers in the lower triangle of an n by n matrix."""
    return n * (n + 1) // 2
