"""The mark that something was taken from a store and nobody was told yet: without it a cut in between would silence the loss.

It lies beside the store from before a log, or all of it, gets another name until the report of that is durable in the
store. It is empty: a full disk has room for it, and nobody can say anything by it but that there is something to tell.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from edge.store.files import give_to_owner_of, open_new
from edge.store.keys import sync_folder

UNTOLD_SUFFIX: Final = ".untold"


def mark(path: Path) -> None:
    """Durable on return. OSError as the system refuses."""
    if not is_marked(path):
        with os.fdopen(open_new(_at(path)), "wb") as file:
            give_to_owner_of(path if path.exists() else path.parent, file.fileno())
            os.fsync(file.fileno())
    sync_folder(path.parent)  # also of one that an earlier process left there


def is_marked(path: Path) -> bool:
    """Whether the mark of the store at ``path`` is there."""
    with contextlib.suppress(OSError):
        return stat.S_ISREG(_at(path).lstat().st_mode)
    return False


def clear(path: Path) -> None:
    """It is told. Where the system refuses it is told again at the next start."""
    with contextlib.suppress(OSError):
        _at(path).unlink(missing_ok=True)


def _at(path: Path) -> Path:
    return path.with_name(path.name + UNTOLD_SUFFIX)
