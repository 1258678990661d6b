"""Where damaged files go: beside the store, under names that nothing of ours opens."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from pathlib import Path
from typing import Final

from core.clock import Clock
from core.errors import StoreError
from edge.store.files import copy_readable, give_to_owner_of, open_new
from edge.store.keyring import ASIDE_SUFFIX, COPYING_SUFFIX
from edge.store.keys import NO_LINKS, sync_folder
from edge.store.slots import COPY_SUFFIX
from edge.store.untold import mark

KEPT_ASIDE: Final = 3  # damaged files that are kept; the card must not fill with them
WHOLE_SUFFIX: Final = "-whole"  # of a damaged file of which nothing could be carried over
US_PER_MS: Final = 1000
_OURS: Final = re.compile(f"[0-9]{{1,18}}(?:{WHOLE_SUFFIX})?|(?:log|journal)-[0-9]{{1,18}}")


def name_aside(path: Path, clock: Clock) -> Path:
    """A name for the damaged file that nothing has."""
    # Above every other, whatever the clock says: the lowest are forgotten first.
    number = max([1, clock.now_us() // US_PER_MS, *(n + 1 for n, _ in _asides(path))])
    while True:
        aside = path.with_name(f"{path.name}{ASIDE_SUFFIX}{number}")
        # Also what goes with one of which a cut left only that.
        ends = ("", *(WHOLE_SUFFIX + end for end in ("", "-wal", COPY_SUFFIX)))
        if not any(aside.with_name(aside.name + end).exists() for end in ends):
            return aside
        number += 1


def keep_as(path: Path, aside: Path) -> None:
    """A second name for the damaged file, or a copy where the file system knows no second names (FAT, exFAT)."""
    try:
        os.link(path, aside)
    except OSError as err:
        if err.errno not in NO_LINKS:
            raise
    else:
        return
    # The name comes last: a copy that was cut does not pass for the file, which keeps its name until then.
    copy = path.with_name(path.name + COPYING_SUFFIX)
    with os.fdopen(open_new(copy), "wb") as file:
        copy_readable(path, file)
        give_to_owner_of(path, file.fileno())
        file.flush()
        os.fsync(file.fileno())
    if aside.exists():
        raise FileExistsError(errno.EEXIST, "name is taken", str(aside))
    copy.rename(aside)


def set_aside_whole(path: Path, clock: Clock) -> str:
    """Rename the file, its log and the copy of its keys, which may be the only good one: works without any space.

    The mark that this is to be told (untold.py) comes first, where there is room for it.
    """
    aside = name_aside(path, clock)
    aside = aside.with_name(aside.name + WHOLE_SUFFIX)  # the only copy: never forgotten
    with contextlib.suppress(OSError):
        mark(path)
    try:
        # The log first: without its store it is only set aside at the next start.
        for suffix in ("-wal", COPY_SUFFIX, ""):
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.rename(aside.with_name(aside.name + suffix))
        sync_folder(path.parent)
    except OSError as err:
        raise StoreError(
            f"damaged store cannot be set aside: {err.strerror}", where=str(path), mend="check the disk"
        ) from None
    return aside.name


def newest_aside(path: Path) -> str:
    """The name of what was set aside last, a log or a store."""
    found: dict[str, int] = {}
    for file in path.parent.glob(glob.escape(path.name + ASIDE_SUFFIX) + "*"):
        if _OURS.fullmatch(file.name[len(path.name + ASIDE_SUFFIX) :]):  # it is told: nobody else's words
            with contextlib.suppress(OSError):
                found[file.name] = file.lstat().st_ctime_ns  # a name that is given or taken counts
    return max(found, key=lambda name: found[name], default=path.name + "-wal")


def _asides(path: Path) -> list[tuple[int, Path]]:
    """Damaged stores set aside by number, lowest first; logs that were set aside are none."""
    pattern = re.compile(re.escape(path.name + ASIDE_SUFFIX) + "([0-9]{1,18})")
    found = [(pattern.fullmatch(p.name), p) for p in path.parent.iterdir()]
    return sorted((int(match[1]), p) for match, p in found if match)


def forget_oldest(path: Path, keep: int = KEPT_ASIDE) -> list[str]:
    """Damaged files beyond the newest few go; the oldest first. The names of those that went."""
    gone: list[str] = []
    with contextlib.suppress(OSError):
        for _, old in _asides(path)[:-keep]:
            old.unlink()
            gone.append(old.name)
            old.with_name(old.name + "-wal").unlink(missing_ok=True)
    return gone
