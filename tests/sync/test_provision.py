"""Provisioning: complete, private, repeatable, and it never replaces what a person could not get back."""

from __future__ import annotations

import datetime as dt
import os
import ssl
import stat
from pathlib import Path

import pytest
import structlog
from cryptography import x509

from core.errors import ConfigError, EnvironmentMissing
from sync.keyfiles import read_envelope_key, read_signing_key, read_verify_key
from sync.mqtt import BrokerAddress
from sync.provision import provision

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FILES = {
    "authority": {"ca.crt", "ca.key"},
    "broker": {"ca.crt", "server.crt", "server.key", "mosquitto.conf", "acl"},
    "cloud": {"ca.crt", "client.crt", "client.key", "signing.key", "signing.pub", "database.key"},
    "cloud/hubs": {"hub-1.key"},
    "hubs/hub-1": {"ca.crt", "client.crt", "client.key", "envelope.key", "cloud.pub", "store.key"},
}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "house"


def test_all_files_are_made_and_only_their_owner_reads_them(root: Path) -> None:
    made = provision(root, ["hub-1"], "broker.local", 8883, NOW)
    for folder, names in FILES.items():
        assert {p.name for p in (root / folder).iterdir() if p.is_file()} == names
    assert len(made) == sum(map(len, FILES.values()))
    for path in root.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_running_it_again_changes_nothing(root: Path) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    before = contents(root)
    assert provision(root, ["hub-1"], "broker.local", 8883, NOW) == []
    assert contents(root) == before


def test_a_new_hub_is_added_and_the_old_one_stays(root: Path) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    before = contents(root)
    provision(root, ["hub-2"], "broker.local", 8883, NOW)
    after = contents(root)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"broker/acl"}
    acl = after["broker/acl"].decode()
    assert "user hub-1" in acl
    assert "user hub-2" in acl


def test_a_key_that_everybody_may_read_is_told_and_used(root: Path) -> None:
    """A hub that does not start warns nobody of a low."""
    provision(root, ["hub-1"], "127.0.0.1", 8883, NOW)
    hub = root / "hubs" / "hub-1"
    for name in ("envelope.key", "client.key"):
        (hub / name).chmod(0o644)
    with structlog.testing.capture_logs() as said:
        read_envelope_key(hub / "envelope.key")
        BrokerAddress("h", 1, hub / "ca.crt", hub / "client.crt", hub / "client.key").tls_context()
    mends = [entry["mend"] for entry in said if entry["event"] == "key.open_to_others"]
    assert mends == [f"chmod 600 {hub / 'envelope.key'}", f"chmod 600 {hub / 'client.key'}"]


@pytest.mark.parametrize("lost", sorted(f"{d}/{n}" for d, names in FILES.items() for n in names))
def test_any_lost_file_is_made_again_and_fits_the_rest(root: Path, lost: str) -> None:
    provision(root, ["hub-1"], "127.0.0.1", 8883, NOW)
    (root / lost).unlink()
    if lost == "authority/ca.key":
        with pytest.raises(ConfigError, match="authority's key is lost"):
            provision(root, ["hub-1"], "127.0.0.1", 8883, NOW)
        return
    provision(root, ["hub-1"], "127.0.0.1", 8883, NOW)
    hub, cloud = root / "hubs" / "hub-1", root / "cloud"
    for folder in (hub, cloud):
        BrokerAddress("h", 1, folder / "ca.crt", folder / "client.crt", folder / "client.key").tls_context()
    assert read_envelope_key(hub / "envelope.key") == read_envelope_key(cloud / "hubs" / "hub-1.key")
    public = read_signing_key(cloud / "signing.key").public_key().public_bytes_raw()
    assert read_verify_key(cloud / "signing.pub").public_bytes_raw() == public
    assert read_verify_key(hub / "cloud.pub").public_bytes_raw() == public
    for leaf in (hub / "client.crt", cloud / "client.crt", root / "broker" / "server.crt"):
        certificate(leaf).verify_directly_issued_by(certificate(hub / "ca.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "broker" / "server.crt", root / "broker" / "server.key")


def test_names_and_addresses_are_in_the_certificates(root: Path) -> None:
    provision(root, ["hub-1"], "192.168.1.20", 8883, NOW)
    server = certificate(root / "broker" / "server.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(a) for a in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1", "192.168.1.20"}
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    client = certificate(root / "hubs" / "hub-1" / "client.crt")
    assert client.subject.rfc4514_string() == "CN=hub-1"
    authority = certificate(root / "authority" / "ca.crt")
    client.verify_directly_issued_by(authority)
    server.verify_directly_issued_by(authority)


def test_another_host_gives_the_broker_another_certificate_and_nobody_else(root: Path) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    before = contents(root)
    provision(root, ["hub-1"], "elsewhere.local", 8883, NOW)
    after = contents(root)
    assert {n for n in before if before[n] != after[n]} == {"broker/server.crt"}


def test_certificates_about_to_expire_are_issued_anew_for_the_same_keys(root: Path) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    before = contents(root)
    provision(root, ["hub-1"], "broker.local", 8883, NOW + dt.timedelta(days=3600))
    after = contents(root)
    assert {n for n in before if before[n] != after[n]} == {
        "broker/server.crt",
        "cloud/client.crt",
        "hubs/hub-1/client.crt",
    }


@pytest.mark.parametrize("hub_id", ["", "Hub", "a/b", "../x", "a" * 33, "-a", "cloud", "a b", "hub#", "+"])
def test_a_name_that_could_reach_other_topics_or_files_is_refused(root: Path, hub_id: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a hub"):
        provision(root, [hub_id], "broker.local", 8883, NOW)
    assert not root.exists()


def test_a_host_or_port_that_is_none_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="host"):
        provision(root, ["hub-1"], "a\nlistener 1883", 8883, NOW)
    with pytest.raises(ConfigError, match="port"):
        provision(root, ["hub-1"], "broker.local", 0, NOW)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMissing, match="file"):
        provision(tmp_path / "file" / "house", ["hub-1"], "broker.local", 8883, NOW)


def test_a_damaged_key_is_named_and_kept(root: Path) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    path = root / "authority" / "ca.key"
    path.write_bytes(b"garbage")
    with pytest.raises(ConfigError, match=r"ca\.key"):
        provision(root, ["hub-1"], "broker.local", 8883, NOW)
    assert path.read_bytes() == b"garbage"


@pytest.mark.parametrize("end", ["hubs/hub-1/envelope.key", "cloud/hubs/hub-1.key"])
@pytest.mark.parametrize("data", [b"short", b"k" * 32])
def test_a_hubs_key_that_is_not_the_same_at_both_ends_is_named(root: Path, end: str, data: bytes) -> None:
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    (root / end).write_bytes(data)
    before = contents(root)
    with pytest.raises(ConfigError, match=f"{end}.*remove the one that is wrong"):
        provision(root, ["hub-1"], "broker.local", 8883, NOW)
    assert contents(root) == before
    (root / end).unlink()
    provision(root, ["hub-1"], "broker.local", 8883, NOW)


def test_a_line_in_the_folders_name_cannot_become_a_setting_of_the_broker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="printable"):
        provision(tmp_path / "a\nallow_anonymous true\n", ["hub-1"], "broker.local", 8883, NOW)
    assert list(tmp_path.iterdir()) == []


def test_private_keys_never_exist_with_a_wider_mode(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.open

    def watched(path, flags, mode=0o777, **more):
        if str(path).endswith(".new"):
            modes.append(mode)
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", watched)
    provision(root, ["hub-1"], "broker.local", 8883, NOW)
    assert set(modes) == {0o600}
