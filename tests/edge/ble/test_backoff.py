from __future__ import annotations

import random

import pytest

from core.errors import DecodeError, LinkError, LinkTimeout, PairingError, ProcedureError, StoreError
from edge.ble.backoff import DEFAULT_PACE, is_quarantined, retry_after_s

LINK = [LinkError("x"), LinkTimeout("x"), StoreError("x")]
STUBBORN = [PairingError("x"), DecodeError("x"), ProcedureError("x")]


@pytest.mark.parametrize("error", LINK, ids=lambda e: type(e).__name__)
def test_pauses_double_up_to_the_limit_and_never_quarantine(error: Exception) -> None:
    waits = [retry_after_s(error, n, random.Random(1)) for n in range(1, 60)]
    assert waits[0] <= DEFAULT_PACE.link_first_s
    assert waits[1] == pytest.approx(2 * waits[0])
    assert max(waits) <= DEFAULT_PACE.link_most_s
    assert not is_quarantined(error, 1000)


@pytest.mark.parametrize("error", STUBBORN, ids=lambda e: type(e).__name__)
def test_what_retrying_does_not_mend_ends_in_quarantine(error: Exception) -> None:
    assert not is_quarantined(error, 2)
    strikes = next(n for n in range(1, 20) if is_quarantined(error, n))
    assert retry_after_s(error, strikes - 1, random.Random(1)) <= DEFAULT_PACE.stubborn_most_s
    assert retry_after_s(error, strikes, random.Random(1)) > 0.8 * DEFAULT_PACE.quarantine_s


def test_wrong_passkey_is_stopped_sooner_than_a_garbled_transfer() -> None:
    assert is_quarantined(PairingError("x"), 3)
    assert not is_quarantined(DecodeError("x"), 4)


def test_same_seed_gives_the_same_pause_and_other_seeds_spread() -> None:
    waits = [retry_after_s(LinkError("x"), 4, random.Random(seed)) for seed in range(50)]
    assert waits == [retry_after_s(LinkError("x"), 4, random.Random(seed)) for seed in range(50)]
    assert max(waits) - min(waits) > 0.3 * max(waits)


def test_unforeseen_errors_wait_longer_than_drops() -> None:
    surprise = retry_after_s(KeyError("x"), 1, random.Random(3))
    assert surprise > retry_after_s(LinkError("x"), 1, random.Random(3))


@pytest.mark.parametrize("attempts", [0, 1, 10**6])
def test_any_count_gives_a_finite_positive_pause(attempts: int) -> None:
    for error in (*LINK, *STUBBORN, RuntimeError()):
        assert 0 < retry_after_s(error, attempts, random.Random(5)) <= 1.1 * DEFAULT_PACE.quarantine_s
