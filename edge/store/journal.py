"""The audit log: who did what when, each entry holding the hash of the one before.

An entry is one line of JSON. Its hash is BLAKE2b-256 of the line; the next entry names it as ``previous``, and the
store's head holds the newest. So an exported log can be checked with ``b2sum -l 256`` alone, and no entry can be
changed, dropped or put in without all later ones showing it. Entries never hold readings or doses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from core.errors import DecodeError, InputError, TamperedError

HASH_BYTES: Final = 32
FIRST_PREVIOUS: Final = ""
_MAX_ENTRY_BYTES: Final = 8192
Detail = str | int | float | bool | None


class Entry(NamedTuple):
    """One line of the log. ``number`` rises by one."""

    number: int
    time_us: int
    who: str  # hub, owner, person, cloud
    what: str  # a word with a dot, as in logs: key.rotated, store.repaired
    detail: dict[str, Any]
    previous: str  # hexadecimal hash of the line before; empty in the first


def make_line(
    number: int, time_us: int, who: str, what: str, detail: Mapping[str, Detail], previous: bytes
) -> str:
    """The line of a new entry."""
    line = json.dumps(
        {
            "number": number,
            "time_us": time_us,
            "who": who,
            "what": what,
            "detail": dict(detail),
            "previous": previous.hex(),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    )
    if len(line.encode()) > _MAX_ENTRY_BYTES:
        raise InputError("entry of the audit log is too long", where="store.note")
    return line


def hash_of(line: str) -> bytes:
    """What the next entry remembers of this line."""
    return hashlib.blake2b(line.encode(), digest_size=HASH_BYTES).digest()


def read_line(line: str) -> Entry:
    """The entry of a line; DecodeError for any other text."""
    try:
        fields = json.loads(line)
        entry = Entry(**fields)
    except (ValueError, TypeError, RecursionError):
        raise DecodeError("entry of the audit log is not one of ours") from None
    if not isinstance(entry.number, int) or not isinstance(entry.previous, str):
        raise DecodeError("entry of the audit log is not one of ours")
    return entry


def check_chain(lines: Iterable[str], newest: str = "") -> int:
    """How many entries there are; TamperedError names the first that does not follow on the one before.

    ``newest``: hexadecimal hash that the last line must have; empty to ask for none.
    """
    count, previous = 0, FIRST_PREVIOUS
    for line in lines:
        try:
            entry = read_line(line)
        except DecodeError as err:
            raise TamperedError(err.what, where=f"journal {count + 1}") from None
        count += 1
        if entry.number != count or entry.previous != previous:
            raise TamperedError(
                "audit log is broken: this entry does not follow on the one before",
                where=f"journal {entry.number}",
            )
        previous = hash_of(line).hex()
    if newest and newest != previous:
        raise TamperedError("audit log is cut: newer entries are missing", where=f"journal {count}")
    return count
