"""The live terminal view of a running hub: what a person would want to see at one glance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console, RenderableType
from rich.console import Group as Stack
from rich.layout import Layout
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.units import US_PER_MIN, US_PER_S, mmoll_from_mgdl, percent_text
from edge.alarms.threshold import LOW_CHANCE
from edge.demo.plot import plot_glucose

FRAMED_FROM: Final = 36  # lines of a terminal
MIN_PLOT_ROWS: Final = 6
TWIN_HEIGHT: Final = 8
ALARMS_HEIGHT: Final = 4
STALE_S: Final = 660.0
CLOCKS_DIFFER_S: Final = 300.0  # as the alarms allow (threshold.MAX_AHEAD_US)
ADVICE_SHOWN_US: Final = 30 * US_PER_MIN  # after its meal a piece of advice is history
# Log-parameters that people can make sense of, as multiples of the person's nominal value.
PARAMETERS: Final = {
    "ln_s": "insulin sensitivity",
    "ln_egp0": "glucose from the liver",
    "ln_tg": "time meals take",
    "ln_ag": "carbs absorbed",
    "ln_ti": "time insulin takes",
}
STATE_STYLES: Final = {
    "live": "green",
    "syncing": "cyan",
    "connecting": "yellow",
    "pairing": "yellow",
    "backing_off": "yellow",
    "quarantined": "red",
    "absent": "red",
}


@dataclass(frozen=True)
class Scene:
    """What the demo itself knows beside the hub's status."""

    portal: str
    login: str
    speed: float
    start_us: int
    end_us: int | None
    processes: dict[str, tuple[bool, int]]  # name -> (alive, restarts)
    hint: str


def age(seconds: float | None) -> str:
    """An age in the largest unit that a person would use."""
    if seconds is None:
        return "never"
    if seconds < -CLOCKS_DIFFER_S:
        return "an unknown time"  # the hub's clock was set back: what it called the present is still to come
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def data_age(status: dict[str, Any], made: dict[str, Any]) -> str:
    """How old the newest reading behind a forecast is now, not when the forecast was made."""
    if made["data_age_s"] is None:
        return "without any reading"
    return f"from data {_reading_age(status, made)} old"


def _reading_age(status: dict[str, Any], made: dict[str, Any]) -> str:
    return age(made["data_age_s"] + (status["now_us"] - made["made_at_us"]) / US_PER_S)


def low_chance(status: dict[str, Any]) -> str:
    """The chance of a low soon and how old the reading behind it is; empty when nobody says, or said it long ago."""
    made = status["forecast"]
    if not made or made.get("low_chance") is None or made["data_age_s"] is None:
        return ""
    if status["now_us"] - made["made_at_us"] > STALE_S * US_PER_S:
        return ""
    said = percent_text(made["low_chance"])
    return f"chance of a low (< 70) within 30 min: {said}, from a reading {_reading_age(status, made)} old"


def render(status: dict[str, Any] | None, scene: Scene, width: int, height: int) -> RenderableType:
    """The whole screen."""
    layout = Layout()
    frame = 2 if height >= FRAMED_FROM else 0  # a small terminal has no lines for borders
    foot = _foot(scene, width - 4)
    body_height = height - 1 - len(foot.wrap(Console(width=width), width - 4)) - 2 * frame
    layout.split_column(
        Layout(_framed(_head(status, scene), frame), name="head", size=1 + frame),
        Layout(name="body", size=body_height),
        Layout(_framed(foot, frame), name="foot"),
    )
    if status is None:
        layout["body"].update(Panel(Text("the hub is starting …", "yellow"), border_style="dim"))
        return layout
    layout["body"].split_row(Layout(name="left", ratio=3), Layout(name="right", ratio=2))
    devices = Layout(_devices(status), name="devices", size=len(status["devices"]) + 2)
    alarms = Layout(_alarms(status), name="alarms", minimum_size=ALARMS_HEIGHT)
    twin = Layout(_twin(status), name="twin", size=TWIN_HEIGHT)
    sync = Layout(_sync(status), name="sync", size=7 if _fresh_advice(status) else 5)
    now = Layout(_now(status), name="now", size=5)
    ahead = _ahead(status, int(width * 0.6) - 4)
    ahead_size = 9 if height >= FRAMED_FROM else 6
    plot_height = body_height - 5 - ahead_size
    beside_it = len(status["devices"]) + 2 + ALARMS_HEIGHT + TWIN_HEIGHT + (sync.size or 0)
    if plot_height - 2 < MIN_PLOT_ROWS or beside_it > body_height:
        # A picture of few rows misleads: numbers have its room.
        layout["left"].split_column(now, Layout(ahead, name="ahead", minimum_size=7), twin)
        layout["right"].split_column(devices, alarms, sync)
        return layout
    plot = plot_glucose(
        status["trace"],
        status["forecast"],
        status["estimate"],
        status["now_us"],
        int(width * 0.6) - 4,
        plot_height - 2,
    )
    picture = Panel(plot, title="last 6 h and next 2 h, mg/dL (band: 90 %)", border_style="dim")
    layout["left"].split_column(
        now,
        Layout(picture, name="plot"),
        Layout(ahead, name="ahead", size=ahead_size),
    )
    layout["right"].split_column(devices, alarms, twin, sync)
    return layout


def _framed(what: RenderableType, frame: int) -> RenderableType:
    return Panel(what, border_style="dim") if frame else Padding(what, (0, 2))


def _head(status: dict[str, Any] | None, scene: Scene) -> RenderableType:
    if status is None:
        return Text("Hometwin", "bold")
    line = Table.grid(expand=True)
    line.add_column(ratio=1)
    line.add_column(justify="right", width=56)
    zone = ZoneInfo(status["timezone"])
    now = datetime.fromtimestamp(status["now_us"] / 1e6, UTC).astimezone(zone)
    right: RenderableType = Text(f"{now:%a %d %b %Y %H:%M} · {scene.speed:g}x")
    if scene.end_us is not None:
        total, done = scene.end_us - scene.start_us, status["now_us"] - scene.start_us
        bar = Table.grid(padding=(0, 1))
        bar.add_row(right, ProgressBar(total=total, completed=max(0, min(done, total)), width=24))
        right = bar
    line.add_row(Text.assemble(("Hometwin", "bold"), f"  hub {status['hub_id']}"), right)
    return line


def _now(status: dict[str, Any]) -> RenderableType:
    reading = status["readings"].get("cgm_mgdl")
    if reading is None:
        return Panel(Text("no glucose reading yet", "yellow"), title="now", border_style="dim")
    value, old = reading["value"], not -CLOCKS_DIFFER_S <= reading["age_s"] <= STALE_S
    style = "dim" if old else "bold red" if value < 70 else "bold yellow" if value > 180 else "bold green"
    text = Text.assemble(
        (f"{value:.0f} mg/dL {'' if old else _arrow(status['trace'])}", style),
        f"  ({mmoll_from_mgdl(value):.1f} mmol/L)   ",
        (f"measured {age(reading['age_s'])} ago", "red" if old else "dim"),
    )
    others = []
    for kind, label in (
        ("heart_rate_bpm", "heart {:.0f} bpm"),
        ("basal_uph", "basal {:.2f} U/h, set"),
        ("bolus_u", "bolus {:g} U"),
        ("long_acting_u", "long-acting {:g} U"),
        ("carbs_g", "meal {:.0f} g"),
    ):
        other = status["readings"].get(kind)
        if other is not None:
            others.append(f"{label.format(other['value'])} {age(other['age_s'])} ago")
    return Panel(Stack(text, Text(" · ".join(others), "dim")), title="now", border_style="dim")


def _arrow(trace: list[list[float]]) -> str:
    """The trend over the last quarter of an hour; nothing when a gap hides it."""
    if len(trace) < 2:
        return ""
    (t1, v1) = trace[-1]
    earlier = [(t, v) for t, v in trace if 8 * US_PER_MIN <= t1 - t <= 17 * US_PER_MIN]
    if not earlier:
        return ""
    t0, v0 = earlier[0]
    slope = (v1 - v0) / ((t1 - t0) / US_PER_MIN)
    for limit, sign in ((2, "↑"), (1, "↗"), (-1, "→"), (-2, "↘")):
        if slope > limit:
            return sign
    return "↓"


def _ahead(status: dict[str, Any], width: int) -> RenderableType:
    table = Table(expand=True, box=None, header_style="dim")
    for name in ("in", "expected", "90 % between"):
        table.add_column(name)
    forecast = status["forecast"]
    if forecast is None:
        why = status["engine"]["problem"] or "the twin is warming up"
        return Panel(Text(f"no forecast yet: {why}", "yellow"), title="forecast", border_style="dim")
    note = f"{forecast['status'].replace('_', ' ')}, {data_age(status, forecast)}"
    for index, horizon in enumerate(forecast["horizons_min"][:5]):
        mean, low, high = (forecast[k][index] for k in ("mean", "p05", "p95"))
        if mean is None or low is None or high is None:
            continue
        colour = "red" if low < 70 else "green"
        table.add_row(
            f"{horizon:.0f} min",
            f"{mean:.0f} mg/dL",
            Text(f"{low:.0f} – {high:.0f}", colour),
        )
    chance = low_chance(status)
    if len(chance) > width - 2:  # a border's line has a space on either side
        chance = chance.removeprefix("chance of a ").replace(", from a reading", ", reading")
    said = Text(chance, "bold red" if forecast["low_chance"] >= LOW_CHANCE else "") if chance else None
    return Panel(table, title=f"forecast ({note})", subtitle=said, border_style="dim")


def trouble(device: dict[str, Any]) -> str:
    """What a person should know or do about a device; empty when all is well."""
    facts = device["facts"]
    return str(facts.get("clock_warning") or facts.get("numbers_warning") or device["reason"])


def _devices(status: dict[str, Any]) -> RenderableType:
    table = Table(expand=True, box=None, show_header=False)
    for source, device in status["devices"].items():
        battery = device["facts"].get("battery_pct")
        note = Text(f"battery {battery:.0f} %" if battery is not None else "", "dim", no_wrap=True)
        if trouble(device):
            note = Text(trouble(device), "yellow", no_wrap=True, overflow="ellipsis")
        table.add_row(
            source, Text(device["state"].replace("_", " "), STATE_STYLES.get(device["state"], "")), note
        )
    return Panel(table, title="Bluetooth", border_style="dim")


def _alarms(status: dict[str, Any]) -> RenderableType:
    lines: list[Text] = []
    zone = ZoneInfo(status["timezone"])
    today = datetime.fromtimestamp(status["now_us"] / 1e6, UTC).astimezone(zone).date()
    active = {a["number"] for a in status["alarms"]["active"]}
    for alarm in reversed(status["alarms"]["recent"][-8:]):
        when = datetime.fromtimestamp(alarm["time_us"] / 1e6, UTC).astimezone(zone)
        name = alarm["name"].replace("_", " ")
        if alarm["raised"]:
            style = "bold red" if alarm["number"] in active else "red"
            end = " → on the watch" if alarm["delivered"] else ""
        else:
            style, end = "dim", ""
            name = f"{name} ended" + (" at" if alarm["value"] is not None else "")
        value = f" {alarm['value']:.0f}" if alarm["value"] is not None else ""
        day = "" if when.date() == today else f"{when:%a} "
        lines.append(Text(f"{day}{when:%H:%M} {name}{value}{end}", style))
    return Panel(Stack(*(lines or [Text("none", "dim")])), title="alarms", border_style="dim")


def _twin(status: dict[str, Any]) -> RenderableType:
    estimate, engine = status["estimate"], status["engine"]
    if not engine["up"]:
        return Panel(
            Text(engine["problem"] or "the engine is away; readings and threshold alarms go on", "yellow"),
            title="twin",
            border_style="dim",
        )
    if estimate is None:
        return Panel(Text("warming up", "yellow"), title="twin", border_style="dim")
    table = Table(expand=True, box=None, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    mean, sd = estimate["output_mean"], estimate["output_sd"]
    if mean is not None and sd is not None:
        table.add_row("glucose at the sensor", f"{mean:.0f} ± {1.645 * sd:.0f} mg/dL")
    index = 0
    for row, name in enumerate(estimate["names"]):
        variance = estimate["covariance"][index + row]
        index += row + 1
        if name not in PARAMETERS or estimate["mean"][row] is None or variance is None:
            continue
        middle, spread = estimate["mean"][row], 1.645 * max(variance, 0.0) ** 0.5
        low, high = math.exp(middle - spread), math.exp(middle + spread)
        table.add_row(
            Text(PARAMETERS[name], "dim"), Text(f"×{math.exp(middle):.2f}  ({low:.2f}–{high:.2f})", "dim")
        )
    return Panel(table, title=f"twin ({estimate['model']}, {estimate['status']}), 90 %", border_style="dim")


def _sync(status: dict[str, Any]) -> RenderableType:
    sync = status["sync"]
    table = Table(expand=True, box=None, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(overflow="ellipsis")
    state = (
        Text("connected", "green")
        if sync["connected"]
        else Text(sync["problem"] or "offline, storing", "yellow")
    )
    table.add_row("cloud", state)
    table.add_row("waiting to be sent", f"{sync['pending']}")
    prior = status["prior"]
    table.add_row(
        "prior", f"version {prior['version']} ({prior['stratum']})" if prior else Text("own default", "dim")
    )
    advice = _fresh_advice(status)
    if advice:
        zone = ZoneInfo(status["timezone"])
        when = datetime.fromtimestamp(advice["for_time_us"] / 1e6, UTC).astimezone(zone)
        text = advice["refused"] or f"{advice['dose_u']:g} U for {advice['carbs_g']:.0f} g"
        told = {"void": ("VOID, do not use", "red"), "part": ("a part of it seems to be taken", "yellow")}
        table.add_row(
            f"advice for {when:%H:%M}", Text(text, "dim strike" if advice["state"] in told else "cyan")
        )
        beside = Text(*told.get(advice["state"], (f"approved by {advice['approved_by']}", "dim")))
        table.add_row("", beside)
    return Panel(table, title="cloud twin", border_style="dim")


def _fresh_advice(status: dict[str, Any]) -> dict[str, Any] | None:
    advice: dict[str, Any] | None = status["advice"][-1] if status["advice"] else None
    return advice if advice and advice["for_time_us"] > status["now_us"] - ADVICE_SHOWN_US else None


def _foot(scene: Scene, width: int) -> Text:
    """Portal, processes, hint: one line each, or the first two as one where they fit."""
    portal = Text.assemble("portal ", (scene.portal, "bold underline"), f"  {scene.login}")
    alive_ones = Text()
    for name, (alive, restarts) in scene.processes.items():
        alive_ones.append(f"{'●' if alive else '○'}\u00a0{name}", "green" if alive else "red")
        if restarts:
            alive_ones.append(f"×{restarts + 1}", "yellow")
        alive_ones.append("  ")
    between = "   " if portal.cell_len + alive_ones.cell_len + 3 <= width else "\n"
    return Text.assemble(portal, between, alive_ones, "Ctrl-C ends", f"\n{scene.hint}")
