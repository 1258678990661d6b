"""What every page needs. NiceGUI's pages are global to the process, so this is too: set once at the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from cloud.config import CloudConfig
from cloud.db import Database
from cloud.portal.accounts import Accounts
from cloud.portal.guard import Sessions
from cloud.portal.limits import RateLimit
from cloud.whatif_job import WhatifWorker
from core.clock import Clock
from core.errors import EnvironmentMissing


@dataclass(slots=True)
class Context:
    """The portal's parts."""

    db: Database
    config: CloudConfig
    clock: Clock
    accounts: Accounts
    sessions: Sessions = field(default_factory=Sessions)
    logins: RateLimit = field(default_factory=RateLimit)
    questions: WhatifWorker = field(default_factory=WhatifWorker)  # starts its process at the first question

    @property
    def zone(self) -> ZoneInfo:
        return self.config.zone


_current: Context | None = None


def set_context(context: Context) -> None:
    """Use this context from now on."""
    global _current
    _current = context


def context() -> Context:
    """The context in use."""
    if _current is None:
        raise EnvironmentMissing("the portal has not been started", where="cloud.portal")
    return _current
