"""Sealed database columns: who holds the database file alone reads no value.

ChaCha20-Poly1305 with a fresh random nonce per value (12 bytes nonce, 16 bytes tag). The label
``table.column`` is authenticated, so a value moved to another column does not open. Times, kinds and
sequence numbers stay readable: queries need them.
"""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from sqlalchemy import Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator

from core.errors import ConfigError, TamperedError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Sealer:
    """Seals and opens column values, and fingerprints messages, under keys derived from the database key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"a database key has {KEY_BYTES} bytes, this one {len(key)}")
        self._aead = ChaCha20Poly1305(_derive(key, b"seal"))
        self._digest_key = _derive(key, b"digest")

    def seal(self, label: bytes, clear: bytes) -> bytes:
        """nonce | ciphertext | tag."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, clear, label)

    def open(self, label: bytes, sealed: bytes) -> bytes:
        """The clear bytes; TamperedError for anything this key did not seal under this label."""
        try:
            return self._aead.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], label)
        except (InvalidTag, ValueError):
            raise TamperedError("a sealed value does not open", where=label.decode()) from None

    def digest(self, data: bytes) -> bytes:
        """A keyed fingerprint of 16 bytes: without the key it says nothing about what was fingerprinted."""
        return hashlib.blake2b(data, digest_size=16, key=self._digest_key).digest()


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=key, digest_size=32, person=purpose).digest()


def read_database_key(path: Path) -> bytes:
    """The key in ``path``; ConfigError when there is none or it has the wrong length."""
    try:
        key = path.read_bytes()
    except OSError as err:
        raise ConfigError(
            f"the database key cannot be read: {err.strerror}",
            where=str(path),
            mend="run 'hometwin provision', or correct [database] key_file",
        ) from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"the database key has {len(key)} bytes instead of {KEY_BYTES}",
            where=str(path),
            mend="put back the file that 'hometwin provision' made",
        )
    return key


def attach_sealer(dialect: Dialect, sealer: Sealer) -> None:
    """Give an engine's dialect the keys of its sealed columns. A dialect belongs to one engine."""
    dialect.hometwin_sealer = sealer  # type: ignore[attr-defined]


def sealer_of(dialect: Dialect) -> Sealer:
    """The keys that ``attach_sealer`` gave."""
    sealer: Sealer = dialect.hometwin_sealer  # type: ignore[attr-defined]
    return sealer


class SealedBytes(TypeDecorator[bytes]):
    """Bytes, sealed under ``label``."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else sealer_of(dialect).seal(self.label.encode(), value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else sealer_of(dialect).open(self.label.encode(), value)


class SealedFloat(TypeDecorator[float]):
    """A float64, sealed under ``label``. It cannot be compared or summed in SQL, on purpose."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def process_bind_param(self, value: Any, dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        return sealer_of(dialect).seal(self.label.encode(), struct.pack("<d", value))

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        if value is None:
            return None
        clear = sealer_of(dialect).open(self.label.encode(), value)
        number: float = struct.unpack("<d", clear)[0]
        return number
