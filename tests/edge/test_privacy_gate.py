"""Noisy contributions leave as often as the budget allows, counted before they leave; the engine adds the noise."""

from __future__ import annotations

import msgspec

from core.messages import Contribution
from core.privacy import noise_sd
from core.units import US_PER_DAY
from edge.config import PrivacyConfig
from edge.engine import EngineSession
from edge.engine_messages import AskSnapshot, Blur, Hello, Observe, Snapshot
from edge.privacy_gate import BLOB, PrivacyGate
from tests.edge.test_engine import PATIENT, now, readings

NOW_US = 1_767_362_400_000_000
PLAIN = Contribution(NOW_US, "glucose/1", 1, ("ln_s",), (4.0,), (1.0,))
NOISY = msgspec.structs.replace(PLAIN, noise_sd=30.0)


class Blobs:
    """What the gate uses of the store."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def get_blob(self, name: str) -> bytes | None:
        return self.data.get(name)

    def put_blob(self, name: str, data: bytes) -> None:
        self.data[name] = data


def gate(store: Blobs, **changes: float) -> PrivacyGate:
    return PrivacyGate(PrivacyConfig(**{"epsilon": 1.0, "releases": 2, **changes}), store)  # type: ignore[arg-type]


def test_without_a_budget_everything_passes() -> None:
    store = Blobs()
    assert all(gate(store, epsilon=0.0).take(PLAIN, NOW_US) for _ in range(5))
    assert store.data == {}


def test_a_release_a_month_until_the_budget_is_spent_across_restarts() -> None:
    store = Blobs()
    assert gate(store).take(NOISY, NOW_US)
    assert not gate(store).take(NOISY, NOW_US + 29 * US_PER_DAY)
    assert not gate(store).take(NOISY, NOW_US - 29 * US_PER_DAY)  # a clock that went back
    assert gate(store).take(NOISY, NOW_US + 31 * US_PER_DAY)
    assert not gate(store).take(NOISY, NOW_US + 900 * US_PER_DAY)
    assert gate(store).spent.releases == 2


def test_nothing_leaves_without_noise_or_without_a_readable_count() -> None:
    store = Blobs()
    assert not gate(store).take(PLAIN, NOW_US)
    store.data[BLOB] = b"\xff"
    assert not gate(store).take(NOISY, NOW_US)


def test_the_engine_adds_the_noise_that_the_hub_asks_for() -> None:
    session = EngineSession()
    session.answer(Hello(PATIENT, None, 0))
    session.answer(Observe(1, readings(0, 12)))
    sent = []
    for _ in range(2):
        answer = session.answer(AskSnapshot(now(12), Blur(1.0, 1e-6, 12)))
        assert isinstance(answer, Snapshot)
        assert answer.contribution is not None
        sent.append(answer.contribution)
    assert sent[0].noise_sd == noise_sd(1.0, 1e-6, 12)
    assert sent[0].delta_information != sent[1].delta_information
