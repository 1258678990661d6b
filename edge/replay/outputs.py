"""Folders that answers are written to: whole or marked as partial, an older answer replaced, anything else kept.

Files carry ``.partial`` in their names until they are whole and on the disk. A file of the same name that does not begin as
the same command's do is somebody's own, and the command refuses the folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

from core.drawing.style import page_begins
from core.errors import InputError
from core.messages import Alarm, Estimate, Forecast
from edge.replay.pipeline import standard_deviations

TABLES: Final = ("forecasts.csv", "posterior.csv", "alarms.csv")
NAMES: Final = (*TABLES, "summary.json", "report.html")
MADE_BY: Final = "hometwin replay"
FORECASTS_HEADER: Final = "made_at,horizon_min,mean,sd,p05,p50,p95"
POSTERIOR_HEADER: Final = ("time", "status", "data_age_s", "nis", "glucose_mgdl", "glucose_mgdl_sd")
ALARMS_HEADER: Final = "time,number,name,level,raised,value,data_age_s"
BEGINNINGS: Final = {  # of a replay's own files; the posterior's further columns are the model's
    "forecasts.csv": f"{FORECASTS_HEADER}\n",
    "posterior.csv": ",".join(POSTERIOR_HEADER),
    "alarms.csv": f"{ALARMS_HEADER}\n",
    "summary.json": f'{{\n "made_by": "{MADE_BY}"',
    "report.html": page_begins("replay"),
}
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
            only_ours(folder, BEGINNINGS)
            for name in NAMES:
                (folder / partial(name)).unlink(missing_ok=True)
            self._files: dict[str, TextIO] = {
                name: (folder / partial(name)).open("w", encoding="utf-8", newline="\n") for name in TABLES
            }
        except OSError as err:
            raise self._refused(err) from None
        self._lines: dict[str, list[str]] = {name: [] for name in TABLES}
        self._line("forecasts.csv", FORECASTS_HEADER)
        self._line("alarms.csv", ALARMS_HEADER)
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
                ",".join((*POSTERIOR_HEADER, *columns)),
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
            _write_synced(self.folder / partial(name), text)
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
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for name in NAMES:
                if (self.folder / partial(name)).exists():
                    (self.folder / partial(name)).replace(self.folder / name)
        except OSError as err:
            raise self._refused(err) from None

    def _refused(self, err: Exception) -> InputError:
        return _unwritable(self.folder, NAMES, err)

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


def write_whole(out: Path, texts: Mapping[str, str], beginnings: Mapping[str, str]) -> None:
    """Texts by file name: all of them whole on the disk under partial names, then renamed over an older answer.

    beginnings: as ``only_ours``. InputError when that refuses, or nothing can be written; what was there is then as it was.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        only_ours(out, beginnings)
        for name, text in texts.items():
            (out / partial(name)).unlink(missing_ok=True)
            _write_synced(out / partial(name), text)
        for name in texts:
            (out / partial(name)).replace(out / name)
    except OSError as err:
        raise _unwritable(out, texts, err) from None


def only_ours(out: Path, beginnings: Mapping[str, str]) -> None:
    """InputError when one of these files is there and does not begin as ours do: replacing it would lose it.

    An empty file holds nothing to lose. What is no plain file is somebody's own.
    """
    for name, beginning in beginnings.items():
        path = out / name
        if not os.path.lexists(path):
            continue
        wanted = beginning.encode()
        begins = None
        if path.is_file():
            try:
                with path.open("rb") as file:
                    begins = file.read(len(wanted))
            except OSError as err:
                raise _unwritable(out, (), err) from None
        if begins not in (b"", wanted):
            raise InputError(
                f"holds a {name} that this command did not write",
                where=_option(out),
                mend=f"move {name} away, or choose another folder",
            )


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _unwritable(out: Path, names: Iterable[str], err: Exception) -> InputError:
    """The error to raise; the partial files are gone, they would only keep the disk full."""
    for name in names:
        with suppress(OSError):
            (out / partial(name)).unlink(missing_ok=True)
    why = (err.strerror if isinstance(err, OSError) else None) or type(err).__name__
    return InputError(
        f"cannot be written: {why}",
        where=_option(out),
        mend="choose a folder that can be written, with room",
    )


def _option(out: Path) -> str:
    return f"--out {out.name or out}"
