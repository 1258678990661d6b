"""Which hubs the cloud knows: one ``<hub>.key`` per hub in a folder. Adding or removing a file is enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import structlog

from core.errors import ConfigError
from sync.keyfiles import read_envelope_key

log = structlog.get_logger()

HUB_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Registry:
    """Envelope keys by hub, read again when a file changes."""

    def __init__(self, hubs_dir: Path) -> None:
        if not hubs_dir.is_dir():
            raise ConfigError(
                "no such folder",
                where=str(hubs_dir),
                mend="run 'hometwin provision', or correct keys.hubs_dir",
            )
        self._dir = hubs_dir
        self._keys: dict[str, tuple[int, bytes]] = {}  # hub -> file's mtime_ns, key
        self._complained: set[str] = set()

    def key(self, hub_id: str) -> bytes | None:
        """The hub's envelope key; None for a hub that we do not know."""
        if not HUB_ID.fullmatch(hub_id):  # also keeps names like ../signing away from the disk
            return None
        path = self._dir / f"{hub_id}.key"
        try:
            mtime_ns = path.stat().st_mtime_ns
        except OSError:
            self._keys.pop(hub_id, None)
            return None
        known = self._keys.get(hub_id)
        if known is not None and known[0] == mtime_ns:
            return known[1]
        try:
            key = read_envelope_key(path)
        except ConfigError as err:
            self._complain(hub_id, err)
            return None
        self._keys[hub_id] = (mtime_ns, key)
        return key

    def hub_ids(self) -> list[str]:
        """All hubs with a key, sorted."""
        names = (path.stem for path in self._dir.glob("*.key"))
        return sorted(name for name in names if HUB_ID.fullmatch(name))

    def _complain(self, hub_id: str, err: ConfigError) -> None:
        if hub_id not in self._complained:
            self._complained.add(hub_id)
            log.error("registry.bad_key", hub=hub_id, reason=str(err))
