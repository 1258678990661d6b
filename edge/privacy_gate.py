"""Lets out no more noisy contributions than the privacy budget is for, and counts them for ever."""

from __future__ import annotations

from typing import Final

import msgspec

from core.errors import DecodeError
from core.messages import Contribution, decode, encode
from core.units import US_PER_DAY
from edge.config import PrivacyConfig
from edge.store.store import Store

BLOB: Final = "privacy"


class Spent(msgspec.Struct, frozen=True):
    """How many contributions have left, and when the last did."""

    releases: int = 0
    last_us: int = 0


class PrivacyGate:
    """One per hub. Without a budget (epsilon 0) everything passes, as it is."""

    def __init__(self, config: PrivacyConfig, store: Store) -> None:
        self._config, self._store = config, store

    @property
    def is_on(self) -> bool:
        return self._config.epsilon > 0

    @property
    def spent(self) -> Spent:
        """What has been spent; everything, when the note of it cannot be read: rather silent than too open."""
        data = self._store.get_blob(BLOB)
        try:
            return Spent() if data is None else decode(data, Spent)
        except DecodeError:
            return Spent(self._config.releases)

    def take(self, contribution: Contribution, now_us: int) -> bool:
        """Whether this contribution may leave now. It is counted before it leaves, so a crash never hides one."""
        if not self.is_on:
            return True
        spent = self.spent
        if contribution.noise_sd <= 0 or spent.releases >= self._config.releases:
            return False
        if spent.releases and abs(now_us - spent.last_us) < self._config.every_days * US_PER_DAY:
            return False
        self._store.put_blob(BLOB, encode(Spent(spent.releases + 1, now_us)))
        return True
