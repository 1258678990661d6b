"""What the owner may ask of a store: keys, audit log, export, erasure. One answer per request, as JSON-able values.

The running hub answers on its control socket; without a hub the command opens the store itself and asks the same
desk. So every command works in both cases, and never needs a second way into the store.
"""

from __future__ import annotations

import base64
import contextlib
import glob
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from core import memory
from core.clock import SystemClock
from core.errors import EnvironmentMissing, InputError, TamperedError
from core.messages import decode, encode
from edge import alarm_record, privacy_gate
from edge.config import HubConfig
from edge.control import ask_hub
from edge.damage import damage_told
from edge.engine_link import SNAPSHOT_BLOB, SavedTwin
from edge.hub_state import DownState, load_state
from edge.store import lost, refill
from edge.store.files import is_there
from edge.store.keyring import ASIDE_SUFFIX
from edge.store.keys import Passphrase, Secret, load_key, load_passphrase
from edge.store.repair import REPAIR_BLOB, open_or_repair
from edge.store.store import Store

Ask = Callable[[dict[str, Any]], dict[str, Any]]
PAGE_ROWS: Final = 1000
PAGE_LINES: Final = 200
PAGE_MESSAGES: Final = 50
# Where the hub remembers what it is about; exported but for what only machines know each other by.
HUB_BLOBS: Final = (REPAIR_BLOB, refill.BLOB, lost.BLOB, privacy_gate.BLOB, alarm_record.BLOB)


class StoreDesk:
    """Answers for one open store. Synchronous: the hub calls it on the store's own thread."""

    def __init__(self, store: Store, hub_id: str) -> None:
        self._store, self._hub_id = store, hub_id
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "keys": self._keys,
            "keys.add": self._add,
            "keys.find": self._find,
            "keys.retire": self._retire,
            "keys.rotate_data": self._rotate_data,
            "audit": self._audit,
            "export": self._export,
            "export.samples": self._samples,
            "export.aggregates": self._aggregates,
            "export.archive": self._archive,
            "export.outbox": self._outbox,
            "memory": self._memory,
            "erase": self._erase,
        }

    @property
    def words(self) -> tuple[str, ...]:
        """All requests that are known here."""
        return tuple(self._answers)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """InputError for a request that cannot be meant."""
        return self._answers[request["do"]](request)

    def _keys(self, _request: dict[str, Any]) -> dict[str, Any]:
        aside = self._set_aside()
        return {
            **self._store.keys.overview(),
            "set_aside": [p.name for p in aside if p.lstat().st_size],
            "set_aside_empty": [p.name for p in aside if not p.lstat().st_size],
        }

    def _set_aside(self) -> list[Path]:
        path = self._store.path
        return sorted(path.parent.glob(glob.escape(path.name + ASIDE_SUFFIX) + "*"))

    def _add(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"slot": self._store.keys.add(_secret(request))}

    def _find(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"slot": self._store.keys.find(_secret(request))}

    def _retire(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"retired": len(self._store.keys.retire(_secret(request)))}

    def _rotate_data(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {"dropped": len(self._store.keys.rotate_data()), "rotating": self._store.keys.rotating}

    def _audit(self, request: dict[str, Any]) -> dict[str, Any]:
        lines = self._store.journal(_number(request, "after"), PAGE_LINES)
        return {"lines": lines, "newest": self._store.journal_hash}

    def _export(self, _request: dict[str, Any]) -> dict[str, Any]:
        store = self._store
        down = load_state(store, "down", DownState)
        data = store.get_blob(SNAPSHOT_BLOB)
        snapshot = base64.b64encode(data).decode() if data is not None else ""
        return {
            "now_us": store.now_us(),
            "rows": store.last_row,
            "missing": store.missing_rows(),
            "generation": store.generation,
            "amended": [[*key, row] for key, row in store.amended_rows()],
            "audit_newest": store.journal_hash,
            "advice": jsonable(down.advice, none=True),
            "advice_notes": jsonable(
                down.notes, none=True
            ),  # what became of each, and what the person says was taken
            "policy": jsonable(down.policy, none=True),
            "areas": list(store.archive.sizes()),
            "prior": jsonable(down.prior, none=True),
            "snapshot": snapshot,
            "hub": {name: readable(data) for name in HUB_BLOBS if (data := store.get_blob(name)) is not None},
            "set_aside": [path.name for path in self._set_aside()],
        }

    def _samples(self, request: dict[str, Any]) -> dict[str, Any]:
        rows = self._store.read(_number(request, "after"), PAGE_ROWS)
        return {"samples": [[row, *jsonable(sample)] for row, sample in rows]}

    def _aggregates(self, request: dict[str, Any]) -> dict[str, Any]:
        records = self._store.thinner.read(_number(request, "after"), 1)
        return {
            "aggregates": [
                [number, s.source, s.kind, s.width_us, jsonable(s.buckets, none=True)]
                for number, series in records
                for s in series
            ]
        }

    def _archive(self, request: dict[str, Any]) -> dict[str, Any]:
        kept = self._store.archive.read(str(request.get("area")), _number(request, "after"), PAGE_LINES)
        return {
            "items": [
                {"number": n, "time_us": time_us, "content": readable(data)} for n, time_us, data in kept
            ]
        }

    def _outbox(self, request: dict[str, Any]) -> dict[str, Any]:
        waiting = self._store.pending(PAGE_MESSAGES, _number(request, "after"))
        return {"messages": [{"number": number, **_without_samples(data)} for number, data in waiting]}

    def _memory(self, _request: dict[str, Any]) -> dict[str, Any]:
        data = self._store.get_blob(SNAPSHOT_BLOB)
        saved = decode(data, SavedTwin) if data is not None else None
        known = memory.from_bytes(saved.memory) if saved is not None and saved.memory else memory.Memory()
        return {
            "now_us": self._store.now_us(),
            "memory": jsonable(known),
            "bytes": self._store.archive.sizes(),
        }

    def _erase(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("confirm") != self._hub_id:
            raise InputError("erasing needs the hub's name as confirmation", where="erase.confirm")
        keep = request.get("keep", [])
        if not isinstance(keep, list) or not all(isinstance(name, str) for name in keep):
            raise InputError("must be a list of names", where="erase.keep")
        return {"gone": self._store.keys.erase(keep)}


def _secret(request: dict[str, Any]) -> Secret:
    words, key = request.get("passphrase"), request.get("key")
    if isinstance(words, str):
        return Passphrase(words)
    try:
        return bytes.fromhex(key) if isinstance(key, str) else b""
    except ValueError:
        raise InputError("must be hexadecimal", where="keys.key") from None


def jsonable(value: Any, *, none: bool = False) -> Any:
    """Values that JSON can hold: numbers that are not finite become text, or null when ``none``."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if none else repr(value)
    if isinstance(value, dict):
        return {k: jsonable(v, none=none) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v, none=none) for v in value]
    return (
        value
        if isinstance(value, (int, float, str, type(None)))
        else jsonable(msgspec.to_builtins(value), none=none)
    )


def readable(data: bytes) -> Any:
    """A MessagePack item of the store as JSON; other bytes as base64."""
    try:
        return jsonable(msgspec.msgpack.decode(data), none=True)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
        return {"base64": base64.b64encode(data).decode()}


def _without_samples(data: bytes) -> dict[str, Any]:
    """A message to the cloud; of readings only their number, as they are exported anyway."""
    try:
        message = msgspec.msgpack.decode(data)
        count = len(message.pop("samples"))
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {"message": readable(data)}
    return {"message": jsonable(message, none=True), "samples": count}


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise InputError("must be a whole number", where=name)
    return value


def load_secret(config: HubConfig) -> Secret:
    """What the configuration says opens the store."""
    if config.store.passphrase_file:
        return load_passphrase(config.path(config.store.passphrase_file))
    return load_key(config.path(config.store.key_file))


def hub_answers(config: HubConfig) -> bool:
    """Whether a hub runs; InputError when it does not answer us."""
    try:
        ask_hub(config.control_socket, {"do": "keys"})
    except EnvironmentMissing:
        return False
    return True


@contextlib.contextmanager
def at_the_desk(config: HubConfig, secret: Secret | None = None) -> Iterator[Ask]:
    """A way to ask: the running hub, or the store itself when no hub runs (opened by ``secret``)."""
    if hub_answers(config):
        yield lambda request: ask_hub(config.control_socket, request)
        return
    if not is_there(config.store_path):
        raise InputError(
            "no store here, and no hub runs", where=str(config.store_path), mend="check --config"
        )
    clock = SystemClock(time.time_ns)
    key = load_secret(config) if secret is None else secret
    store, repair = open_or_repair(config.store_path, key, hub_id=config.hub_id, clock=clock)
    with store:
        if repair is not None:
            store.put_blob(REPAIR_BLOB, encode(repair))  # the hub tells it when it starts
        desk = StoreDesk(store, config.hub_id)

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            try:
                answer = desk.answer(request)
            except TamperedError as err:  # the store was sound when it was opened
                mend = "say the same again: the store is repaired when it is opened"
                raise damage_told(err, config.store_path, mend) from None
            if request["do"] == "keys.rotate_data":
                while store.keys.reseal():
                    pass
                answer["rotating"] = False
            return answer

        yield ask
