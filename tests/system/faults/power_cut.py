"""What a power cut leaves of files, rebuilt from the record of every write, sync and rename (disk.py).

A page-cache model, as strict as POSIX allows: what was synced is there; of what was not, each 512-byte sector and
each length may be there or not, in any order. Names (created, renamed, deleted) reach the disk in their order,
at the latest when their folder is synced; a file whose name did not is gone with all it held. SQLite syncs the
folder itself at the first sync of a journal or log that it opened (os_unix.c, UNIXFILE_DIRSYNC).
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import pytest

from tests.system.faults.disk import Disk, Op

SECTOR = 512


class Keep(Enum):
    """What becomes of writes that no sync followed."""

    NONE = "lost"
    SOME = "torn"
    ALL = "kept"


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    waiting: list[Op] = field(default_factory=list)
    first_sync_names: bool = False

    def sync(self) -> None:
        for op in self.waiting:
            _apply(self.synced, op, lambda: True)
        self.waiting.clear()


def _apply(content: bytearray, op: Op, keeps: Callable[[], bool]) -> None:
    if op.kind == "truncate":
        if keeps():
            del content[op.size :]
        return
    for at in range(0, len(op.data), SECTOR):
        if keeps():
            part = op.data[at : at + SECTOR]
            start = op.offset + at
            if len(content) < start:
                content.extend(bytes(start - len(content)))
            content[start : start + len(part)] = part


class PowerCut:
    """Follows the record of a disk; ``cut`` says at any moment what would be left."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        """Begins with these files on the disk."""
        self._names = {name: _File(bytearray(data)) for name, data in (files or {}).items()}
        self._synced_names = dict(self._names)
        self._waiting_names: list[tuple[str, _File | None]] = []  # None: the name is gone

    def follow(self, op: Op) -> None:
        """One more operation has happened."""
        match op.kind:
            case "open":
                if op.name not in self._names:
                    self._name(op.name, _File())
                self._names[op.name].first_sync_names = op.name.endswith(("-wal", "-journal"))
            case "write" | "truncate":
                self._names[op.name].waiting.append(op)
            case "sync":
                file = self._names[op.name]
                file.sync()
                if file.first_sync_names:
                    file.first_sync_names = False
                    self._sync_names()
            case "delete":
                self._name(op.name, None)
                if op.size:
                    self._sync_names()
            case "rename":
                old, new = op.name.split("\0")
                self._name(
                    new, self._names.get(old, _File())
                )  # not seen: never synced, so nothing of it is sure
                self._name(old, None)
            case "sync_folder":
                self._sync_names()

    def cut(self, keep: Keep, rng: random.Random) -> dict[str, bytes]:
        """The files after a power cut now."""
        share = {Keep.NONE: 0.0, Keep.SOME: rng.choice((0.1, 0.5, 0.9)), Keep.ALL: 1.0}[keep]
        names = dict(self._synced_names)
        many = (
            round(share * len(self._waiting_names))
            if keep is not Keep.SOME
            else rng.randint(0, len(self._waiting_names))
        )
        for name, file in self._waiting_names[:many]:
            _rename(names, name, file)
        return {name: self._left(file, share, rng) for name, file in names.items()}

    @staticmethod
    def _left(file: _File, share: float, rng: random.Random) -> bytes:
        content = bytearray(file.synced)
        for op in file.waiting:
            _apply(content, op, lambda: rng.random() < share)
        return bytes(content)

    def _name(self, name: str, file: _File | None) -> None:
        _rename(self._names, name, file)
        self._waiting_names.append((name, file))

    def _sync_names(self) -> None:
        self._synced_names = dict(self._names)
        self._waiting_names.clear()


def _rename(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file


def put_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder hold these files and no others."""
    for old in folder.iterdir():
        old.unlink()
    for name, data in files.items():
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)


def get_files(folder: Path, names: Iterable[str] | None = None) -> dict[str, bytes]:
    """The files of a folder."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if names is None or p.name in names}


def record_names(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember renames, synced files and folder syncs that Python itself does: SQLite does not see them."""
    rename, replace, fsync = os.rename, os.replace, os.fsync

    def noted(call: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        def move(old: Path, new: Path) -> None:
            call(old, new)
            disk.note("rename", f"{Path(old).name}\0{Path(new).name}")

        return move

    def sync(handle: int) -> None:
        fsync(handle)
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            disk.note("sync_folder")
            return
        file = Path(os.readlink(f"/proc/self/fd/{handle}"))
        data = file.read_bytes()
        disk.log += [
            Op("open", file.name),
            Op("truncate", file.name),
            Op("write", file.name, 0, len(data), data),
            Op("sync", file.name),
        ]

    monkeypatch.setattr(os, "rename", noted(rename))
    monkeypatch.setattr(os, "replace", noted(replace))
    monkeypatch.setattr(os, "fsync", sync)
