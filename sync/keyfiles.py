"""Reads the key files that provision made. Every complaint names the file and how to mend it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from core.errors import ConfigError
from sync.envelope import KEY_BYTES

log = structlog.get_logger()

MEND: Final = "copy it from the folder that provision made"


def read_envelope_key(path: Path) -> bytes:
    """A hub's symmetric key."""
    key = read_secret(path)
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"is no envelope key: {len(key)} bytes, not {KEY_BYTES}", where=str(path), mend=MEND
        )
    return key


def read_verify_key(path: Path) -> Ed25519PublicKey:
    """The key that proves what the cloud signed."""
    try:
        key = load_pem_public_key(read_file(path))
    except ValueError:
        raise ConfigError("is not a public key", where=str(path), mend=MEND) from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("is not an Ed25519 key", where=str(path), mend=MEND)
    return key


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """The key with which the cloud signs."""
    try:
        key = load_pem_private_key(read_secret(path), password=None)
    except (ValueError, TypeError):
        raise ConfigError("is not a private key", where=str(path), mend=MEND) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("is not an Ed25519 key", where=str(path), mend=MEND)
    return key


def read_secret(path: Path) -> bytes:
    """As read_file, with a warning of a file that everybody may read. A group may: that is how services share one.

    No refusal: a hub that does not start warns nobody of a low.
    """
    data = read_file(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o007:
        log.warning("key.open_to_others", path=str(path), mode=f"{mode:04o}", mend=f"chmod 600 {path}")
    return data


def read_file(path: Path) -> bytes:
    """What is in a file that provision made."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path), mend=MEND) from None
    except OSError as err:
        raise ConfigError(f"cannot be read: {err.strerror}", where=str(path), mend=MEND) from None
