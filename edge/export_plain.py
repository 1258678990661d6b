"""What an export holds as named values: times that people read beside those that machines do, no packed bytes.

Whatever this version does not know stays as the store has it, and is counted.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from core import memory
from core.errors import DecodeError
from core.memory import NAMES, PLAIN
from edge.engine_link import SavedTwin

LN_UNIT: Final = "natural logarithm of a multiple of the published value"
_CALENDAR_US: Final = 10**15  # 2001: numbers below are spans, or of a clock that nobody had set


def iso(time_us: int) -> str:
    """ISO 8601 in UTC, to the microsecond; a time that no calendar has stays a number of microseconds."""
    try:
        return (
            datetime.fromtimestamp(time_us // 1_000_000, UTC)
            .replace(microsecond=time_us % 1_000_000)
            .isoformat()
        )
    except (ValueError, OverflowError, OSError):
        return str(time_us)


def dated(value: Any) -> Any:
    """JSON values with ``x: "2026-…"`` beside each ``x_us`` that is a time."""
    if isinstance(value, list):
        return [dated(item) for item in value]
    if not isinstance(value, dict):
        return value
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = key.removesuffix("_us") if isinstance(key, str) else key
        if name != key and isinstance(item, int) and item >= _CALENDAR_US and name not in value:
            out[name] = iso(item)
        out[key] = dated(item)
    return out


def named(value: Any) -> Any:
    """JSON values of any message or state, with the names of its fields; not finite numbers are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, msgspec.Struct):
        return {name: named(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): named(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        return [named(item) for item in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value if isinstance(value, (int, str, type(None))) else str(value)


class Unknown(Exception):
    """This version does not know the content."""


def night(content: Any) -> dict[str, Any]:
    """A night's record, with a name and a unit at each parameter."""
    columns = ("mean", "sd", "base_mean", "base_sd")
    told = _checked(content, (*columns, "strata"))
    if any(not isinstance(told[c], list) or len(told[c]) != len(NAMES) for c in columns):
        raise Unknown
    try:
        strata = [{"stratum": s, "episodes": n, "change_nats": c} for s, n, c in told["strata"]]
    except (TypeError, ValueError):
        raise Unknown from None
    parameters = [
        {
            "name": name,
            "words": PLAIN[name],
            "unit": LN_UNIT,
            **{column: told[column][i] for column in columns},
            "multiple": _exp(told["mean"][i]),
        }
        for i, name in enumerate(NAMES)
    ]
    return {**told, "names": NAMES, "parameters": parameters, "rehearsal": strata}


def estimate(content: Any) -> dict[str, Any]:
    """A day's estimate, with each value's name, unit and standard deviation in one place."""
    told = _checked(content, ("names", "units", "mean", "covariance"))
    try:
        values = [
            {
                "name": name,
                "unit": LN_UNIT if name.startswith("ln_") else unit,
                "mean": mean,
                "sd": _root(told["covariance"][i * (i + 3) // 2]),
            }
            for i, (name, unit, mean) in enumerate(
                zip(told["names"], told["units"], told["mean"], strict=True)
            )
        ]
    except (TypeError, ValueError, IndexError, AttributeError):
        raise Unknown from None
    return {**told, "values": values}


def episode(content: Any) -> tuple[dict[str, Any], list[tuple[int, str, float]]]:
    """A piece of the record that learning plays again, and its events."""
    from core import plain  # it needs what only the engine loads, so it is loaded for exports alone
    from core.replay import Episode

    try:
        *head, body = content
        return plain.episode(msgspec.convert([*head, base64.b64decode(body, validate=True)], Episode))
    except (TypeError, ValueError, binascii.Error, msgspec.MsgspecError, DecodeError):
        raise Unknown from None


def with_correction(message: Any) -> Any:
    """A message or prior whose packed correction, if it has one, is told as named tables."""
    if not isinstance(message, dict) or not message.get("correction"):
        return message
    from core import plain

    try:
        told = plain.start(base64.b64decode(message["correction"], validate=True))
    except (TypeError, ValueError, binascii.Error, DecodeError):
        return message
    return message if told is None else {**message, "correction": told}


def prior(content: Any) -> Any:
    """The population's prior, with each parameter's name and standard deviation in one place."""
    if content is None:
        return None
    told = with_correction(content)
    try:
        values = [
            {"name": name, "unit": LN_UNIT, "mean": mean, "sd": _root(told["covariance"][i * (i + 3) // 2])}
            for i, (name, mean) in enumerate(zip(told["names"], told["mean"], strict=True))
        ]
    except (TypeError, ValueError, IndexError, KeyError):
        return told
    return {**told, "values": values}


def learned(saved: SavedTwin) -> dict[str, Any]:
    """What learning keeps beside the filter: contexts, anchors, days. Unknown when it is of another version."""
    try:
        known = memory.from_bytes(saved.memory) if saved.memory else memory.Memory()
    except DecodeError:
        raise Unknown from None
    told: dict[str, Any] = named(known)
    told["names"], told["units"] = list(NAMES), LN_UNIT
    told["words"] = [PLAIN[name] for name in NAMES]
    told["anchors"] = [{"context": number, **named(anchor)} for number, anchor in known.anchors]
    look = told["look"]
    look["back"] = [{"context": n, "evidence": e} for n, e in look["back"]]
    look["drift_back"] = [{"context": n, "evidence": e} for n, e in look["drift_back"]]
    look["gains"] = [{"time_us": at, "more": more, "less": less} for at, more, less in look["gains"]]
    return told


def twin(saved: SavedTwin) -> dict[str, Any]:
    """The filter's newest state. Unknown when it is of another version."""
    from core import plain

    try:
        return {"row": saved.row, **named(plain.checkpoint(saved.data))}
    except DecodeError:
        raise Unknown from None


def hub(blobs: dict[str, Any]) -> dict[str, Any]:
    """What the hub remembers of its own work, without what proves an answer of the cloud to be one."""
    out = dict(blobs)
    asked = out.get("lost")
    if isinstance(asked, dict) and isinstance(asked.get("ask"), dict):
        ask = {name: value for name, value in asked["ask"].items() if name != "request"}
        out["lost"] = {**asked, "ask": ask}
    return out


def _checked(content: Any, wanted: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict) or any(name not in content for name in wanted):
        raise Unknown
    return content


def _exp(value: Any) -> float | None:
    return math.exp(value) if isinstance(value, float) and abs(value) < 700.0 else None


def _root(value: Any) -> float | None:
    return math.sqrt(max(0.0, value)) if value is not None else None


SHAPES: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {"nights": night, "posterior": estimate}
