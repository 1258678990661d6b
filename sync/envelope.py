"""What a message looks like on the wire, and who may have written it. Pure: bytes in, messages out.

An envelope is a MessagePack array ``[header, nonce, sealed, signature]``. The header is readable by the
broker and authenticated as associated data, so a message moved to another hub, direction or number does
not open. ``sealed`` is ChaCha20-Poly1305 under the hub's own key with a random nonce of 96 bits (at one
message a second, a collision becomes as likely as 2^-32 after 136 years). What the cloud sends down is
signed with Ed25519 as well, so a stolen hub key alone cannot give advice.

Anything that fails here raises EnvelopeError (not authentic) or DecodeError (authentic, but not a message
this version knows), and nothing else. Error texts never quote content.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from core.errors import DecodeError, EnvelopeError, ReplayedError
from core.messages import MAX_MESSAGE_BYTES, Downlink, Uplink, decode, encode

VERSION: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SIGNATURE_BYTES: Final = 64
# Header, nonce, tag, signature and framing take less than this; the broker's limit is built on it.
ENVELOPE_OVERHEAD_BYTES: Final = 512
MAX_ENVELOPE_BYTES: Final = MAX_MESSAGE_BYTES + ENVELOPE_OVERHEAD_BYTES
# A signature over these bytes can never be mistaken for a signature of another kind.
SIGNING_CONTEXT: Final = b"hometwin downlink 1\0"
INT64_MAX: Final = (1 << 63) - 1

UP: Final = "up"
HELLO: Final = "hello"
DOWN: Final = "down"
COMMAND: Final = "cmd"

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What anybody may read, and nobody may change.

    ``after``: on an uplink, the number sent before this one and not yet acknowledged; 0 when every
    earlier one is acknowledged. It lets the cloud see a gap without numbers having to be contiguous.
    ``session``: a random number that the hub draws at its start; the cloud's acknowledgements carry it
    back, so those of an earlier life (whose numbers may have been used again) are worth nothing. Session 0
    with an empty acknowledgement calls on every session to begin again.
    """

    version: int
    direction: str
    hub_id: str
    number: int
    after: int = 0
    session: int = 0


class Hello(msgspec.Struct, frozen=True):
    """From the hub: the greatest downlink number it has durably."""

    last_down: int


class Command(msgspec.Struct, frozen=True):
    """A hand entry for the hub; ``command_id`` is random and makes a repetition harmless."""

    command_id: int
    sent_us: int
    request: dict[str, Any]


class _Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    header: bytes
    nonce: bytes
    sealed: bytes
    signature: bytes = b""


class _EncodedUplink(msgspec.Struct, frozen=True):
    """The same bytes as core.messages.Uplink."""

    hub_id: str
    number: int
    sent_us: int
    body: msgspec.Raw


Keys = Callable[[str], bytes | None]


def seal_up(key: bytes, uplink: Uplink, *, after: int = 0, session: int = 0) -> bytes:
    """An uplink, sealed with the hub's key."""
    header = Header(VERSION, UP, uplink.hub_id, uplink.number, after, session)
    return _seal(key, header, encode(uplink))


def seal_up_encoded(
    key: bytes, hub_id: str, number: int, sent_us: int, body: bytes, *, after: int = 0, session: int = 0
) -> bytes:
    """As seal_up for a body that lies encoded in the outbox: not decoding it saves a Pi most of the work."""
    header = Header(VERSION, UP, hub_id, number, after, session)
    return _seal(key, header, encode(_EncodedUplink(hub_id, number, sent_us, msgspec.Raw(body))))


def open_up(keys: Keys, topic_hub_id: str, data: bytes) -> Uplink:
    """The uplink in ``data`` that arrived on the topic of ``topic_hub_id``."""
    header, clear = open_authentic(keys, topic_hub_id, data, (UP,))
    return uplink_of(header, clear)


def uplink_of(header: Header, clear: bytes) -> Uplink:
    """The uplink in authentic bytes; DecodeError when this version does not know it."""
    uplink = decode(clear, Uplink)
    if (uplink.hub_id, uplink.number) != (header.hub_id, header.number):
        raise DecodeError("an uplink contradicts its header")
    return uplink


def seal_hello(key: bytes, hub_id: str, hello: Hello) -> bytes:
    """A hub's word on the downlinks it has."""
    return _seal(key, Header(VERSION, HELLO, hub_id, 0), encode(hello))


def seal_down(key: bytes, signing_key: Ed25519PrivateKey, downlink: Downlink, *, session: int = 0) -> bytes:
    """A downlink, sealed with the hub's key and signed by the cloud."""
    header = Header(VERSION, DOWN, downlink.hub_id, downlink.number, 0, session)
    return _seal(key, header, encode(downlink), signing_key)


def open_down(key: bytes, verify_key: Ed25519PublicKey, hub_id: str, data: bytes) -> Downlink:
    """The downlink in ``data`` when the cloud signed it for ``hub_id``. Time and order: DownlinkGate."""
    return open_down_with_header(key, verify_key, hub_id, data)[1]


def open_down_with_header(
    key: bytes, verify_key: Ed25519PublicKey, hub_id: str, data: bytes
) -> tuple[Header, Downlink]:
    """As open_down, with the header, which names the session an acknowledgement answers."""
    envelope, header = _parse(data, hub_id, (DOWN,))
    try:
        verify_key.verify(envelope.signature, _signed_part(envelope))
    except InvalidSignature:
        raise EnvelopeError("a downlink is not signed by our cloud", where=hub_id) from None
    downlink = decode(_open(key, envelope, hub_id), Downlink)
    if (downlink.hub_id, downlink.number) != (header.hub_id, header.number):
        raise DecodeError("a downlink contradicts its header")
    return header, downlink


def seal_command(key: bytes, hub_id: str, command: Command) -> bytes:
    """A hand entry, sealed with the hub's key."""
    return _seal(key, Header(VERSION, COMMAND, hub_id, 0), encode(command))


def open_command(key: bytes, hub_id: str, data: bytes) -> Command:
    """The hand entry in ``data``. Age and repetition: the caller's business."""
    return decode(open_authentic(lambda _: key, hub_id, data, (COMMAND,))[1], Command)


def open_authentic(
    keys: Keys, topic_hub_id: str, data: bytes, directions: tuple[str, ...]
) -> tuple[Header, bytes]:
    """Header and clear bytes that the holder of the hub's key wrote; EnvelopeError for anything else."""
    envelope, header = _parse(data, topic_hub_id, directions)
    key = keys(topic_hub_id)
    if key is None:
        raise EnvelopeError("unknown hub", where=topic_hub_id[:40], mend="provision it")
    return header, _open(key, envelope, topic_hub_id)


def _seal(key: bytes, header: Header, clear: bytes, signing_key: Ed25519PrivateKey | None = None) -> bytes:
    associated, nonce = encode(header), os.urandom(NONCE_BYTES)
    envelope = _Envelope(associated, nonce, ChaCha20Poly1305(key).encrypt(nonce, clear, associated))
    if signing_key is not None:
        signature = signing_key.sign(_signed_part(envelope))
        envelope = msgspec.structs.replace(envelope, signature=signature)
    return encode(envelope)


def _open(key: bytes, envelope: _Envelope, where: str) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(envelope.nonce, envelope.sealed, envelope.header)
    except (InvalidTag, ValueError, OverflowError):
        raise EnvelopeError("a message does not open with the hub's key", where=where[:40]) from None


def _parse(data: bytes, hub_id: str, directions: tuple[str, ...]) -> tuple[_Envelope, Header]:
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"an envelope of {len(data)} bytes exceeds {MAX_ENVELOPE_BYTES}")
    envelope = _decode_outside(data, _Envelope)
    header = _decode_outside(envelope.header, Header)
    if header.version != VERSION:
        raise EnvelopeError(f"envelope version {header.version} is unknown", mend="upgrade hometwin")
    if header.hub_id != hub_id or header.direction not in directions:
        raise EnvelopeError("a message lies on a topic that is not its own", where=hub_id[:40])
    if not (0 <= header.number <= INT64_MAX and 0 <= header.after <= INT64_MAX):
        raise EnvelopeError("a message number is out of range", where=hub_id[:40])
    if len(envelope.nonce) != NONCE_BYTES or len(envelope.signature) not in (0, SIGNATURE_BYTES):
        raise EnvelopeError("an envelope has a part of the wrong size", where=hub_id[:40])
    return envelope, header


def _decode_outside(data: bytes, kind: type[T]) -> T:
    try:
        return decode(data, kind)
    except DecodeError as err:
        raise EnvelopeError(f"not an envelope: {err.what}") from None


def _signed_part(envelope: _Envelope) -> bytes:
    # Every part has a length of its own in front of it, so no two different envelopes sign alike.
    return SIGNING_CONTEXT + encode(msgspec.structs.replace(envelope, signature=b""))


class DownlinkGate:
    """Lets each downlink through once, in order, before it expires. Pure; the caller keeps ``last_number``.

    ``check`` decides, ``accept`` remembers: a message that could not be stored in between may come again.
    A hub without a battery-backed clock may start in the past, so "now" is never earlier than the issue
    time of a message it has already accepted.
    """

    def __init__(self, last_number: int) -> None:
        self.last_number = last_number
        self._latest_issue_us = 0

    def check(self, downlink: Downlink, now_us: int) -> None:
        """Return for a message to act on; ReplayedError for a repeated, reordered or late one."""
        if downlink.number == self.last_number:
            raise ReplayedError(f"downlink {downlink.number} is a repetition")
        if downlink.number < self.last_number:
            raise ReplayedError(f"downlink {downlink.number} comes after {self.last_number}")
        if downlink.expires_us <= max(now_us, self._latest_issue_us):
            raise ReplayedError(f"downlink {downlink.number} has expired")

    def accept(self, downlink: Downlink) -> None:
        """The message is durable: everything up to it is refused from now on."""
        self.last_number = downlink.number
        self._latest_issue_us = max(self._latest_issue_us, downlink.issued_us)
