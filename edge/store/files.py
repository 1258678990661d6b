"""A store's files: whether one is there, whose it is, and that it is a file and not a trap.

Commands that root runs work in a folder that the hub's user owns: what a link there names may be anybody's, and who
opens a pipe waits for its other end for ever. So nothing here follows a link or opens what is no regular file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from core.errors import InputError

_STEP_BYTES: Final = 1 << 20
_SECTOR_BYTES: Final = 4096  # of disks of today, and our pages


def identity(name: Path | str) -> tuple[int, int] | None:
    """Device and inode of the file of that name; None when there is none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_there(path: Path) -> bool:
    """Whether something is at ``path``; InputError where Path.exists lets the system's refusal through."""
    try:
        return path.exists()
    except OSError as err:
        raise unusable(path, err) from None


def real_path(path: Path | str) -> Path:
    """Where a store lies that is perhaps named by a link: SQLite puts its log there, so all other files go there too.

    A link to nothing stays what it is; opening refuses it. InputError when root would follow somebody's link to a
    file of somebody else.
    """
    path = Path(path).absolute()
    try:
        link = path.lstat()
        if not stat.S_ISLNK(link.st_mode):
            return path
        real = Path(os.path.realpath(path))  # Path.resolve raises at a loop of links
        owner = real.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as err:
        if err.errno == errno.ELOOP:
            return path
        raise unusable(path, err) from None
    if os.geteuid() == 0 and link.st_uid not in (0, owner):
        raise InputError(
            "store is a link of one user to a file of another",
            where=str(path),
            mend="name the file itself as store.path",
        )
    return real


def refuse_odd(path: Path) -> None:
    """InputError when something is at ``path`` that is no regular file; for what SQLite is about to open by its name."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as err:
        raise unusable(path, err) from None
    if not stat.S_ISREG(mode):
        raise _odd(path, mode)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of the regular file at ``path``, made with mode 0600 where ``flags`` ask for it.

    InputError for anything else there, OSError as ``os.open`` raises it.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as err:
        if err.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, a pipe or socket, a folder
            refuse_odd(path)
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise _odd(path, mode)
    return handle


def open_new(path: Path) -> int:
    """A descriptor, for writing, of a new file in place of one that an earlier attempt left behind."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def copy_readable(path: Path, to: BinaryIO) -> int:
    """Copy a file; what the disk cannot read any more becomes zeros. Returns how many bytes did."""
    handle, step, at, bad = open_regular(path, os.O_RDONLY), _STEP_BYTES, 0, 0
    try:
        size = os.fstat(handle).st_size
        while at < size:
            try:
                data = os.pread(handle, min(step, size - at), at)
            except OSError as err:
                if err.errno != errno.EIO:
                    raise
                if step > _SECTOR_BYTES:
                    step = _SECTOR_BYTES
                    continue
                data = bytes(min(step, size - at))
                bad += len(data)
            if not data:
                break  # it was cut meanwhile
            to.write(data)
            at += len(data)
    finally:
        os.close(handle)
    return bad


def is_readable(path: Path, most_bytes: int) -> bool:
    """False when the disk cannot read the file's beginning; what is no file is no trouble."""
    try:
        handle = open_regular(path, os.O_RDONLY)
    except (OSError, InputError):
        return True
    try:
        for at in range(0, min(os.fstat(handle).st_size, most_bytes), _STEP_BYTES):
            os.pread(handle, _STEP_BYTES, at)
    except OSError as err:
        return err.errno != errno.EIO
    finally:
        os.close(handle)
    return True


def _odd(path: Path, mode: int) -> InputError:
    what = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "no regular file"
    return InputError(f"is {what}, where the store has a file", where=str(path), mend="move it away")


def give_to_owner_of(like: Path, new: Path | int) -> None:
    """Root leaves no file behind that the hub's own user cannot open: ``new`` becomes its who owns ``like``.

    Not a file with a second name: that one may be anybody's.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            facts = os.stat(like)
            at = new if isinstance(new, int) else open_regular(new, os.O_RDONLY)
            try:
                if os.fstat(at).st_nlink == 1:
                    os.fchown(at, facts.st_uid, facts.st_gid)
            finally:
                if not isinstance(new, int):
                    os.close(at)


def unusable(path: Path, err: OSError) -> InputError:
    """What the system says of ``path``, with the usual cure."""
    mend = "become its owner, or use sudo" if isinstance(err, PermissionError) else ""
    return InputError(f"cannot be used: {err.strerror}", where=str(path), mend=mend)
