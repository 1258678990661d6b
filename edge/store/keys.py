"""The keys that open a store: 32 bytes, or a passphrase, from a systemd credential or a private file.

Under systemd ``LoadCredential=`` puts the key into ``$CREDENTIALS_DIRECTORY``, a folder in memory that no
other unit sees; that copy wins over the file. A key never appears in an error, a log or a process list.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from core.errors import InputError, TamperedError
from edge.store.files import is_there, open_regular

SEALED_SUFFIX: Final = ".cred"  # of a key's name: as the drop-in in systemd/ names the encrypted credential
KEY_BYTES: Final = 32  # AES-256 and ChaCha20 both take 256 bits
_UNFINISHED: Final = ".hometwin-key-"  # begins the name of a key that is being written
_HEX_KEY: Final = re.compile(rb"[0-9a-fA-F]{64}\s*")
_LONGEST_FILE_BYTES: Final = 80  # a hexadecimal key with its line end; whatever is longer is no key
SALT_BYTES: Final = 16
# scrypt (RFC 7914), N = 2**14, r = 8, p = 5: OWASP's equal of N = 2**17, p = 1, in 16 MiB instead of 128, which a
# hub under 60 MiB cannot carry. N is written into each slot and bounded when read: the file may be hostile.
SCRYPT_LOG2_N: Final = 14
MAX_SCRYPT_LOG2_N: Final = 16
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 5
# What file systems say that know no links: FAT and exFAT, which most USB sticks have, and some in user space.
NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
LEAST_PASSPHRASE_CHARS: Final = 12  # five words are longer; what is shorter can be tried out
_LONGEST_PASSPHRASE_BYTES: Final = 1024


class Passphrase:
    """Words that a person remembers. Never shown, also not by ``repr``."""

    def __init__(self, text: str) -> None:
        """InputError for a text that is too short to protect anything, or too long."""
        self.text = text = text.strip()
        try:
            # One keyboard writes é as one character, another as e and an accent: the same words. What was typed
            # comes second, for slots older than this rule.
            forms = [unicodedata.normalize("NFC", text).encode("utf-8"), text.encode("utf-8")]
        except UnicodeEncodeError:
            raise _not_utf8() from None
        self._forms = list(dict.fromkeys(forms))
        if len(text) < LEAST_PASSPHRASE_CHARS:
            raise InputError(
                f"a passphrase has {LEAST_PASSPHRASE_CHARS} characters or more, not {len(text)}",
                mend="take five words that nobody would say of you",
            )
        if max(map(len, forms)) > _LONGEST_PASSPHRASE_BYTES:
            raise InputError(f"a passphrase has no more than {_LONGEST_PASSPHRASE_BYTES} bytes")

    @classmethod
    def from_bytes(cls, data: bytes) -> Passphrase:
        """UTF-8, whatever the locale: guessing the encoding would make other words of it."""
        try:
            return cls(data.decode("utf-8"))
        except UnicodeDecodeError:
            raise _not_utf8() from None

    def __repr__(self) -> str:
        return "Passphrase(…)"

    def stretched(self, salt: bytes, log2_n: int) -> list[bytes]:
        """The 32 bytes that wrap, by scrypt: 16 MiB and some tenths of a second, once per opening.

        TamperedError for an effort that no slot of ours asks for. A second one only where the words were typed otherwise than in NFC (Unicode Annex 15).
        """
        if not 0 < log2_n <= MAX_SCRYPT_LOG2_N or len(salt) != SALT_BYTES:
            raise TamperedError("asks for an effort that is none of ours", where="slots")
        return [Scrypt(salt, KEY_BYTES, 1 << log2_n, _SCRYPT_R, _SCRYPT_P).derive(f) for f in self._forms]


def _not_utf8() -> InputError:
    return InputError("a passphrase is UTF-8 text", mend="use a UTF-8 terminal or file")


Secret = bytes | Passphrase


def load_key(path: Path, environ: Mapping[str, str] = os.environ, *, private: bool = True) -> bytes:
    """The key named by ``path``: ``$CREDENTIALS_DIRECTORY/<file name>`` when it is there, else the file.

    The file holds 32 raw bytes, or 64 hexadecimal digits as on a paper backup. InputError says what is wrong
    with it and how to mend it. Not ``private``: for comparing only, whoever else may read it.
    """
    try:
        data, place = _load(path, environ, _LONGEST_FILE_BYTES, private)
    except FileNotFoundError:
        raise _no_key(path) from None
    return _parse(data, place)


def load_passphrase(
    path: Path, environ: Mapping[str, str] = os.environ, *, private: bool = True
) -> Passphrase:
    """The passphrase named by ``path``, found as a key is; white space around it does not count."""
    try:
        data, place = _load(path, environ, _LONGEST_PASSPHRASE_BYTES, private)
    except FileNotFoundError:
        mend = "write the passphrase there again (mode 0600); a new store opens with the one that it finds"
        raise InputError("no passphrase file", where=str(path), mend=mend) from None
    try:
        return Passphrase.from_bytes(data)
    except InputError as err:
        raise InputError(err.what, where=str(place), mend=err.mend) from None


def create_key(path: Path) -> bytes:
    """A new random key, durably in ``path`` with mode 0600. InputError when the file exists: keys are kept."""
    key = secrets.token_bytes(KEY_BYTES)
    try:
        if not path.parent.is_dir():  # perhaps a slip of the pen, which would hide the key
            mend = f"check the name, or mkdir -p {path.parent}"
            raise InputError("no such folder", where=str(path.parent), mend=mend)
        try:
            _write_whole(path, key)
        except FileExistsError:
            raise InputError(
                "a key exists already and is kept", where=str(path), mend="move it away to make a new one"
            ) from None
        # The name must survive a power cut as well: without the key the store is lost.
        sync_folder(path.parent)
    except OSError as err:
        raise InputError(f"key cannot be written: {err.strerror}", where=str(path)) from None
    return key


def _write_whole(path: Path, data: bytes) -> None:
    """``data`` gets the name ``path`` once it is durable: a full disk or a power cut leaves no empty key behind."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except OSError as err:
            if err.errno not in NO_LINKS:
                raise
            path.touch(0o600, exist_ok=False)
            os.replace(fresh, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)


def shred(path: Path) -> bool:
    """Overwrite and remove a file; False when there was none. A link goes, what it names stays.

    On flash the old bytes may live on in cells that nothing addresses any more: that is why a store's keys are
    only ever on the card wrapped, and why the key file should be a credential of the TPM where there is one.
    """
    overwritten = False
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
            return True
        with os.fdopen(open_regular(path, os.O_RDWR), "r+b", buffering=0) as file:
            _overwrite(file.fileno())
        overwritten = True
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return False
    except OSError as err:
        what = (
            "is overwritten, so what it held is gone, but cannot be removed"
            if overwritten
            else "cannot be destroyed"
        )
        rights = "see to the rights of its folder" if overwritten else "remove it yourself"
        mend = f"{rights}, then erase again, which finishes"
        raise InputError(f"{what}: {err.strerror}", where=str(path), mend=mend) from None
    return True


def _overwrite(handle: int) -> None:
    """What a file holds; its holes hold nothing, and a hostile one has terabytes of them."""
    size, end = os.fstat(handle).st_size, 0
    while end < size:
        begin = _next(handle, end, os.SEEK_DATA, size)
        end = _next(handle, begin, os.SEEK_HOLE, size)
        for at in range(begin, end, 1 << 20):
            os.pwrite(handle, secrets.token_bytes(min(1 << 20, end - at)), at)
    os.fsync(handle)


def _next(handle: int, at: int, what: int, size: int) -> int:
    """Where the next data, or hole, at or after ``at`` begins; ``size`` when there is none."""
    try:
        return min(os.lseek(handle, at, what), size)
    except OSError as err:
        if err.errno == errno.ENXIO:  # only a hole is left, or nothing
            return size
        return at if what == os.SEEK_DATA else size  # a file system that does not tell: all is data


def shred_unfinished(folder: Path) -> list[Path]:
    """Destroy the keys in ``folder`` whose writing was cut: they got no name. Returns what is gone."""
    return [path for path in sorted(folder.glob(_UNFINISHED + "*")) if shred(path)]


def replace_overwriting(path: Path, fresh: Path) -> None:
    """``fresh`` takes the name ``path``, durably; what lay there is overwritten then, unless it has other names.

    As with ``shred``, that reaches the old bytes only where a file system and a disk write in place.
    """
    try:
        old = open_regular(path, os.O_WRONLY)
    except (OSError, InputError):
        old = None  # no file there, or one that we may replace but not write
    try:
        fresh.replace(path)
        sync_folder(path.parent)
        if old is not None and not os.fstat(old).st_nlink:
            with contextlib.suppress(OSError):
                _overwrite(old)
    finally:
        if old is not None:
            os.close(old)


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _load(path: Path, environ: Mapping[str, str], longest: int, private: bool) -> tuple[bytes, Path]:
    credential = _credential(path.name, environ)
    if credential is not None:
        # systemd owns these files: its modes differ between versions (0400, or 0440 with an ACL).
        return _read(credential, longest, private=False), credential
    return _read(path, longest, private=private), path


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        return None
    path = Path(folder) / name
    return path if is_there(path) else None


def _read(path: Path, longest: int, *, private: bool) -> bytes:
    try:
        # Whoever opens a pipe waits for its other end for ever, unless told not to. A link may name a key: it is followed.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            # Of the opened file, so that nobody can exchange it between the check and the reading.
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InputError("key is not a regular file", where=str(path), mend="give a file of 32 bytes")
            if private:
                _check_private(path, facts)
            return file.read(longest + 1)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise InputError(
            f"key cannot be read: {err.strerror}", where=str(path), mend="check its owner and mode"
        ) from None


def _no_key(path: Path) -> InputError:
    """What to do differs: a new key is the wrong answer where a sealed one lies, and for a store that is there."""
    sealed = path.with_name(path.name + SEALED_SUFFIX)
    if is_there(sealed):
        return InputError(
            f"the key is sealed in {sealed.name}, which only systemd opens, for the hub",
            where=str(path),
            mend="ask the running hub; if it cannot start, systemctl status hometwin-hub says why, and hometwin keys "
            "recover makes a new key by the passphrase",
        )
    return InputError(
        "no key file",
        where=str(path),
        mend="put its copy back, or hometwin keys recover by the passphrase; for a new store: hometwin keys new",
    )


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
        f"key file holds {size} bytes, not {KEY_BYTES}",
        where=str(path),
        mend="it is 32 raw bytes, or 64 hexadecimal digits and nothing else: restore it from its backup",
    )
