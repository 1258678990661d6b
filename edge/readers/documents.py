"""JSON exports as lists of plain records, whatever they are wrapped in. Any bytes: records or InputError."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from core.errors import InputError

JsonObject = dict[str, Any]
# MongoDB's own exports wrap numbers, dates and identities in an object with one of these keys.
WRAPPED: Final = ("$date", "$numberDouble", "$numberInt", "$numberLong", "$numberDecimal", "$oid")


def records_of(text: str, name: str) -> list[tuple[str, JsonObject]]:
    """(place, record) of every object in the arrays of a JSON file, or of a file with one object per line.

    ``place`` names array and position, for notes and errors. InputError when the text is not JSON.
    """
    try:
        whole = msgspec.json.decode(text.encode())
    except (msgspec.MsgspecError, ValueError, RecursionError):
        whole = _lines(text, name)
    found: list[tuple[str, JsonObject]] = []
    if isinstance(whole, dict) and any(isinstance(v, list) for v in whole.values()) and not _is_record(whole):
        for key, value in whole.items():
            if isinstance(value, list):
                found += _objects(value, f"{str(key)[:30]} record")
    elif isinstance(whole, dict):
        found = [("record 1", _unwrapped(whole))]
    elif isinstance(whole, list):
        for index, item in enumerate(whole, 1):
            if isinstance(item, list):  # several exports glued into one array
                found += _objects(item, f"array {index} record")
        found += _objects(whole, "record")
    if not found:
        raise InputError("holds no records", where=name, mend="export entries and treatments as JSON")
    return found


def _is_record(item: JsonObject) -> bool:
    return any(key in item for key in ("sgv", "mbg", "eventType", "created_at", "dateString"))


def _objects(items: list[Any], label: str) -> list[tuple[str, JsonObject]]:
    return [(f"{label} {i}", _unwrapped(item)) for i, item in enumerate(items, 1) if isinstance(item, dict)]


def _unwrapped(item: JsonObject) -> JsonObject:
    plain: JsonObject = {}
    for key, value in item.items():
        while isinstance(value, dict) and len(value) == 1 and next(iter(value)) in WRAPPED:
            value = next(iter(value.values()))
        plain[key] = value
    return plain


def _lines(text: str, name: str) -> list[Any]:
    items = []
    for line, part in enumerate(text.splitlines(), 1):
        if not part.strip():
            continue
        try:
            items.append(msgspec.json.decode(part.encode()))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise InputError(
                "not JSON from here on",
                where=f"{name}: line {line}",
                mend="export again; is the file cut off?",
            ) from None
    return items


def word(record: JsonObject, key: str) -> str:
    """A field that should be text; nothing when it is absent or anything else."""
    value = record.get(key)
    return value if isinstance(value, str) else ""
