"""The store's key: 32 bytes from a systemd credential or a file that only its owner can read.

Under systemd ``LoadCredential=`` puts the key into ``$CREDENTIALS_DIRECTORY``, a folder in memory that no
other unit sees; that copy wins over the file. A key never appears in an error, a log or a process list.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from core.errors import InputError

KEY_BYTES: Final = 32  # AES-256 and ChaCha20 both take 256 bits
_HEX_KEY: Final = re.compile(rb"[0-9a-fA-F]{64}\s*")
_LONGEST_FILE_BYTES: Final = 80  # a hexadecimal key with its line end; whatever is longer is no key


def load_key(path: Path, environ: Mapping[str, str] = os.environ) -> bytes:
    """The key named by ``path``: ``$CREDENTIALS_DIRECTORY/<file name>`` when it is there, else the file.

    The file holds 32 raw bytes, or 64 hexadecimal digits as on a paper backup. InputError says what is wrong
    with it and how to mend it.
    """
    credential = _credential(path.name, environ)
    if credential is not None:
        # systemd owns these files: its modes differ between versions (0400, or 0440 with an ACL).
        return _parse(_read(credential, private=False), credential)
    return _parse(_read(path, private=True), path)


def create_key(path: Path) -> bytes:
    """A new random key, durably in ``path`` with mode 0600. InputError when the file exists: keys are kept."""
    key = secrets.token_bytes(KEY_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise InputError(
            "a key exists already and is kept", where=str(path), mend="move it away to make a new one"
        ) from None
    except OSError as err:
        raise InputError(f"key cannot be written: {err.strerror}", where=str(path)) from None
    with os.fdopen(handle, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the name must survive a power cut as well: without the key the store is lost
    finally:
        os.close(folder)
    return key


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        return None
    path = Path(folder) / name
    return path if path.exists() else None


def _read(path: Path, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            # Of the opened file, so that nobody can exchange it between the check and the reading.
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InputError("key is not a regular file", where=str(path), mend="give a file of 32 bytes")
            if private:
                _check_private(path, facts)
            return file.read(_LONGEST_FILE_BYTES + 1)
    except FileNotFoundError:
        raise InputError("no key file", where=str(path), mend="make one: hometwin keys") from None
    except OSError as err:
        raise InputError(
            f"key cannot be read: {err.strerror}", where=str(path), mend="check its owner and mode"
        ) from None


def _check_private(path: Path, facts: os.stat_result) -> None:
    if facts.st_mode & 0o077:
        raise InputError(
            f"key is open to others (mode {stat.S_IMODE(facts.st_mode):04o})",
            where=str(path),
            mend=f"chmod 600 {path}",
        )
    if facts.st_uid not in (os.geteuid(), 0):
        raise InputError(
            "key belongs to another user", where=str(path), mend="chown it to the user of the hub"
        )


def _parse(data: bytes, path: Path) -> bytes:
    if len(data) == KEY_BYTES:
        return data
    if _HEX_KEY.fullmatch(data):
        return bytes.fromhex(data.decode("ascii"))
    size = f"more than {_LONGEST_FILE_BYTES}" if len(data) > _LONGEST_FILE_BYTES else str(len(data))
    raise InputError(
        f"key file holds {size} bytes, not {KEY_BYTES}", where=str(path), mend="restore it from its backup"
    )
