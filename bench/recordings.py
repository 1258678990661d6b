"""The real recordings and the protocol's days. Data are read from outside the repository, never copied in.

Times are the person's local clock taken as if it were UTC: hours of the day are then right, and the two
clock changes of a year are one hour of misfit, for us and for every peer alike.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import EnvironmentMissing
from core.events import parse_events
from core.messages import Sample

US_PER_MIN: Final = 60_000_000
DAY_MIN: Final = 1440
FULL_SHARE: Final = 0.70  # of the readings that the sensor's usual interval would give
MIN_SPACING_MIN: Final = 5.0  # scans between the sensor's own readings would count the same moment twice
TARGET_GAP_MIN: Final = 30.0  # a value at t + h is interpolated between readings at most this far apart


def data_folder() -> Path:
    """HOMETWIN_DATA, or ../shared/data beside the repository."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("HOMETWIN_DATA", default)) / "t1d_uom"
    if not folder.is_dir():
        raise EnvironmentMissing(
            "no recordings found", where="HOMETWIN_DATA", mend="set it to the folder that holds t1d_uom/"
        )
    return folder


@dataclass(frozen=True)
class Recording:
    """One person. Times in minutes (float) since the epoch of the local clock."""

    name: str
    samples: tuple[Sample, ...]  # time order
    cgm_min: np.ndarray
    cgm_mgdl: np.ndarray
    train_days: np.ndarray  # day numbers, first half of the full days
    score_days: np.ndarray  # second half

    def of_kind(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """(minutes, values) of one kind."""
        pairs = [(s.time_us / US_PER_MIN, s.value) for s in self.samples if s.kind == kind]
        array = np.array(pairs, dtype=float).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def times_in(self, days: np.ndarray) -> np.ndarray:
        """CGM times in these days, at least MIN_SPACING_MIN apart."""
        kept: list[float] = []
        for t in self.cgm_min[np.isin(self.cgm_min // DAY_MIN, days)]:
            if not kept or t - kept[-1] >= MIN_SPACING_MIN:
                kept.append(float(t))
        return np.array(kept)

    def at(self, t: np.ndarray) -> np.ndarray:
        """CGM at these minutes by interpolation; NaN where readings are too far apart."""
        return interpolate(self.cgm_min, self.cgm_mgdl, t, TARGET_GAP_MIN)


def interpolate(x: np.ndarray, y: np.ndarray, t: np.ndarray, gap: float) -> np.ndarray:
    """Linear between neighbours at most ``gap`` apart, exact on a reading, NaN elsewhere."""
    right = np.searchsorted(x, t)
    inside = (right > 0) & (right < len(x))
    r = np.clip(right, 1, len(x) - 1)
    span = np.maximum(x[r] - x[r - 1], 1e-9)
    value = y[r - 1] + (y[r] - y[r - 1]) * (t - x[r - 1]) / span
    nearest = np.clip(right, 0, len(x) - 1)
    on = x[nearest] == t
    return np.where(on, y[nearest], np.where(inside & (span <= gap), value, np.nan))


def load(path: Path) -> Recording:
    """Read one event file and find its full days: enough CGM, a bolus and a meal."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        samples = parse_events(lines, ZoneInfo("UTC"), path.name)
    cgm = np.array([(s.time_us / US_PER_MIN, s.value) for s in samples if s.kind == "cgm_mgdl"])
    interval = round(float(np.median(np.diff(cgm[:, 0]))))
    days, counts = np.unique(cgm[:, 0] // DAY_MIN, return_counts=True)
    active = [
        {s.time_us / US_PER_MIN // DAY_MIN for s in samples if s.kind == kind}
        for kind in ("bolus_u", "carbs_g")
    ]
    need = FULL_SHARE * DAY_MIN / interval
    full = np.array(
        [d for d, n in zip(days, counts, strict=True) if n >= need and all(d in a for a in active)]
    )
    _, first = np.unique(cgm[:, 0], return_index=True)
    half = len(full) // 2
    return Recording(
        path.name.split(".")[0], tuple(samples), cgm[first, 0], cgm[first, 1], full[:half], full[half:]
    )


def all_recordings() -> list[Recording]:
    """Every person in the folder, by name."""
    return [load(path) for path in sorted(data_folder().glob("*.csv.gz"))]
