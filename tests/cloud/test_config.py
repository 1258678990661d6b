"""The cloud's TOML: typed, and every mistake is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.config import load_config
from core.errors import ConfigError

GOOD = """
timezone = "Europe/London"
[database]
url = "sqlite:///data/cloud.sqlite"
[mqtt]
host = "broker.local"
[advice]
approval = "demo"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cloud.toml"
    path.write_text(text)
    return path


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.path(config.mqtt.ca) == tmp_path / "ca.crt"
    assert config.database_url == f"sqlite:///{tmp_path}/data/cloud.sqlite"
    assert (config.mqtt.port, config.advice.approval, config.zone.key) == (8883, "demo", "Europe/London")


@pytest.mark.parametrize("url", ["postgresql://u@h/db", "sqlite:////var/lib/x.sqlite", "sqlite://"])
def test_other_urls_stay_as_they_are(tmp_path: Path, url: str) -> None:
    text = GOOD.replace("sqlite:///data/cloud.sqlite", url)
    assert load_config(write(tmp_path, text)).database_url == url


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[mqtt]\nhost = 'h'\nprot = 1", "prot"),
        ("typo = 1\n[mqtt]\nhost = 'h'", "typo"),
        ("[mqtt]\nhost = 'h'\nport = 0", "mqtt.port"),
        ("[mqtt]\nhost = 'h'\nport = 'x'", "mqtt.port"),
        ("[database]\nurl = 'x'", "mqtt"),
        ("[mqtt]\nhost = 'h'\n[advice]\napproval = 'nobody'", "advice.approval"),
        ("timezone = 'Mars/Base'\n[mqtt]\nhost = 'h'", "timezone"),
        ("timezone = '../etc'\n[mqtt]\nhost = 'h'", "timezone"),
        ("base = '/'\n[mqtt]\nhost = 'h'", "base"),
        ("[mqtt\nhost", "line 1"),
        ("timezone = 'Europe'\n[mqtt]\nhost = 'h'", "timezone"),
        (f"timezone = '{'x' * 300}'\n[mqtt]\nhost = 'h'", "timezone"),
        ("timezone = ''\n[mqtt]\nhost = 'h'", "timezone"),
        (f"x = {'[' * 20_000}{']' * 20_000}", "nested too deeply"),
        (f"x = {'9' * 5000}", "too many digits"),
        ("[mqtt]\nhost = 'h'\nca = \"a\\u0000b\"", "mqtt.ca"),
        ("x = " + "{a = " * 20_000 + "1" + "}" * 20_000, "nested too deeply"),
        ("[mqtt]\nhost = 'h'\n[web]\ntrusted_proxy = 'proxy.local'", "web.trusted_proxy"),
        ("[mqtt]\nhost = 'h'\n[web]\ntrusted_proxy = '*'", "web.trusted_proxy"),
    ],
)
def test_a_mistake_is_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    assert named in str(caught.value)
    assert "cloud.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "cloud.toml")


def test_the_log_level_and_the_trusted_proxy_are_read(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, 'log_level = "debug"\n' + GOOD + '[web]\ntrusted_proxy = "::1"\n'))
    assert (config.log_level, config.web.trusted_proxy) == ("debug", "::1")
