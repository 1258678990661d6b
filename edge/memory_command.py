"""``hometwin memory``: what the twin has learned of the person, from where, and what it plays again at night."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from core.memory import NAMES, PLAIN, TITLES, USUAL
from edge.config import HubConfig
from edge.desk import Ask, at_the_desk
from edge.engine_link import NIGHTS_AREA, REPLAY_AREA

NIGHTS_SHOWN: Final = 7
Z90: Final = 1.6448536269514722


def memory_lines(config: HubConfig, *, as_json: bool, everything: bool) -> list[str]:
    """The answer of a running hub, or of the store when none runs."""
    with at_the_desk(config) as ask:
        known = ask({"do": "memory"})
        nights = [_night(item["content"]) for item in _items(ask, NIGHTS_AREA)]
        episodes = [_episode(item) for item in _items(ask, REPLAY_AREA)]
    memory = known["memory"]
    if as_json:
        whole = {"memory": memory, "nights": nights, "episodes": episodes, "bytes": known["bytes"]}
        return [json.dumps(whole, indent=1)]
    if not memory["contexts"]:
        return [
            "nothing is learned yet: the twin learns at night, from 2 to 6 o'clock, once it has a day of readings"
        ]

    def day(time_us: int) -> str:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC).astimezone(config.zone):%Y-%m-%d %H:%M}"

    lines = ["contexts"]
    for context in memory["contexts"]:
        now = "  ← now" if context["number"] == memory["current"] else ""
        until = f" to {day(context['to_us'])}" if context["to_us"] else ""
        span = "" if context["number"] == USUAL else f" (from {day(context['from_us'])}{until})"
        lines.append(f"  {context['number']} {context['name']}{span}: {context['words']}{now}")
    if memory["look"]["open_until_us"] > known["now_us"]:
        lines.append(f"  in progress: {memory['look']['opened_for']}")
    lines += ["", "anchors"]
    for number, anchor in memory["anchors"]:
        name = next((c["name"] for c in memory["contexts"] if c["number"] == number), "?")
        lines.append(
            f"  {number} {name}: {anchor['nights'] + len(anchor['recent'])} nights,"
            f" newest {day(anchor['updated_us']) if anchor['updated_us'] else 'none'}; prior: {anchor['source']}"
        )
    if nights:
        lines += ["", f"parameters in “{nights[-1]['context']}”, as of {day(nights[-1]['time_us'])}"]
        lines += _parameters(nights[-1])
        lines += ["", f"nights (the last {min(NIGHTS_SHOWN, len(nights))} of {len(nights)})"]
        shown = nights if everything else nights[-NIGHTS_SHOWN:]
        lines += [
            f"  {day(n['time_us'])}  {'taken' if n['accepted'] else 'refused: ' + n['why']}" for n in shown
        ]
    lines += ["", f"kept to play again: {len(episodes)} episodes, {known['bytes'].get(REPLAY_AREA, 0)} bytes"]
    lines += _strata(episodes)
    if everything:
        lines += [
            f"  {day(e['from_us'])}  {e['stratum']}: {e['why']}"
            for e in sorted(episodes, key=lambda e: e["from_us"])
        ]
    return lines


def _items(ask: Ask, area: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    while True:
        after = items[-1]["number"] if items else 0
        page = ask({"do": "export.archive", "area": area, "after": after})["items"]
        if not page:
            return items
        items += page


def _night(content: dict[str, Any]) -> dict[str, Any]:
    """A night's record, with the share of data per parameter."""
    share = [
        max(0.0, 1.0 - (sd / base) ** 2) for sd, base in zip(content["sd"], content["base_sd"], strict=True)
    ]
    return {**content, "names": list(NAMES), "data_share": share}


def _episode(item: dict[str, Any]) -> dict[str, Any]:
    from_us, stratum, context, level, told, body = item["content"]
    return {
        "number": item["number"],
        "from_us": from_us,
        "stratum": stratum,
        "context": context,
        "why": f"level {level}, tells {told:.1f} nats of the parameters",
        "bytes": len(body) * 3 // 4,
    }


def _parameters(night: dict[str, Any]) -> list[str]:
    """In the portal's words and kind of numbers (multiples, 90 % intervals); what only nights learn comes after it."""
    lines = [f"  {'':<38} {'':>7}  {'90 %':>10}  {'prior 90 %':>10} {'data':>5}"]  # 80 columns
    for name in sorted(NAMES, key=lambda name: name not in TITLES):
        i = NAMES.index(name)
        title, meaning = TITLES.get(name, (PLAIN[name][0].upper() + PLAIN[name][1:], ""))
        middle = f"× {_multiple(night['mean'][i])}"
        now = _interval(night["mean"][i], night["sd"][i])
        prior = _interval(night["base_mean"][i], night["base_sd"][i])
        share = f"{100 * night['data_share'][i]:.0f} %"
        lines.append(f"  {title:<38} {middle:>7}  {now:>10}  {prior:>10} {share:>5}")
        lines += [f"    {meaning}"] if meaning else []
    lines += [
        "  (Multiples: 1 is the population's mean, of the model's constants the published",
        "  value. Data: by how much the person's own data narrowed the prior's variance.",
        "  As of that night: the portal shows the filter's estimate of now.)",
    ]
    return lines


def _multiple(ln_multiple: float) -> str:
    """Beyond a million it says no more than a million does, as in the portal."""
    return f"{math.exp(min(ln_multiple, math.log(1e6))):.2f}"


def _interval(mean: float, sd: float) -> str:
    return f"{_multiple(mean - Z90 * sd)}–{_multiple(mean + Z90 * sd)}"


def _strata(episodes: Sequence[dict[str, Any]]) -> list[str]:
    strata: dict[str, list[int]] = {}
    for episode in episodes:
        strata.setdefault(episode["stratum"], []).append(episode["bytes"])
    return [
        f"  {name:<28} {len(sizes):4} episodes {sum(sizes):7} bytes" for name, sizes in sorted(strata.items())
    ]
