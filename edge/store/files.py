"""Whether a file is there, when the system may refuse to say, and whose it is."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core.errors import InputError


def is_there(path: Path) -> bool:
    """Whether something is at ``path``; InputError where Path.exists lets the system's refusal through."""
    try:
        return path.exists()
    except OSError as err:
        raise unusable(path, err) from None


def give_to_owner_of(like: Path, new: Path | int) -> None:
    """Root leaves no file behind that the hub's own user cannot open: ``new`` becomes its who owns ``like``."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            facts = os.stat(like)
            os.chown(new, facts.st_uid, facts.st_gid)


def unusable(path: Path, err: OSError) -> InputError:
    """What the system says of ``path``, with the usual cure."""
    mend = "become its owner, or use sudo" if isinstance(err, PermissionError) else ""
    return InputError(f"cannot be used: {err.strerror}", where=str(path), mend=mend)
