"""Fit what the population knows on the first halves of the recordings and write it down as source.

`python -m bench.prior` writes core/correction_prior.py and core/lows_prior.py anew (two or three minutes). To be
done whenever the filter, the features or the fit change: they belong together. The weights for lows rest on
forecasts whose prior knew the other people only.
"""

from __future__ import annotations

from pathlib import Path

from rich.progress import track

from bench.real import half_us, patient
from bench.recordings import all_recordings
from core import correction_prior, lows, lows_prior
from core.population import collect, collect_lows, fit, to_source


def main() -> None:
    """Fit and write."""
    rows, seen = {}, {}
    people = all_recordings()
    for who in track(people, description="first halves"):
        seen[who.name] = [s for s in who.samples if s.time_us < half_us(who)]
        rows[who.name] = collect(patient(), seen[who.name])
    Path(correction_prior.__file__).write_text(to_source(fit(list(rows.values()))), encoding="utf-8")
    near = []
    for name in track(rows, description="lows"):
        others = fit([r for other, r in rows.items() if other != name])
        near.append(collect_lows(patient(), seen[name], others))
    Path(lows_prior.__file__).write_text(lows.to_source(lows.fit(near)), encoding="utf-8")


if __name__ == "__main__":
    main()
