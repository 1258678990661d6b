"""The plan of an in-silico trial: a TOML file, typed, checked, and nothing in it left unused.

name = "Less basal at the same calculator"
days = 14
seed = 7
[size]
people = 1000                 # or: half_width = 0.5, or: detect = 1.0, power = 0.9
[[arms]]
name = "usual care"           # the others are compared with the first arm, or the one that `reference` names
[[arms]]
name = "basal × 0.9"
basal_factor = 0.9
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from core import closed_loop as loop
from core.advice_types import MIN_DRAWS
from core.errors import ConfigError
from core.models.hovorka import Array
from core.virtual import Habits

MIN_PRECISION: Final = 1e-6  # of half_width and detect
MAX_BYTES: Final = 8 << 20  # of a plan or a prior; a prior of all parameters has some kilobytes
MAX_PEOPLE: Final = 100_000
MAX_DAYS: Final = 90
MAX_ADVICE_DRAWS: Final = 5000

# What is measured on each person in each arm: (name, unit, in words, True when more is better).
OUTCOMES: Final = (
    ("in_range_pct", "%", "time in 70–180", True),
    ("below_70_pct", "%", "time below 70", False),
    ("below_54_pct", "%", "time below 54", False),
    ("above_180_pct", "%", "time above 180", False),
    ("above_250_pct", "%", "time above 250", False),
    ("mean_mgdl", "mg/dL", "mean glucose", False),
    ("gmi_pct", "%", "GMI", False),
    ("cv_pct", "%", "CV", False),
    ("lbgi", "", "low blood glucose index", False),
    ("hbgi", "", "high blood glucose index", False),
    ("lows_per_week", "1/week", "lows below 54 of ≥ 15 min", False),
    ("rescues_per_week", "1/week", "rescue sugar", False),
    ("bolus_u_per_day", "U/d", "bolus insulin", False),
    ("basal_u_per_day", "U/d", "basal insulin", False),
    ("lowest_mgdl", "mg/dL", "lowest plasma glucose", True),
)
OUTCOME_NAMES: Final = tuple(name for name, *_ in OUTCOMES)


class Arm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One policy: what differs from each person's own settings. Empty is usual care."""

    name: str
    doses: Literal["calculator", "advice"] = "calculator"  # who decides on meal and correction doses
    when_refused: Literal["calculator", "nothing"] = "calculator"  # where the adviser refuses
    advice_draws: int = 500  # courses the adviser draws for each candidate
    basal_factor: float = 1.0
    carb_ratio_factor: float = 1.0  # above 1: less insulin for the same meal
    correction_factor: float = 1.0  # above 1: smaller corrections
    target_mgdl: float = 110.0
    correct_above_mgdl: float = 200.0  # corrections between meals begin here
    suspend_below_mgdl: float = 0.0  # no basal while the sensor reads less; 0: never
    max_bolus_u: float = 25.0
    max_iob_u: float = 30.0
    dose_step_u: float = 0.05
    bolus_earlier_min: float = 0.0
    meal_shift_min: float = 0.0  # all meals later by this
    meal_size_factor: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "basal_factor": (0.0, 3.0),
            "carb_ratio_factor": (0.2, 5.0),
            "correction_factor": (0.2, 5.0),
            "target_mgdl": (70.0, 300.0),
            "correct_above_mgdl": (100.0, 1000.0),
            "suspend_below_mgdl": (0.0, 180.0),
            "max_bolus_u": (0.0, 25.0),
            "max_iob_u": (0.0, 30.0),
            "dose_step_u": (0.001, 5.0),
            "bolus_earlier_min": (-120.0, 120.0),
            "meal_shift_min": (-240.0, 240.0),
            "meal_size_factor": (0.0, 3.0),
        }
        if not MIN_DRAWS <= self.advice_draws <= MAX_ADVICE_DRAWS:
            raise ConfigError(f"must lie in {MIN_DRAWS}..{MAX_ADVICE_DRAWS}", where="arms.advice_draws")
        if self.is_advised and not self.max_bolus_u > 0:
            raise ConfigError("must be above 0 for advice", where="arms.max_bolus_u")
        if not 1 <= len(self.name) <= 60:
            raise ConfigError("must have 1..60 characters", where="arms.name")
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"must lie in {low:g}..{high:g}", where=f"arms.{field}")

    @property
    def is_advised(self) -> bool:
        return self.doses == "advice"

    def policy(self) -> Array:
        """As core.closed_loop wants it."""
        policy = np.empty(loop.N_POLICY)
        policy[loop.BASAL_FACTOR] = self.basal_factor
        policy[loop.RATIO_FACTOR] = self.carb_ratio_factor
        policy[loop.CORRECTION_FACTOR] = self.correction_factor
        policy[loop.TARGET_MGDL] = self.target_mgdl
        policy[loop.CORRECT_ABOVE_MGDL] = self.correct_above_mgdl
        policy[loop.SUSPEND_BELOW_MGDL] = self.suspend_below_mgdl
        policy[loop.MAX_BOLUS_U] = self.max_bolus_u
        policy[loop.MAX_IOB_U] = self.max_iob_u
        policy[loop.DOSE_STEP_U] = self.dose_step_u
        policy[loop.ADVISED] = float(self.is_advised)
        return policy

    def changes(self) -> str:
        """What differs from usual care, in words."""
        parts = [
            f"{name} {value:g}" if isinstance(value := getattr(self, name), float) else f"{name} {value}"
            for name in self.__struct_fields__
            if name != "name" and getattr(self, name) != getattr(USUAL, name)
        ]
        return ", ".join(parts) or "each person's own settings"


USUAL: Final = Arm("usual care")


class Size(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many people. Exactly one of ``people``, ``half_width`` (of the 95 % interval of the primary difference,
    in its unit) and ``detect`` (a difference to be found with ``power``). The last two are worked out from the
    first ``pilot`` people, who stay in the trial."""

    people: int | None = None
    half_width: float | None = None
    detect: float | None = None
    power: float = 0.9
    pilot: int = 100
    most: int = 5000

    def __post_init__(self) -> None:
        given = [v for v in (self.people, self.half_width, self.detect) if v is not None]
        if len(given) != 1:
            raise ConfigError("give exactly one of people, half_width and detect", where="size")
        if not (math.isfinite(given[0]) and given[0] >= MIN_PRECISION):
            raise ConfigError(f"must be {MIN_PRECISION:g} or more", where="size")
        if self.people is not None and not 2 <= self.people <= MAX_PEOPLE:
            raise ConfigError(f"must lie in 2..{MAX_PEOPLE}", where="size.people")
        if not 0.5 <= self.power < 1:
            raise ConfigError("must lie in 0.5..1", where="size.power")
        if not 20 <= self.pilot <= self.most <= MAX_PEOPLE:
            raise ConfigError(f"must rise: 20, pilot, most, {MAX_PEOPLE}", where="size.pilot, size.most")


class PopulationPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where people come from: ``virtual`` (the published table), ``prior`` (a file with a population prior, JSON),
    or ``cloud`` (the prior that the cloud twin's hubs have made so far: its TOML file)."""

    kind: Literal["virtual", "prior", "cloud"] = "virtual"
    file: str = ""
    stratum: str = "type-1 adult"
    habits: Habits = Habits()

    def __post_init__(self) -> None:
        if (self.kind == "virtual") == bool(self.file):
            raise ConfigError(
                "kind prior needs a file with the prior, kind cloud the cloud's TOML file, kind virtual none",
                where="population.file",
            )


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trial. ``crossover``: each person lives the very same days under every arm (no carry-over, no period
    effect: only simulation can do that). ``parallel``: each person has one arm, in randomised blocks."""

    name: str
    arms: tuple[Arm, ...]
    size: Size
    question: str = ""
    design: Literal["crossover", "parallel"] = "crossover"
    days: int = 14
    warmup_days: int = 1  # lived but not measured
    seed: int = 1
    primary: str = "in_range_pct"
    reference: str = ""  # the arm the others are compared with; else the first
    population: PopulationPlan = PopulationPlan()

    def __post_init__(self) -> None:
        if not 2 <= len(self.arms) <= 8:
            raise ConfigError("must be 2..8", where="arms")
        if len({arm.name for arm in self.arms}) != len(self.arms):
            raise ConfigError("two arms have the same name", where="arms")
        if self.reference:
            named = [arm for arm in self.arms if arm.name == self.reference]
            if not named:
                raise ConfigError("names none of the arms", where="reference", mend="give an arm's name")
            # From here on the first arm is the reference, wherever it stood in the file.
            rest = tuple(arm for arm in self.arms if arm.name != self.reference)
            msgspec.structs.force_setattr(self, "arms", (*named, *rest))
        people = self.size.people
        if self.design == "parallel" and people is not None and people < 2 * len(self.arms):
            raise ConfigError("a parallel trial needs two people for each arm", where="size.people")
        if not 1 <= self.days <= MAX_DAYS or not 0 <= self.warmup_days <= 14:
            raise ConfigError(f"days must lie in 1..{MAX_DAYS}, warmup_days in 0..14", where="days")
        if not 0 <= self.seed < 2**63:
            raise ConfigError("must lie in 0..9223372036854775807", where="seed")
        if self.primary not in OUTCOME_NAMES:
            raise ConfigError(f"must be one of {', '.join(OUTCOME_NAMES)}", where="primary")
        if not 1 <= len(self.name) <= 200 or len(self.question) > 2000:
            raise ConfigError("name must have 1..200 characters, question at most 2000", where="name")


def reference_words(plan: Plan) -> str:
    """Which arm the others are compared with, and why that one."""
    why = "as the plan says" if plan.reference else "the arm named first"
    return f"reference: {plan.arms[0].name} ({why})"


def read_small(path: Path, where: str) -> bytes:
    """A file that a person wrote or a trial left: ConfigError when it cannot be read, or never ends."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as err:
        raise ConfigError(
            f"cannot be read: {err.strerror or type(err).__name__}", where=where, mend="check the path"
        ) from None
    if len(text) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES >> 20} MiB", where=where, mend="check the path")
    return text


def read_plan(path: Path) -> tuple[Plan, bytes]:
    """(the plan, its bytes as they lay in the file). ConfigError says what is wrong and where."""
    text = read_small(path, path.name)
    try:
        return msgspec.toml.decode(text, type=Plan), text
    except RecursionError:
        raise ConfigError("nested too deep", where=path.name) from None
    except (msgspec.MsgspecError, ValueError) as err:
        raise ConfigError(str(err), where=path.name, mend="see docs/trials.md for the known keys") from None
