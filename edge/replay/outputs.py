"""The folder of a replay. Files carry ``.partial`` in their names until the replay has ended well."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from core.errors import InputError
from core.messages import Alarm, Estimate, Forecast
from edge.replay.pipeline import standard_deviations

TABLES: Final = ("forecasts.csv", "posterior.csv", "alarms.csv")
NAMES: Final = (*TABLES, "summary.json", "report.html")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FLUSH_LINES: Final = 4000  # lines kept in memory: less than a megabyte


def partial(name: str) -> str:
    """The name of a file while it is not whole."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.partial.{ending}"


def iso(time_us: int) -> str:
    """ISO 8601 in UTC, with microseconds only where there are some."""
    return (EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


class ReplayFolder:
    """Takes lines as they come. ``done`` gives the files their real names; without it they stay partial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in NAMES:
                # An older run's files must not stand beside this one's as if they belonged together.
                (folder / name).unlink(missing_ok=True)
                (folder / partial(name)).unlink(missing_ok=True)
            self._files: dict[str, TextIO] = {
                name: (folder / partial(name)).open("w", encoding="utf-8", newline="\n") for name in TABLES
            }
        except OSError as err:
            raise self._refused(err) from None
        self._lines: dict[str, list[str]] = {name: [] for name in TABLES}
        self._line("forecasts.csv", "made_at,horizon_min,mean,sd,p05,p50,p95")
        self._line("alarms.csv", "time,number,name,level,raised,value,data_age_s")
        self._named = False

    def __enter__(self) -> ReplayFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(InputError):  # what could not be written before cannot now; the first error goes on
            self.flush()
        for file in self._files.values():
            with suppress(OSError):
                file.close()

    def forecast(self, forecast: Forecast) -> None:
        made = iso(forecast.made_at_us)
        rows = zip(
            forecast.horizons_min, forecast.mean, forecast.sd, forecast.p05, forecast.p50, forecast.p95,
            strict=True,
        )  # fmt: skip
        lines = self._lines["forecasts.csv"]
        lines += [
            f"{made},{h:g},{mean:.2f},{sd:.2f},{low:.2f},{mid:.2f},{high:.2f}"
            for h, mean, sd, low, mid, high in rows
        ]
        if len(lines) > FLUSH_LINES:
            self.flush()

    def posterior(self, estimate: Estimate) -> None:
        if not self._named:
            self._named = True
            columns = [f"{name},{name}_sd" for name in estimate.names]
            self._line(
                "posterior.csv",
                ",".join(
                    ("time", "status", "data_age_s", "nis", "glucose_mgdl", "glucose_mgdl_sd", *columns)
                ),
            )
        numbers = [estimate.data_age_s, estimate.nis, estimate.output_mean, estimate.output_sd]
        for mean, sd in zip(estimate.mean, standard_deviations(estimate), strict=True):
            numbers += (mean, sd)
        self._line(
            "posterior.csv",
            ",".join((iso(estimate.time_us), estimate.status, *(_number(v) for v in numbers))),
        )

    def alarm(self, alarm: Alarm) -> None:
        self._line(
            "alarms.csv",
            f"{iso(alarm.time_us)},{alarm.number},{alarm.name},{alarm.level},"
            f"{'true' if alarm.raised else 'false'},{_number(alarm.value)},{_number(alarm.data_age_s)}",
        )

    def write(self, name: str, text: str) -> None:
        """A whole small file."""
        try:
            (self.folder / partial(name)).write_text(text, encoding="utf-8", newline="\n")
        except OSError as err:
            raise self._refused(err) from None

    def flush(self) -> None:
        """Give what has come to the disk."""
        try:
            for name, lines in self._lines.items():
                if lines:
                    self._files[name].write("\n".join(lines) + "\n")
                    lines.clear()
        except (OSError, ValueError) as err:  # ValueError: closed already
            raise self._refused(err) from None

    def done(self) -> None:
        """Everything is whole: the real names."""
        self.flush()
        try:
            for file in self._files.values():
                file.close()
            for name in NAMES:
                if (self.folder / partial(name)).exists():
                    (self.folder / partial(name)).replace(self.folder / name)
        except OSError as err:
            raise self._refused(err) from None

    def _refused(self, err: Exception) -> InputError:
        why = (err.strerror if isinstance(err, OSError) else None) or type(err).__name__
        return InputError(
            f"cannot be written: {why}",
            where=f"--out {self.folder.name}",
            mend="choose a folder that can be written, with room",
        )

    def _line(self, name: str, line: str) -> None:
        self._lines[name].append(line)


def _number(value: float) -> str:
    """Seven figures; nothing where there is no number, for a file shall not hold a nan."""
    return f"{value:.7g}" if math.isfinite(value) else ""


def json_text(tree: Any) -> str:
    """JSON with null where there is no number."""
    return json.dumps(_plain(tree), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_plain(value) for value in tree]
    if isinstance(tree, float):
        return float(f"{tree:.6g}") if math.isfinite(tree) else None
    return tree


def write_whole(out: Path, texts: dict[str, str]) -> None:
    """Texts by file name, whole or none: written under partial names, then renamed."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).unlink(missing_ok=True)  # an older answer must not stand beside a part of this one
            (out / partial(name)).write_text(text, encoding="utf-8", newline="\n")
        for name in texts:
            (out / partial(name)).replace(out / name)
    except OSError as err:
        raise InputError(
            f"cannot be written: {err.strerror or type(err).__name__}",
            where=f"--out {out.name}",
            mend="choose a folder that can be written, with room",
        ) from None
