"""``hometwin erase``: the person's record on this hub is gone, for everybody and for ever."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core.errors import InputError, StoreBusyError, StoreError
from edge.config import HubConfig
from edge.desk import at_the_desk
from edge.keys_command import NEXT_SUFFIX
from edge.store.database import WriterLock
from edge.store.files import is_there, real_path
from edge.store.keyring import destroy_files, erasing
from edge.store.keys import shred, shred_unfinished
from edge.store.slots import copy_path

WARNING = (
    "This destroys the record of {hub} on this hub: every wrapped key first, then the files and the key file.",
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
    try:
        with at_the_desk(config) as ask:
            gone = ask({"do": "erase", "confirm": confirmed})["gone"]
    except (InputError, StoreError) as err:
        begun = is_there(place) or is_there(erasing(place))
        if isinstance(err, StoreBusyError) or not begun:
            raise
        # No key opens it, or it is of a newer program: what cannot be read can be destroyed all the same.
        with contextlib.closing(WriterLock(place)):
            gone = destroy_files(place)
    lines = [f"destroyed {name}" for name in gone]
    names = (config.store.key_file, config.store.key_file + NEXT_SUFFIX, config.store.passphrase_file)
    lines += [f"destroyed {config.path(name)}" for name in names if name and shred(config.path(name))]
    lines += [f"destroyed {path}" for path in shred_unfinished(config.path(config.store.key_file).parent)]
    shred(erasing(place))
    if config.store_path.is_symlink():
        shred(copy_path(config.store_path))  # which earlier versions kept beside the link
        config.store_path.unlink()
    return [*lines, "the record cannot be read any more; destroy backups of the key as well"]
