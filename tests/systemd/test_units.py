"""The units are valid, as closed as they claim, and the hub really lives under its strictest switch."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
# systemd's own scale, 0 (closed) to 10, times ten. What remains is named in the units: hub and cloud need the
# Internet, the engine its compiler and a lower priority for its night's work. A switch lost adds 1 to 3.
MOST_EXPOSURE = {"hometwin-hub": 11, "hometwin-engine": 3, "hometwin-cloud": 11}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing (mend: apt install systemd)")
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)


def settings(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"{name}.service")
    return parser["Service"]


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in SERVICES] == sorted(MOST_EXPOSURE)


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    copies = []
    for unit in SERVICES:
        # The program itself is not installed where tests run.
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    done = run(tool("systemd-analyze"), "verify", "--man=no", *copies)
    ours = [line for line in done.stderr.splitlines() if "hometwin" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_exposure_stays_below_its_limit(unit: Path) -> None:
    limit = MOST_EXPOSURE[unit.stem]
    done = run(
        tool("systemd-analyze"), "security", "--offline=true", "--no-pager", f"--threshold={limit}", unit
    )
    print(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_units_start_the_installed_command(unit: Path) -> None:
    program, command, *options = settings(unit.stem)["ExecStart"].split()
    config = "/etc/hometwin/cloud.toml" if command == "cloud" else "/etc/hometwin/hub.toml"
    assert program == "/opt/hometwin/bin/hometwin"
    assert unit.stem == f"hometwin-{command}"
    assert options == ["--config", config]


def test_the_hub_is_watched_and_gets_its_key_as_a_credential() -> None:
    hub = settings("hometwin-hub")
    assert hub["Type"] == "notify"
    assert int(hub["WatchdogSec"]) <= 60
    assert "LoadCredential=store.key:/etc/hometwin/store.key" in (UNITS / "hometwin-hub.service").read_text()
    assert (hub["StateDirectory"], hub["RuntimeDirectory"]) == ("hometwin", "hometwin")


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_memory_reaches_neither_a_core_dump_nor_swap(unit: Path) -> None:
    """The processes see to it themselves too (tests/edge/test_process.py), hub and engine if they may lock."""
    service = settings(unit.stem)
    assert (service["LimitCORE"], service["MemorySwapMax"]) == ("0", "0")
    if unit.stem != "hometwin-cloud":
        assert service["LimitMEMLOCK"] == "infinity"


def test_the_cloud_may_open_well_more_than_the_portal_takes() -> None:
    """256 connections, and no more than a quarter (cloud/portal/connections.py)."""
    assert int(settings("hometwin-cloud")["LimitNOFILE"]) >= 2 * 4 * 256


def test_only_what_compiles_may_write_code() -> None:
    assert settings("hometwin-hub")["MemoryDenyWriteExecute"] == "yes"
    for name in ("hometwin-engine", "hometwin-cloud"):
        text = (UNITS / f"{name}.service").read_text()
        reason = re.search(r"^#.*numba.*\nMemoryDenyWriteExecute=no$", text, re.MULTILINE)
        assert reason, f"{name} gives no reason"


def test_the_engine_has_no_network() -> None:
    engine = settings("hometwin-engine")
    assert (engine["PrivateNetwork"], engine["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert "LoadCredential" not in engine


HUB_IMPORTS = """
import ctypes, sys
denied = ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, Linux 6.3
import edge.hub_main
print(denied, *sorted({"numba", "llvmlite", "scipy", "numpy", "sqlite_utils"} & set(sys.modules)))
"""


def test_the_hub_imports_all_its_parts_without_writable_code_and_without_numba() -> None:
    done = run(sys.executable, "-W", "error", "-c", HUB_IMPORTS)
    assert done.returncode == 0, done.stderr
    denied, *loaded = done.stdout.split()
    assert loaded == []
    if denied == "-1":
        pytest.skip("this kernel has no PR_SET_MDWE; the imports alone were checked")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make users and give files away")
def test_users_and_folders_come_out_as_the_units_expect(tmp_path: Path) -> None:
    secret = tmp_path / "etc" / "hometwin" / "store.key"
    secret.parent.mkdir(parents=True)
    secret.write_bytes(b"?" * 32)
    for name, kind in (("systemd-sysusers", "sysusers"), ("systemd-tmpfiles", "tmpfiles")):
        conf = UNITS / f"hometwin.{kind}.conf"
        command = [tool(name), f"--root={tmp_path}", *(["--create"] if kind == "tmpfiles" else []), conf]
        done = run(*command)
        assert done.returncode == 0, done.stderr
    users = (tmp_path / "etc" / "passwd").read_text()
    assert {"hometwin", "hometwin-cloud"} <= {line.split(":")[0] for line in users.splitlines()}
    groups = {
        line.split(":")[0]: line.split(":")[3]
        for line in (tmp_path / "etc" / "group").read_text().splitlines()
    }
    assert groups["bluetooth"] == "hometwin"
    modes = {
        name: oct((tmp_path / name).stat().st_mode & 0o777)
        for name in ("etc/hometwin/store.key", "etc/hometwin/sync", "var/lib/hometwin", "run/hometwin")
    }
    assert modes == {
        "etc/hometwin/store.key": "0o600",
        "etc/hometwin/sync": "0o700",
        "var/lib/hometwin": "0o700",
        "run/hometwin": "0o700",
    }
