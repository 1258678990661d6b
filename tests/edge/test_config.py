"""The configuration names what is wrong, where, and never guesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from edge.config import load_config

GOOD = """
hub_id = "home"
timezone = "Europe/London"
[[device]]
source = "cgm"
profile = "cgm"
address = "C0:00:00:00:00:01"
passkey = 123456
[sync]
host = "broker.example"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hub.toml"
    path.write_text(text)
    return path


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), {})
    assert config.path(config.store.path) == tmp_path / "replay.sqlite"
    assert config.device[0].passkey == 123456
    assert config.sync is not None
    assert config.sync.port == 8883


def test_a_variable_overrides_a_setting_with_its_own_type(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, GOOD), {"HOMETWIN_SYNC_PORT": "8884", "HOMETWIN_RADIO_ADAPTER": "bumble:x"}
    )
    assert config.sync is not None
    assert config.sync.port == 8884
    assert config.radio.adapter == "bumble:x"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("hub_id = 'home'\ncolour = 1", "unknown key 'colour'"),
        ("hub_id = 'home'\n[sync]\nhost='x'\nprot=1", "sync"),
        ("timezone = 'UTC'", "missing key 'hub_id'"),
        ("hub_id = 'home'\ntimezone = 'Mars/Base'", "Mars/Base"),
        ("hub_id = 'home'\n[alarms]\nlow_mgdl = 300", "thresholds must rise"),
        ("hub_id = 'home'\n[sync]\nhost = 'x'\nport = 99999", "sync.port"),
        ("hub_id = \n", "line 1"),
        ("hub_id = 'home'\nbase = '/'", "'base'"),
        (f"hub_id = 'home'\nx = {'9' * 5000}", "too many digits"),
        ("hub_id = 'home'\nruntime_dir = \"a\\u0000b\"", "runtime_dir"),
        ("hub_id = 'home'\npatient = \"a\\u0000b\"", "patient"),
        ("hub_id = 'home'\n[store]\nkey_file = \"a\\u0000b\"", "store.key_file"),
        (GOOD + "[[device]]\nsource='cgm'\nprofile='cgm'\naddress='C0:00:00:00:00:09'", "share the source"),
    ],
)
def test_a_wrong_file_gives_one_line_that_names_the_place(tmp_path: Path, text: str, names: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), {})
    line = str(caught.value)
    assert names in line
    assert "hub.toml" in line
    assert "\n" not in line
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.toml", {})


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000, "x"])
def test_a_variable_that_is_no_value_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"HOMETWIN_SYNC_PORT: cannot be read"):
        load_config(write(tmp_path, GOOD), {"HOMETWIN_SYNC_PORT": text})


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HOMETWIN_SYNC_PROT"):
        load_config(write(tmp_path, GOOD), {"HOMETWIN_SYNC_PROT": "1"})
