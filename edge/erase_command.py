"""``hometwin erase``: the person's record on this hub is gone, for everybody and for ever."""

from __future__ import annotations

import contextlib

from core.errors import InputError, StoreBusyError, StoreError
from edge.config import HubConfig
from edge.desk import at_the_desk
from edge.keys_command import NEXT_SUFFIX
from edge.store.database import WriterLock
from edge.store.files import is_there
from edge.store.keyring import destroy_files, erasing
from edge.store.keys import shred, shred_unfinished

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
    try:
        with at_the_desk(config) as ask:
            gone = ask({"do": "erase", "confirm": confirmed})["gone"]
    except (InputError, StoreError) as err:
        begun = is_there(config.store_path) or is_there(erasing(config.store_path))
        if isinstance(err, StoreBusyError) or not begun:
            raise
        # No key opens it, or it is of a newer program: what cannot be read can be destroyed all the same.
        with contextlib.closing(WriterLock(config.store_path)):
            gone = destroy_files(config.store_path)
    lines = [f"destroyed {name}" for name in gone]
    names = (config.store.key_file, config.store.key_file + NEXT_SUFFIX, config.store.passphrase_file)
    lines += [f"destroyed {config.path(name)}" for name in names if name and shred(config.path(name))]
    lines += [f"destroyed {path}" for path in shred_unfinished(config.path(config.store.key_file).parent)]
    shred(erasing(config.store_path))
    return [*lines, "the record cannot be read any more; destroy backups of the key as well"]
