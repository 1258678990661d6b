"""A virtual device's own memory: bonds, session and records survive a killed process.

``DIR/<device>.json`` holds the small state, replaced atomically; ``DIR/<device>.records`` is append-only, one JSON
line per record. A line cut short by a kill is dropped on the next start: its event is then played again.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from firmware_sim.errors import SimError


@dataclass(frozen=True, slots=True)
class Record:
    """One stored record of a device.

    ``event`` is the index of the played event it came from (-1: none), ``key`` the number by which the record
    access procedure selects it, ``parts`` the bytes of each characteristic value that make the record up.
    """

    event: int
    key: int
    time_us: int
    parts: tuple[bytes, ...]


class Flash:
    """State and records of one device. One process at a time."""

    def __init__(self, folder: Path, device: str, fingerprint: str) -> None:
        """Open or create. SimError when another process has it or it belongs to another recording."""
        self.state: dict[str, Any] = {}
        self.records: list[Record] = []
        self._state_path = folder / f"{device}.json"
        self._records_path = folder / f"{device}.records"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock: TextIO = (folder / f"{device}.lock").open("w")
        except OSError as err:
            raise SimError(f"cannot be used: {err.strerror}", where=str(folder), mend="see --state") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise SimError(
                f"another process plays the device {device!r}",
                where=str(folder),
                mend="stop it, or give another --state",
            ) from None
        self._load(fingerprint)
        self._out = os.open(self._records_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _load(self, fingerprint: str) -> None:
        try:
            if self._state_path.exists():
                self.state = json.loads(self._state_path.read_text())
        except ValueError:
            raise SimError("not a device state", where=str(self._state_path), mend="remove it") from None
        if self.state.setdefault("fingerprint", fingerprint) != fingerprint:
            raise SimError(
                "this state belongs to another recording or start time",
                where=str(self._state_path),
                mend="give another --state or remove the old one",
            )
        if not self._records_path.exists():
            return
        data = self._records_path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._records_path, whole)
        for line in data[:whole].splitlines():
            fields = json.loads(line)
            self.records.append(
                Record(fields["e"], fields["k"], fields["t"], tuple(map(bytes.fromhex, fields["d"])))
            )

    def save(self) -> None:
        """Write the small state; a kill at any moment leaves the old or the new one."""
        partial = self._state_path.with_suffix(".part")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            json.dump(self.state, out)
        partial.replace(self._state_path)

    def append(self, records: list[Record]) -> None:
        """Store records of one event together, before anybody is told of them."""
        lines = "".join(
            json.dumps({"e": r.event, "k": r.key, "t": r.time_us, "d": [p.hex() for p in r.parts]}) + "\n"
            for r in records
        )
        os.write(self._out, lines.encode())  # one write: whole lines or a cut tail, never a hole
        self.records.extend(records)

    def erase_records(self) -> None:
        """Forget all records, as a new sensor session does."""
        os.truncate(self._records_path, 0)
        self.records.clear()

    @property
    def next_event(self) -> int:
        """Index of the first event that has left no record yet."""
        return max((r.event for r in self.records), default=-1) + 1

    def close(self) -> None:
        os.close(self._out)
        self._lock.close()
