"""``hometwin erase``: the person's record on this hub is gone, for everybody and for ever."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from core.errors import InputError, StoreBusyError, StoreError, WrongKeyError
from edge.config import HubConfig
from edge.desk import Ask, at_the_desk
from edge.keys_command import NEXT_SUFFIX, slot_opened_by
from edge.store.database import WriterLock
from edge.store.files import is_there, real_path
from edge.store.keyring import destroy_files, erasing, kept_by_erasing
from edge.store.keys import SEALED_SUFFIX, Secret, load_key, load_passphrase, shred, shred_unfinished
from edge.store.slots import copy_path

WARNING = (
    "This destroys the record of {hub} on this hub: every wrapped key first, then the files and the key file (also sealed, .cred).",
    "Nobody can undo it. Copies that were exported, and what the cloud holds, are not touched.",
)


def erase(config: HubConfig, confirmed: str) -> list[str]:
    """Erase once ``confirmed`` is the hub's name; says what is gone."""
    if confirmed != config.hub_id:
        raise InputError(
            "nothing was erased: the name typed is not the hub's", where="erase", mend=f"type {config.hub_id}"
        )
    # Where the store lies, also when a first attempt was cut off and left a link to nothing.
    place = real_path(config.store_path)
    if place.is_symlink():
        place = Path(os.path.realpath(place))
    kept: list[str] = []  # what lies in a key's place and opens something else
    try:
        with at_the_desk(config) as ask:
            kept = _foreign(config, ask)
            gone = ask({"do": "erase", "confirm": confirmed, "keep": kept})["gone"]
    except (InputError, StoreError) as err:
        begun = is_there(place) or is_there(erasing(place))
        if isinstance(err, StoreBusyError) or not begun:
            raise
        if isinstance(err, WrongKeyError):
            kept = [config.store.passphrase_file or config.store.key_file]
        kept += kept_by_erasing(place)
        # No key opens it, or it is of a newer program: what cannot be read can be destroyed all the same.
        with contextlib.closing(WriterLock(place)):
            gone = destroy_files(place, kept)
    lines = [f"destroyed {name}" for name in gone]
    sealed = config.store.key_file + SEALED_SUFFIX
    names = (config.store.key_file, config.store.key_file + NEXT_SUFFIX, sealed, config.store.passphrase_file)
    for name in filter(None, names):
        path = config.path(name)
        if name in kept:
            lines.append(f"kept {path}: it does not open this record, perhaps it opens something else")
        elif shred(path):
            lines.append(f"destroyed {path}")
    lines += [f"destroyed {path}" for path in shred_unfinished(config.path(config.store.key_file).parent)]
    shred(erasing(place))
    if config.store_path.is_symlink():
        shred(copy_path(config.store_path))  # which earlier versions kept beside the link
        config.store_path.unlink()
    return [*lines, "the record cannot be read any more; destroy backups of the key as well"]


def _foreign(config: HubConfig, ask: Ask) -> list[str]:
    """Of the files that the configuration names as a way in, those that do not open the store at the desk."""
    foreign = []
    ways: dict[str, Callable[..., Secret]] = {
        config.store.key_file: load_key,
        config.store.passphrase_file: load_passphrase,
    }
    for name, load in ways.items():
        path = config.path(name)
        try:
            if name and is_there(path) and slot_opened_by(ask, load(path, {}, private=False)) is None:
                foreign.append(name)
        except InputError:
            foreign.append(name)
    return foreign
