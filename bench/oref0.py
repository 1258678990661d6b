"""OpenAPS oref0 (npm, MIT) as a peer: a closed loop that sets temporary basal rates with every reading.

Bench only. ``npm install oref0@0.7.1`` in a folder, and HOMETWIN_OREF0 names that folder; node comes from the PATH.
Its own code decides (bench/oref0_loop.js); here stand its inputs: pump history, readings, announced carbohydrate and
the profile that a clinic would enter. Meals and rescues as everybody's; corrections are its own affair.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.bodies import Body
from bench.closed_loop import RUN_IN_DAYS, TARGET_MGDL, Calculator, Day
from bench.padova import START_US
from core.errors import EnvironmentMissing
from core.units import US_PER_MIN, US_PER_S

VERSION: Final = "0.7.1"
KEPT_MIN: Final = 24 * 60  # what its rigs look back on
TEMP_KEPT_MIN: Final = 8 * 60
SENSITIVITY_EVERY_MIN: Final = 60  # oref0-detect-sensitivity
ACTION_H: Final = 6.0
TYPICAL_MEAL_G: Final = 60.0


def folder() -> Path:
    """Where oref0 lies; EnvironmentMissing when it, or node, is not there."""
    if shutil.which("node") is None:
        raise EnvironmentMissing("node is not installed", where="bench", mend="install Node.js")
    found = Path(os.environ.get("HOMETWIN_OREF0", ".")) / "node_modules" / "oref0"
    if not (found / "package.json").is_file():
        raise EnvironmentMissing(
            "oref0 is not installed",
            where="bench",
            mend=f"npm install oref0@{VERSION}, and set HOMETWIN_OREF0",
        )
    version = json.loads((found / "package.json").read_text())["version"]
    if version != VERSION:
        raise EnvironmentMissing(f"oref0 is {version}", where="bench", mend=f"npm install oref0@{VERSION}")
    return found.resolve()


def lacking() -> str:
    """Why it cannot run here; empty when it can."""
    try:
        folder()
    except EnvironmentMissing as err:
        return err.what
    return ""


class Oref0(Calculator):
    """Meals by the calculator, the rest by oref0. ``microbolus``: with its super micro boluses (oref1)."""

    def __init__(self, body: Body, *, microbolus: bool = False) -> None:
        super().__init__(body.carb_ratio, body.correction)
        self.name = f"OpenAPS oref0, {'micro boluses' if microbolus else 'temp basals'} (closed loop)"
        self._microbolus = microbolus
        basal = body.basal_uph
        basals = [{"i": 0, "start": "00:00:00", "minutes": 0, "rate": basal}]
        sensitivities = [
            {"i": 0, "start": "00:00:00", "offset": 0, "endOffset": 1440, "sensitivity": body.correction}
        ]
        self._profile: dict[str, Any] = {
            # oref0's advice for its limit: three times the basal rate and a usual meal's bolus.
            "max_iob": 3.0 * basal + TYPICAL_MEAL_G / body.carb_ratio,
            "max_basal": 4.0 * basal,
            "max_daily_basal": basal,
            "current_basal": basal,
            "basalprofile": basals,
            "min_bg": TARGET_MGDL,
            "max_bg": TARGET_MGDL,
            "sens": body.correction,
            "isfProfile": {"units": "mg/dL", "sensitivities": sensitivities, "first": 1},
            "carb_ratio": body.carb_ratio,
            "dia": ACTION_H,
            "out_units": "mg/dL",
            # the defaults of lib/profile
            "max_daily_safety_multiplier": 3,
            "current_basal_safety_multiplier": 4,
            "autosens_max": 1.2,
            "autosens_min": 0.7,
            "sensitivity_raises_target": True,
            "maxCOB": 120,
            "min_5m_carbimpact": 8,
            "remainingCarbsFraction": 1.0,
            "remainingCarbsCap": 90,
            "enableUAM": True,
            "enableSMB_always": microbolus,
            "A52_risk_enable": False,
            "maxSMBBasalMinutes": 30,
            "maxUAMSMBBasalMinutes": 30,
            "SMBInterval": 3,
            "bolus_increment": 0.1,
            "maxDelta_bg_threshold": 0.2,
            "curve": "rapid-acting",
            "noisyCGMTargetMultiplier": 1.3,
            "suspend_zeros_iob": True,
            "model": "554",
        }
        self._usual_uph = basal
        self._glucose: list[tuple[int, float]] = []
        self._carbs: list[tuple[int, float]] = []
        self._boluses: list[tuple[int, float]] = []
        self._temps: list[tuple[int, float, int]] = []  # minute, U/h, for how many minutes
        self._process: subprocess.Popen[str] | None = None

    def tell(self, kind: str, minute: int, value: float) -> None:
        if minute < (RUN_IN_DAYS - 1) * 1440:
            return
        kept = {"cgm_mgdl": self._glucose, "carbs_g": self._carbs, "bolus_u": self._boluses}.get(kind)
        if kept is not None:
            kept.append((minute, value))
            while kept[0][0] < minute - KEPT_MIN:
                kept.pop(0)

    def between(self, day: Day, *, correct: bool) -> tuple[float, float]:
        return 0.0, 0.0

    def loop(self, day: Day, usual_uph: float) -> tuple[float, float]:
        """Basal rate (U/h) of the next five minutes and a micro bolus (U)."""
        now = day.minute
        while self._temps and self._temps[0][0] < now - KEPT_MIN:
            self._temps.pop(0)
        left_min, rate_uph = self._running(now)
        detect = now % SENSITIVITY_EVERY_MIN == 0
        answer = self._ask(
            {
                "clock": _clock(now),
                "profile": self._profile,
                "basalprofile": self._profile["basalprofile"],
                "glucose": [
                    {
                        "glucose": round(value),
                        "sgv": round(value),
                        "date": _ms(at),
                        "dateString": _clock(at),
                        "device": "fakecgm",  # else a flat stretch of whole numbers counts as a stuck sensor
                        "noise": 1,
                    }
                    for at, value in reversed(self._glucose)
                    if detect or at > now - TEMP_KEPT_MIN
                ],
                "history": self._history(now, detect),
                "carbs": [{"carbs": grams, "created_at": _clock(at)} for at, grams in reversed(self._carbs)],
                "current": {"duration": left_min, "rate": rate_uph if left_min else 0, "temp": "absolute"},
                "microbolus": self._microbolus,
                "detect_sensitivity": detect,
            }
        )
        if answer.get("error"):
            raise RuntimeError(f"oref0: {answer['error']}")
        if answer.get("rate") is not None and answer.get("duration") is not None:
            if self._temps:  # the pump replaces what is running
                at, rate, span = self._temps[-1]
                self._temps[-1] = (at, rate, min(span, now - at))
            self._temps.append((now, float(answer["rate"]), int(answer["duration"])))
        left_min, rate_uph = self._running(now)
        return (rate_uph if left_min else usual_uph), float(answer.get("units") or 0.0)

    def _running(self, now: int) -> tuple[int, float]:
        if not self._temps:
            return 0, 0.0
        at, rate, span = self._temps[-1]
        return max(0, at + span - now), rate

    def _history(self, now: int, whole: bool) -> list[dict[str, Any]]:
        """Newest first, as a pump tells it."""
        since = now - (KEPT_MIN if whole else TEMP_KEPT_MIN)
        rows: list[tuple[int, list[dict[str, Any]]]] = []
        for at, dose_u in self._boluses:
            rows.append((at, [{"_type": "Bolus", "timestamp": _clock(at), "amount": dose_u}]))
        for at, rate, span in self._temps:
            duration = {"_type": "TempBasalDuration", "timestamp": _clock(at), "duration (min)": span}
            rows.append(
                (
                    at,
                    [
                        duration,
                        {"_type": "TempBasal", "timestamp": _clock(at), "rate": rate, "temp": "absolute"},
                    ],
                )
            )
        rows.sort(key=lambda row: -row[0])
        return [event for at, events in rows if at >= since for event in events]

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            script = Path(__file__).with_name("oref0_loop.js")
            self._process = subprocess.Popen(
                ["node", str(script), str(folder())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TZ": "UTC"},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("oref0 ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=30)
            self._process = None


def _ms(minute: int) -> int:
    return (START_US + minute * US_PER_MIN) // 1000


def _clock(minute: int) -> str:
    at = datetime.fromtimestamp((START_US + minute * US_PER_MIN) / US_PER_S, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
