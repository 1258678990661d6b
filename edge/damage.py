"""Damage that is found while the hub runs: opening the store anew repairs it, and until then everybody is told so."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Final

import structlog

from core.errors import TamperedError

log = structlog.get_logger()

# A hub whose store turns out damaged lives at least so long: a card that reads well when the store is opened and badly
# later must not keep it opening.
LEAST_LIFE_S: Final = 600.0


class StoreDamage:
    """Of one running hub. ``found`` is set by whoever meets damage."""

    def __init__(self, found: asyncio.Event, path: Path) -> None:
        self._found, self._path = found, path
        self._repair_at_s = time.monotonic() + LEAST_LIFE_S

    @property
    def repair_in_min(self) -> int | None:
        """Within how many minutes the hub repairs what was found; None while nothing is."""
        if not self._found.is_set():
            return None
        return max(1, math.ceil((self._repair_at_s - time.monotonic()) / 60.0))

    async def run(self) -> None:
        """Until the store has to be opened anew: TamperedError. Until then readings are stored and alarms ring."""
        await self._found.wait()
        log.error("store.damaged_in_use", repair_in_min=self.repair_in_min)
        await asyncio.sleep(max(0.0, self._repair_at_s - time.monotonic()))
        raise TamperedError("a record was damaged while the hub ran", where=str(self._path))

    def told(self, err: TamperedError) -> TamperedError:
        """``err`` for who asked: which file, and that it mends itself."""
        self._found.set()
        mend = (
            f"the hub repairs it by itself within {self.repair_in_min} min, or at once when it is restarted;"
            " readings are stored and alarms ring meanwhile. Ask again after that"
        )
        return damage_told(err, self._path, mend)


def damage_told(err: TamperedError, path: Path, mend: str) -> TamperedError:
    """``err`` of the open store at ``path``, with the file's name and the cure."""
    found = err.what if err.where in ("", str(path)) else f"{err.where}: {err.what}"
    return TamperedError(f"the store is damaged ({found})", where=str(path), mend=mend)
