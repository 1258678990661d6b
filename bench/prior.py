"""Fit the correction's prior on the first halves of the recordings and write it down as source.

`python -m bench.prior` writes core/correction_prior.py anew (a minute or two). To be done whenever the filter,
the features or the fit change: the prior belongs to all three.
"""

from __future__ import annotations

from pathlib import Path

from rich.progress import track

from bench.real import half_us, patient
from bench.recordings import all_recordings
from core import correction_prior
from core.population import collect, fit, to_source


def main() -> None:
    """Fit and write."""
    rows = []
    for who in track(all_recordings(), description="first halves"):
        rows.append(collect(patient(), [s for s in who.samples if s.time_us < half_us(who)]))
    Path(correction_prior.__file__).write_text(to_source(fit(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
