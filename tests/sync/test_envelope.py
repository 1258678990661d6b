"""Envelopes open for the right holder only, and fail in one of two typed ways for everything else."""

from __future__ import annotations

import math
import os

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DecodeError, EnvelopeError, ReplayedError
from core.messages import (
    MAX_MESSAGE_BYTES,
    Ack,
    Downlink,
    Forecast,
    Sample,
    SampleBatch,
    Uplink,
    decode,
    encode,
)
from sync.envelope import (
    COMMAND,
    HELLO,
    UP,
    Command,
    DownlinkGate,
    Header,
    Hello,
    open_authentic,
    open_command,
    open_down,
    open_down_with_header,
    open_up,
    seal_command,
    seal_down,
    seal_hello,
    seal_up,
    seal_up_encoded,
)

KEY = bytes(range(32))
OTHER = bytes(32)
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
VERIFY = SIGNING.public_key()
BATCH = SampleBatch((Sample(1, "cgm_mgdl", 104.0, "cgm", 29_000_000),))
UPLINK = Uplink("hub-1", 7, 99, BATCH)


def keys(hub_id: str) -> bytes | None:
    return {"hub-1": KEY, "hub-2": OTHER}.get(hub_id)


def down(number: int = 3, issued_us: int = 10, expires_us: int = 100, hub_id: str = "hub-1") -> Downlink:
    return Downlink(hub_id, number, issued_us, expires_us, Ack((1, 2)))


def test_an_uplink_comes_back_as_it_was_with_its_order_marks() -> None:
    data = seal_up(KEY, UPLINK, after=5, session=77)
    assert open_up(keys, "hub-1", data) == UPLINK
    header, _ = open_authentic(keys, "hub-1", data, (UP,))
    assert header == Header(1, UP, "hub-1", 7, 5, 77)


def test_a_body_sealed_as_it_lies_in_the_outbox_is_the_same_message() -> None:
    data = seal_up_encoded(KEY, "hub-1", 7, 99, encode(BATCH), after=6)
    assert open_up(keys, "hub-1", data) == UPLINK


def test_the_same_message_never_looks_the_same_twice() -> None:
    assert seal_up(KEY, UPLINK) != seal_up(KEY, UPLINK)


def test_a_change_of_any_single_byte_is_noticed() -> None:
    for data, open_it in (
        (seal_up(KEY, UPLINK, after=5), lambda d: open_up(keys, "hub-1", d)),
        (seal_down(KEY, SIGNING, down()), lambda d: open_down(KEY, VERIFY, "hub-1", d)),
        (seal_command(KEY, "hub-1", Command(1, 2, {})), lambda d: open_command(KEY, "hub-1", d)),
    ):
        for place in range(len(data)):
            changed = bytearray(data)
            changed[place] ^= 1
            with pytest.raises(EnvelopeError):
                open_it(bytes(changed))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(seal_up(OTHER, UPLINK), id="other-key"),
        pytest.param(seal_up(OTHER, Uplink("hub-2", 7, 99, BATCH)), id="other-hub"),
        pytest.param(seal_hello(KEY, "hub-1", Hello(3)), id="hello-as-uplink"),
        pytest.param(seal_command(KEY, "hub-1", Command(1, 1, {})), id="command-as-uplink"),
        pytest.param(seal_down(KEY, SIGNING, down()), id="downlink-as-uplink"),
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(MAX_MESSAGE_BYTES * 2), id="huge"),
        pytest.param(b"\x91" * 100_000, id="deeply-nested"),
    ],
)
def test_what_the_hub_did_not_write_for_this_topic_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_up(keys, "hub-1", data)


def test_an_unknown_hub_is_named_as_such() -> None:
    with pytest.raises(EnvelopeError, match="unknown hub"):
        open_up(keys, "hub-9", seal_up(KEY, Uplink("hub-9", 1, 1, BATCH)))


def test_a_header_cannot_be_exchanged() -> None:
    parts = msgspec.msgpack.decode(seal_up(KEY, UPLINK))
    parts[0] = encode(Header(1, UP, "hub-1", 8))
    with pytest.raises(EnvelopeError):
        open_up(keys, "hub-1", msgspec.msgpack.encode(parts))


def test_authentic_bytes_that_are_no_message_we_know_are_a_decode_error() -> None:
    data = seal_up_encoded(KEY, "hub-1", 7, 99, msgspec.msgpack.encode({"type": "FromTheFuture"}))
    with pytest.raises(DecodeError):
        open_up(keys, "hub-1", data)


def test_a_forecast_of_a_hub_that_tells_no_chance_of_a_low_still_opens_and_the_other_way_round() -> None:
    """``low_chance`` came later: its absence is nan, and who does not know it reads the rest."""
    new = Forecast(1, "m", (30.0,), (99.0,), (1.0,), (97.0,), (99.0,), (101.0,), 60.0, low_chance=0.25)
    fields = msgspec.msgpack.decode(encode(new))
    assert fields.pop("low_chance") == 0.25
    old = decode(msgspec.msgpack.encode(fields), Forecast)
    assert math.isnan(old.low_chance)
    assert msgspec.structs.replace(old, low_chance=0.25) == new
    known = [(f.name, f.type) for f in msgspec.structs.fields(Forecast) if f.name != "low_chance"]
    before = msgspec.defstruct("Forecast", known, tag=True)
    assert decode(encode(new), before).p50 == (99.0,)  # type: ignore[attr-defined]


def test_errors_never_quote_content() -> None:
    body = Forecast(1, "m", (30.0,), (123.456,), (1.0,), (1.0,), (1.0,), (1.0,), 1.0, "secret")
    data = bytearray(seal_up(KEY, Uplink("hub-1", 1, 1, body)))
    data[-1] ^= 1
    with pytest.raises(EnvelopeError) as caught:
        open_up(keys, "hub-1", bytes(data))
    assert "secret" not in str(caught.value)
    assert "123" not in str(caught.value)


@given(st.binary(max_size=400))
@settings(max_examples=300)
def test_any_bytes_at_all_raise_only_typed_errors(data: bytes) -> None:
    for open_it in (
        lambda: open_up(keys, "hub-1", data),
        lambda: open_down(KEY, VERIFY, "hub-1", data),
        lambda: open_command(KEY, "hub-1", data),
        lambda: open_authentic(keys, "hub-1", data, (HELLO, COMMAND)),
    ):
        with pytest.raises((EnvelopeError, DecodeError)):
            open_it()


@given(
    header=st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda *parts: msgspec.msgpack.encode(list(parts)),
            st.integers(-1, 2),
            st.sampled_from(["up", "down", "hello", "x"]),
            st.sampled_from(["hub-1", "hub-2", ""]),
            st.integers(-(2**63), 2**64 - 1),
            st.integers(-(2**63), 2**64 - 1),
            st.integers(-(2**63), 2**64 - 1),
        ),
    ),
    nonce=st.binary(max_size=30),
    sealed=st.binary(max_size=60),
    signature=st.binary(max_size=70),
)
def test_well_formed_nonsense_raises_only_typed_errors(header, nonce, sealed, signature) -> None:
    data = msgspec.msgpack.encode([header, nonce, sealed, signature])
    for open_it in (
        lambda: open_up(keys, "hub-1", data),
        lambda: open_down(KEY, VERIFY, "hub-1", data),
    ):
        with pytest.raises((EnvelopeError, DecodeError)):
            open_it()


def test_a_downlink_comes_back_with_the_session_it_answers() -> None:
    header, message = open_down_with_header(
        KEY, VERIFY, "hub-1", seal_down(KEY, SIGNING, down(), session=12345)
    )
    assert (message, header.session) == (down(), 12345)


def test_who_knows_only_the_hub_key_cannot_give_advice() -> None:
    stranger = Ed25519PrivateKey.generate()
    with pytest.raises(EnvelopeError, match="not signed"):
        open_down(KEY, VERIFY, "hub-1", seal_down(KEY, stranger, down()))
    unsigned = msgspec.msgpack.decode(seal_down(KEY, SIGNING, down()))
    unsigned[3] = b""
    with pytest.raises(EnvelopeError, match="not signed"):
        open_down(KEY, VERIFY, "hub-1", msgspec.msgpack.encode(unsigned))


def test_a_signature_is_good_for_one_message_only() -> None:
    first = msgspec.msgpack.decode(seal_down(KEY, SIGNING, down(3)))
    second = msgspec.msgpack.decode(seal_down(KEY, SIGNING, down(4)))
    with pytest.raises(EnvelopeError, match="not signed"):
        open_down(KEY, VERIFY, "hub-1", msgspec.msgpack.encode([*first[:3], second[3]]))


def test_a_downlink_for_another_hub_is_refused_even_when_signed() -> None:
    with pytest.raises(EnvelopeError):
        open_down(KEY, VERIFY, "hub-1", seal_down(KEY, SIGNING, down(hub_id="hub-2")))


def test_a_random_key_of_32_bytes_opens_nothing() -> None:
    with pytest.raises(EnvelopeError):
        open_down(os.urandom(32), VERIFY, "hub-1", seal_down(KEY, SIGNING, down()))


def test_the_gate_lets_rising_unexpired_numbers_through_once() -> None:
    gate = DownlinkGate(last_number=2)
    for number in (3, 4, 9):
        gate.check(down(number), now_us=50)
        gate.accept(down(number))
    assert gate.last_number == 9


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (down(5), "repetition"),
        (down(4), "comes after"),
        (down(6, expires_us=50), "expired"),
        (down(6, expires_us=49), "expired"),
    ],
)
def test_the_gate_refuses_repeated_reordered_and_late(message: Downlink, reason: str) -> None:
    gate = DownlinkGate(last_number=5)
    with pytest.raises(ReplayedError, match=reason):
        gate.check(message, now_us=50)
    assert gate.last_number == 5


def test_a_message_checked_but_not_accepted_may_come_again() -> None:
    gate = DownlinkGate(last_number=2)
    gate.check(down(3), now_us=50)
    gate.check(down(3), now_us=50)


def test_a_hub_whose_clock_fell_back_still_refuses_what_has_expired() -> None:
    gate = DownlinkGate(last_number=0)
    gate.accept(down(1, issued_us=1000, expires_us=2000))
    with pytest.raises(ReplayedError, match="expired"):
        gate.check(down(2, issued_us=10, expires_us=900), now_us=0)
