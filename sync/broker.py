"""Starts and stops a Mosquitto of our own (demo, tests). In production the system's service runs it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

from core.errors import ConfigError, EnvironmentMissing

# Debian puts it into /usr/sbin, which is not on an ordinary account's path.
EXTRA_PATH: Final = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0  # it writes its persistence file on the way out
POLL_S: Final = 0.02
LOG_NAME: Final = "mosquitto.log"


class Broker:
    """A running Mosquitto. Its output lies in ``mosquitto.log`` beside the configuration."""

    def __init__(self, conf: Path, process: subprocess.Popen[bytes], address: str, port: int) -> None:
        self.conf = conf
        self.process = process
        self.address = address
        self.port = port

    @property
    def pid(self) -> int:
        return self.process.pid

    def reload(self) -> None:
        """Read the ACL again (after a hub was added or taken out)."""
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """As a power cut would: nothing is saved."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Save and end; kill after STOP_TIMEOUT_S."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()


def find_mosquitto() -> str:
    """The path of the broker's program; EnvironmentMissing when it is not installed."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *EXTRA_PATH))
    found = shutil.which("mosquitto", path=path)
    if found is None:
        raise EnvironmentMissing("mosquitto is not installed", mend="apt install mosquitto")
    return found


def start_broker(conf: Path) -> Broker:
    """Start Mosquitto with ``conf`` and return once it accepts connections.

    Raises ConfigError (no such file), EnvironmentMissing (not installed, port taken, refuses to start).
    """
    program = find_mosquitto()
    address, port = _listener(conf)
    _check_port_free(address, port)
    with open(conf.parent / LOG_NAME, "ab") as log:
        start = log.tell()
        process = subprocess.Popen(  # noqa: S603 - the program is found above, the file is ours
            [program, "-c", str(conf)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    broker = Broker(conf, process, address, port)
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise EnvironmentMissing(
                f"mosquitto ended at once: {_first_error(conf.parent / LOG_NAME, start)}",
                where=str(conf),
                mend="see mosquitto.log beside it",
            )
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return broker
        if time.monotonic() > deadline:
            broker.kill()
            raise EnvironmentMissing(
                f"mosquitto did not listen within {START_TIMEOUT_S:g} s", where=str(conf)
            )
        time.sleep(POLL_S)


def _listener(conf: Path) -> tuple[str, int]:
    try:
        text = conf.read_text(encoding="utf-8")
    except OSError as err:
        raise ConfigError(
            f"cannot be read: {err.strerror}", where=str(conf), mend="run 'hometwin provision'"
        ) from None
    found = re.search(r"^listener (\d+)(?: (\S+))?$", text, re.MULTILINE)
    if found is None:
        raise ConfigError("names no listener", where=str(conf), mend="run 'hometwin provision'")
    return found[2] or "127.0.0.1", int(found[1])


def _check_port_free(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As Mosquitto does: a port whose last connections are closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as err:
            raise EnvironmentMissing(
                f"port {port} cannot be used: {err.strerror}",
                where="broker",
                mend="stop the other program, or choose another port",
            ) from None


def _first_error(log: Path, start: int) -> str:
    lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if "Error" in line] or lines
    return re.sub(r"^\d+: ", "", errors[0])[:200] if errors else "it said nothing"
