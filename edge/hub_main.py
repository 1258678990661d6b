"""The hub's own process: opens what it needs (keys, store, broker credentials) and runs it.

``hometwin hub`` becomes ``python -m edge.hub_main``: a process that carries nothing but the hub.
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # Until the hub has something to end, Ctrl-C ends it at once and without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # hometwin hub holds it back meanwhile

import contextlib
from pathlib import Path

from edge.heap import keep_heap_small

# structlog loads rich to draw coloured tracebacks, which a service never shows, and greenlet where the tests' tools
# have brought it: 5 MiB for as long as the hub lives. It treats both as optional, and None reads as "not installed".
if __name__ == "__main__":
    keep_heap_small()
    for name in ("rich", "greenlet"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]

import structlog

from core.clock import Clock
from core.errors import ConfigError, InputError, TamperedError
from core.patient import Patient
from edge.config import HubConfig, load_config
from edge.desk import load_secret
from edge.hub import Hub
from edge.logs import configure_logs
from edge.notify import notify_systemd
from edge.process import keep_memory_private, process_clock, run_until_signal, with_one_line_errors
from edge.store.repair import open_or_repair
from sync.hub_link import HubLink, link_from_files

log = structlog.get_logger()


def _ask_for_time() -> None:
    """A repair that systemd ends would begin anew at each start."""
    notify_systemd("EXTEND_TIMEOUT_USEC=3600000000")


async def run_hub(config: HubConfig, clock: Clock) -> None:
    """Run the hub until cancelled; anew, with the store repaired, when it was damaged meanwhile."""
    patient = read_patient(config)
    key = load_secret(config)
    while True:
        link = make_link(config, clock)
        path = made_store_path(config)
        store, repair = open_or_repair(path, key, hub_id=config.hub_id, clock=clock, before=_ask_for_time)
        try:
            await Hub(config, store, clock, link, patient, repair).run()
        except BaseExceptionGroup as group:
            if group.split(TamperedError)[1] is not None:
                raise
            log.error("hub.begins_anew")
            # It may have been changed since; where it lay on a stick that was pulled out, the one we hold must do.
            with contextlib.suppress(InputError):
                key = load_secret(config)
        else:
            return


def made_store_path(config: HubConfig) -> Path:
    """Where the store lies, in a folder that exists."""
    try:
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise ConfigError(
            f"cannot make this folder: {err.strerror}", where=f"state_dir {config.state}"
        ) from None
    return config.store_path


def read_patient(config: HubConfig) -> str:
    """The patient file's text, once it is known to be good: the engine parses it again. Empty without one."""
    if config.patient is None:
        return ""
    path = config.path(config.patient)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(
            f"cannot be read: {getattr(err, 'strerror', 'is not UTF-8 text')}",
            where=str(path),
            mend="this is the patient file that hub.toml names as patient",
        ) from None
    try:
        Patient.from_toml(text)
    except ConfigError as err:
        raise ConfigError(f"{err.where}: {err.what}", where=str(path), mend=err.mend) from None
    except RecursionError:
        raise ConfigError("nested too deep", where=str(path)) from None
    return text


def make_link(config: HubConfig, clock: Clock) -> HubLink | None:
    """The link to the cloud, when the configuration has one. Missing or wrong files are named now, not later."""
    sync = config.sync
    if sync is None:
        return None
    return link_from_files(
        config.hub_id,
        sync.host,
        sync.port,
        config.path(sync.ca),
        config.path(sync.cert),
        config.path(sync.key),
        config.path(sync.envelope_key),
        config.path(sync.cloud_key),
        clock,
        allow_clear_commands=config.commands.allow_clear,
    )


def main() -> None:
    """Run the hub whose configuration is the first argument."""
    settings = load_config(Path(sys.argv[1]))
    configure_logs("hub", settings.log_level)
    keep_memory_private(lock=True)
    run_until_signal(run_hub(settings, process_clock()))


if __name__ == "__main__":
    with_one_line_errors(main)
