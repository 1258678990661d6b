"""``hometwin audit``: the audit log for people, once its chain is found whole."""

from __future__ import annotations

from datetime import UTC, datetime

from edge.config import HubConfig
from edge.desk import Ask, at_the_desk
from edge.store.journal import Entry, check_chain, read_line


def audit_lines(config: HubConfig, as_json: bool) -> list[str]:
    """One line per entry, oldest first. TamperedError when the chain is broken."""
    with at_the_desk(config) as ask:
        lines, newest = all_lines(ask)
    check_chain(lines, newest)
    if as_json:
        return lines
    shown = [_shown(config, read_line(line)) for line in lines]
    return [*shown, f"{len(lines)} entries, each follows on the one before; newest {newest[:16]}…"]


def all_lines(ask: Ask) -> tuple[list[str], str]:
    """Every line of the audit log, oldest first, and the hash that the newest must have."""
    lines: list[str] = []
    while True:
        page = ask({"do": "audit", "after": len(lines)})
        if not page["lines"]:
            return lines, page["newest"]
        lines += page["lines"]


def _shown(config: HubConfig, entry: Entry) -> str:
    when = datetime.fromtimestamp(entry.time_us / 1e6, UTC).astimezone(config.zone)
    # How many slots are gone says the list of them, where there is one.
    counted = ("slots", "slots_dropped") if "gone" in entry.detail else ()
    kept = {k: v for k, v in entry.detail.items() if v != "" and k not in counted}
    detail = ", ".join(f"{'slots gone' if k == 'gone' else k} {v}" for k, v in kept.items())
    return f"{when:%Y-%m-%d %H:%M:%S %Z} {entry.who:<7} {entry.what:<18} {detail}".rstrip()
