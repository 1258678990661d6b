"""The text of Mosquitto's configuration: TLS only, a certificate for everybody, each hub its own topics."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sync.envelope import MAX_ENVELOPE_BYTES

# Topic and properties of a PUBLISH take less than this beside the envelope.
PACKET_OVERHEAD_BYTES: Final = 1024
# A hub that stays away longer than this gets no more than what the cloud sends again at its return.
SESSION_DAYS: Final = 60
# What one absent client may cost the broker's memory. Beyond it messages are dropped; hub and cloud notice
# the gap and send again.
QUEUE_MESSAGES: Final = 20_000
QUEUE_BYTES: Final = 64 << 20
# A kill -9 loses at most this much of the broker's memory, and the ends then repeat it.
AUTOSAVE_S: Final = 30


def up_topic(hub_id: str) -> str:
    """Hub to cloud. ``+`` for all hubs."""
    return f"hometwin/{hub_id}/up"


def down_topic(hub_id: str) -> str:
    """Cloud to hub."""
    return f"hometwin/{hub_id}/down"


def command_topic(hub_id: str) -> str:
    """Hand entries from other programs of the same house."""
    return f"hometwin/{hub_id}/cmd"


def acl_text(cloud_name: str, hub_ids: Iterable[str]) -> str:
    """Who may do what. A hub that is not listed may connect (its certificate is good) and reach nothing."""
    lines = [
        "# Made by 'hometwin provision'; the user name is the certificate's common name.",
        f"user {cloud_name}",
        f"topic read {up_topic('+')}",
        f"topic write {down_topic('+')}",
    ]
    for hub_id in hub_ids:
        lines += [
            "",
            f"user {hub_id}",
            f"topic write {up_topic(hub_id)}",
            f"topic read {down_topic(hub_id)}",
            # The house's own programs use the hub's certificate, so it writes here too.
            f"topic readwrite {command_topic(hub_id)}",
        ]
    return "\n".join(lines) + "\n"


def broker_config_text(folder: Path, host: str, port: int, user: str) -> str:
    """mosquitto.conf for the files in ``folder``. A loopback host is served on loopback only."""
    address = _loopback(host)
    return f"""\
# Made by 'hometwin provision'; it is written anew each time.
per_listener_settings false
listener {port}{f" {address}" if address else ""}
cafile {folder / "ca.crt"}
certfile {folder / "server.crt"}
keyfile {folder / "server.key"}
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder / "acl"}

persistence true
persistence_location {folder / "data"}/
autosave_interval {AUTOSAVE_S}
persistent_client_expiration {SESSION_DAYS}d

max_queued_messages {QUEUE_MESSAGES}
max_queued_bytes {QUEUE_BYTES}
max_packet_size {MAX_ENVELOPE_BYTES + PACKET_OVERHEAD_BYTES}
max_inflight_messages 64
queue_qos0_messages false
set_tcp_nodelay true
sys_interval 0

# Only read when started as root, which then serves as this account.
user {user}
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""


def _loopback(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    return host if address.is_loopback else ""
