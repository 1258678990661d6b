"""sd_notify without a library: one datagram to the socket that systemd names."""

from __future__ import annotations

import os
import socket


def notify_systemd(state: str) -> None:
    """Tell systemd ``READY=1`` or ``WATCHDOG=1``; does nothing when not started by systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(address)
            sender.sendall(state.encode())
        except OSError:
            # systemd will notice our silence itself; a missed ping must not stop the hub.
            return
