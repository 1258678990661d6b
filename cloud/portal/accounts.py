"""Who may log in: names with salted scrypt hashes in one private file, made at the first start.

The first password is written beside it, in clear and readable by the owner only, as ``portal.password``:
so that it appears neither in a log nor in a process list. Read it, change or delete it; the portal itself
needs only the hash.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Annotated, Final

import msgspec

from core.errors import ConfigError, InputError

FILE: Final = "portal.json"
FIRST_PASSWORD_FILE: Final = "portal.password"  # noqa: S105  (a file's name)
FIRST_NAME: Final = "clinician"
# 32 MiB and about a tenth of a second per guess on a small server (OWASP 2023: N=2^15, r=8, p>=3 or
# N=2^17, p=1 for general sites; the rate limit in front of it makes up for the difference on a Pi).
SCRYPT_N: Final = 1 << 15
SCRYPT_R: Final = 8
SCRYPT_P: Final = 2
MIN_PASSWORD: Final = 12
MAX_PASSWORD: Final = 256  # longer input is not a password but work for the hash
# Letters and digits that nobody mixes up when reading them off a terminal.
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"


class Hash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A password's scrypt hash with its parameters."""

    n: Annotated[int, msgspec.Meta(ge=1 << 14, le=1 << 20)]
    r: Annotated[int, msgspec.Meta(ge=1, le=32)]
    p: Annotated[int, msgspec.Meta(ge=1, le=16)]
    salt: str  # base64
    key: str  # base64


class AccountsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's content."""

    accounts: dict[str, Hash]


class Accounts:
    """Checks names and passwords."""

    def __init__(self, accounts: dict[str, Hash]) -> None:
        self._accounts = accounts
        # A wrong name must cost the same time as a wrong password.
        self._nobody = make_hash(secrets.token_urlsafe(16))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._accounts))

    @classmethod
    def open(cls, folder: Path) -> tuple[Accounts, str | None]:
        """The accounts of ``folder``; the second value is the new password when they were just made."""
        path = folder / FILE
        try:
            content = msgspec.json.decode(path.read_bytes(), type=AccountsFile)
        except FileNotFoundError:
            return cls._create(folder)
        except OSError as err:
            raise ConfigError(f"cannot be read: {err.strerror}", where=str(path)) from None
        except msgspec.MsgspecError:
            raise ConfigError(
                "not a portal account file",
                where=str(path),
                mend="delete it: a new one is made at the next start",
            ) from None
        if not content.accounts:
            raise ConfigError("no account in it", where=str(path), mend="delete it")
        return cls(content.accounts), None

    @classmethod
    def _create(cls, folder: Path) -> tuple[Accounts, str]:
        password = make_password()
        accounts = {FIRST_NAME: make_hash(password)}
        _write_private(folder / FIRST_PASSWORD_FILE, password.encode() + b"\n")
        _write_private(folder / FILE, msgspec.json.encode(AccountsFile(accounts)))
        return cls(accounts), password

    async def check(self, name: str, password: str) -> bool:
        """True when they belong together. About a tenth of a second, off the event loop."""
        if len(password) > MAX_PASSWORD:
            return False
        known = self._accounts.get(name)
        matches = await asyncio.to_thread(_matches, known or self._nobody, password)
        return matches and known is not None


def set_password(folder: Path, name: str, password: str) -> None:
    """Add an account or change its password. InputError when the password is too short or too long."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InputError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters", where="password")
    name = name.strip()
    if not name or len(name) > 60 or not name.isprintable():
        raise InputError("a name has 1 to 60 printable characters", where="name")
    path = folder / FILE
    accounts: dict[str, Hash] = {}
    if path.exists():
        accounts = Accounts.open(folder)[0]._accounts
    _write_private(path, msgspec.json.encode(AccountsFile({**accounts, name: make_hash(password)})))
    if name == FIRST_NAME:
        (folder / FIRST_PASSWORD_FILE).unlink(missing_ok=True)


def make_password() -> str:
    """Four groups of four: about 79 bits."""
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(4)) for _ in range(4))
    return "-".join(groups)


def make_hash(password: str) -> Hash:
    """A fresh salted hash."""
    salt = os.urandom(16)
    key = _derive(password, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    return Hash(SCRYPT_N, SCRYPT_R, SCRYPT_P, base64.b64encode(salt).decode(), base64.b64encode(key).decode())


def _matches(known: Hash, password: str) -> bool:
    try:
        salt, key = base64.b64decode(known.salt), base64.b64decode(known.key)
    except ValueError:
        return False
    return hmac.compare_digest(_derive(password, salt, known.n, known.r, known.p), key)


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # OpenSSL's own limit is 32 MiB; scrypt needs 128·n·r bytes and a little more.
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=n,
        r=r,
        p=p,
        maxmem=128 * r * (n + p + 8),
        dklen=32,
    )


def _write_private(path: Path, data: bytes) -> None:
    """Atomic, 0600."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        raise ConfigError(
            f"cannot be written: {err.strerror}", where=str(path), mend="check the folder's permissions"
        ) from None
