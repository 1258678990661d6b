"""The store's key as an encrypted credential: sealed and opened by systemd's own tool, and the hub's commands take it.

systemd itself decrypts by the same code and puts the result where these tests do, into ``$CREDENTIALS_DIRECTORY``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.config import load_config
from edge.store.keys import create_key, load_key
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock, reading
from tests.systemd.test_units import UNITS, run, tool

ROOT = UNITS.parent
HUB_TOML = 'hub_id = "home"\n[radio]\nadapter = "bumble:tcp-client:127.0.0.1:1"\n'


@dataclass
class House:
    """A hub whose key is on its card only as ``store.key.cred``."""

    folder: Path

    @property
    def sealed(self) -> Path:
        return self.folder / "store.key.cred"

    @property
    def toml(self) -> Path:
        return self.folder / "hub.toml"

    def creds(self, *words: str | Path, machine: str = "this") -> subprocess.CompletedProcess[str]:
        """systemd-creds on a machine, which is its host secret."""
        environ = {**os.environ, "SYSTEMD_CREDENTIAL_SECRET": str(self.folder / f"{machine}.secret")}
        command = [tool("systemd-creds"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)

    def unseal(self) -> Path:
        """What systemd does before it starts the unit: the folder with the credential."""
        credentials = self.folder / "credentials"
        credentials.mkdir()
        done = self.creds("decrypt", "--name=store.key", self.sealed, credentials / "store.key")
        assert done.returncode == 0, done.stderr
        return credentials

    def keys_list(self, credentials: Path | None) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        environ.pop("CREDENTIALS_DIRECTORY", None)
        if credentials:
            environ["CREDENTIALS_DIRECTORY"] = str(credentials)
        command = [sys.executable, "-m", "hometwin", "keys", "list", "--config", str(self.toml)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A store with its key file, which is then sealed to the machine and deleted, as docs/configuration.md says."""
    house = House(tmp_path)
    house.toml.write_text(HUB_TOML)
    config = load_config(house.toml)
    file = config.path("store.key")
    key = create_key(file)
    config.state.mkdir()
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        store.append(reading(n) for n in range(10))
    done = house.creds("encrypt", "--with-key=host", "--name=store.key", file, house.sealed)
    if done.returncode and "not supported" in done.stderr.lower():
        pytest.skip(f"systemd-creds has no key of the host here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    content = file.read_bytes()
    sealed = house.sealed.read_bytes()
    assert key not in sealed
    assert content.strip() not in sealed
    file.unlink()
    return house


def test_a_credential_that_systemd_decrypted_opens_the_store(house: House) -> None:
    without = house.keys_list(None)
    assert without.returncode == 2, without.stdout
    assert "sealed in store.key.cred" in without.stderr
    assert "keys new" not in without.stderr, "a new key would open nothing"
    done = house.keys_list(house.unseal())
    assert done.returncode == 0, done.stderr
    config = load_config(house.toml)
    key = load_key(config.path("store.key"), {"CREDENTIALS_DIRECTORY": str(house.folder / "credentials")})
    with Store.open(config.store_path, key, hub_id="home", clock=FixedClock()) as store:
        assert store.last_row == 10


def test_on_another_machine_under_another_name_or_changed_it_opens_nothing(house: House) -> None:
    """A copy of /etc, or of the credential alone, is of no use."""
    assert house.creds("setup", machine="other").returncode == 0
    changed = house.folder / "changed.cred"
    text = house.sealed.read_text()
    middle = len(text) // 2
    changed.write_text(text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :])
    for what, done in {
        "another machine": house.creds("decrypt", "--name=store.key", house.sealed, "-", machine="other"),
        "another name": house.creds("decrypt", "--name=client.key", house.sealed, "-"),
        "changed": house.creds("decrypt", "--name=store.key", changed, "-"),
    }.items():
        assert (done.returncode != 0, done.stdout) == (True, ""), what


def test_the_drop_in_takes_the_key_from_the_encrypted_credential_alone(tmp_path: Path) -> None:
    unit = tmp_path / "hometwin-hub.service"
    text = (UNITS / unit.name).read_text().replace("/opt/hometwin/bin/hometwin", "/bin/true")
    drop_in = (UNITS / "hometwin-hub.encrypted-key.conf").read_text()
    loads = [line for line in (text + drop_in).splitlines() if line.startswith("LoadCredential")]
    after_reset = loads[loads.index("LoadCredential=") + 1 :]
    assert after_reset == [
        "LoadCredential=sync:/etc/hometwin/sync",
        "LoadCredentialEncrypted=store.key:/etc/hometwin/store.key.cred",
    ]
    unit.write_text(text)
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    (folder / "encrypted-key.conf").write_text(drop_in)
    done = run(tool("systemd-analyze"), "verify", "--man=no", unit)
    ours = [line for line in done.stderr.splitlines() if "hometwin" in line]
    assert (done.returncode, ours) == (0, [])


def test_only_a_start_without_its_credential_is_explained_by_the_drop_in() -> None:
    """Nothing of ours runs when systemd cannot open the key: the line after it tells, and is silent otherwise."""
    drop_in = (UNITS / "hometwin-hub.encrypted-key.conf").read_text()
    (line,) = [x for x in drop_in.splitlines() if x.startswith("ExecStopPost=/bin/sh -c '")]
    script = line.split("'")[1].replace("$$", "$")
    for status in ("243", "0", "1", "2", "TERM", ""):
        done = subprocess.run(
            ["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, env={"EXIT_STATUS": status}
        )
        assert done.returncode == 0
        told = done.stdout.startswith("<3>No alarms") and "hometwin keys recover" in done.stdout
        assert (told, done.stdout == "") == (status == "243", status != "243"), status
