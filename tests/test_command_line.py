"""The command line under odd conditions: what goes wrong is one line, what is printed is the answer and no more."""

from __future__ import annotations

import asyncio
import ctypes
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import hometwin
from core.errors import EnvironmentMissing
from edge.config import HubConfig, load_config
from edge.control import serve_control
from edge.store.keys import create_key
from edge.store.store import Store
from tests.edge.store.conftest import FixedClock

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def hub_toml(tmp_path: Path) -> Path:
    """A minimal hub with a store that holds nothing yet, and no hub running."""
    path = tmp_path / "hub.toml"
    path.write_text('hub_id = "home"\n')
    make_store(load_config(path, {}))
    return path


def make_store(config: HubConfig) -> None:
    key = create_key(config.path(config.store.key_file))
    Store.open(config.store_path, key, hub_id="home", clock=FixedClock()).close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """``run(*words)``: the exit code and what was written to stdout and stderr; never a traceback."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["hometwin", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            hometwin.main()
        out, err = capsys.readouterr()
        code = end.value.code or 0
        assert isinstance(code, int)
        if code and not err.startswith("Usage"):
            assert len(err.splitlines()) == 1, err
        return code, out, err

    ends = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield call
    for number, handler in ends.items():
        signal.signal(number, handler)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


WHATIF = ("whatif", "docs/examples/events.csv.gz", "--from", "2026-01-12T06:00", "--to", "2026-01-12T12:00")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("log",), "log: say what to enter"),
        (("log", "foo", "45"), "log: unknown word 'foo'"),
        (("log", "carbs", "-5"), "log carbs: must be positive"),
        (("log", "fingerstick", "5"), "log smbg_mgdl: is that mmol/L?"),
        (("log", "--delete", "foo"), "log: cannot read the entry 'foo'"),
        (("sim", "foo"), "sim: unknown part 'foo'"),
        ((*WHATIF, "--do", "bolus_u+=1000", "--out", "OUT"), "do bolus_u: is outside 0..100 U"),
        (
            ("replay", WHATIF[1], "--patient", "heavy.toml", "--out", "OUT"),
            "heavy.toml: weight_kg: must lie in",
        ),
        (("replay", WHATIF[1], "--patient", "odd.toml", "--out", "OUT"), "odd.toml: unknown key `foo`"),
        (
            ("trial", "docs/examples/TRIAL.toml", "--scheduler", "foo", "--out", "OUT"),
            "--scheduler: must name",
        ),
    ],
)
def test_an_error_names_its_place_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "heavy.toml").write_text("weight_kg = 7000\n")
    (tmp_path / "odd.toml").write_text("foo = 1\n")
    code, _, err = run(*words)
    assert (code, err.startswith(f"hometwin: {said}")) == (2, True), err


def test_a_passphrase_in_another_encoding_is_refused_not_guessed(
    hub_toml: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "ascii", "surrogateescape"))

    typed(bytes(range(0xC1, 0xCF)) + b"\n")
    code, _, err = run("keys", "passphrase", "-c", hub_toml)
    assert (code, "UTF-8" in err) == (2, True)
    typed("fünf Wörter die niemand kennt\n".encode())
    assert run("keys", "passphrase", "-c", hub_toml)[0] == 0
    (hub_toml.parent / "store.key").unlink()
    typed(b"?" * 14 + b"\n")
    assert run("keys", "recover", "-c", hub_toml)[0] == 2
    typed("fünf Wörter die niemand kennt\n".encode())
    assert run("keys", "recover", "-c", hub_toml)[0] == 0


def test_what_a_command_prints_is_its_answer_alone(hub_toml: Path, run: Run) -> None:
    """Without a hub the command opens the store itself, which is an event and no answer."""
    assert run("keys", "rotate-data", "-c", hub_toml)[0] == 0
    _, out, _ = run("audit", "--json", "-c", hub_toml)
    assert "datakey.begun" in [json.loads(line)["what"] for line in out.splitlines()]
    assert run("keys", "list", "-c", hub_toml)[1].startswith("slot 1: key")


def test_names_that_no_terminal_can_show_are_printed_all_the_same(tmp_path: Path, run: Run) -> None:
    key = tmp_path / os.fsdecode(b"k\xff")
    assert run("keys", "new", key)[0] == 0
    assert key.stat().st_size == 32


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root reads everything, so as root this test gives up that right for a while (Linux capabilities)."""
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    rights = data[0]
    data[0] = rights & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    yield
    data[0] = rights
    assert libc.capset(header, data) == 0


@pytest.mark.usefixtures("nobody")
def test_without_access_each_command_names_the_place_and_the_cure(
    hub_toml: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    closed_hub = tmp_path / "closed.toml"
    closed_hub.write_text('hub_id = "home"\nstate_dir = "closed/state"\nruntime_dir = "closed/run"\n')
    closed.chmod(0)
    socket_only = tmp_path / "socket.toml"
    socket_only.write_text('hub_id = "home"\nstate_dir = "closed/state"\n')
    try:
        for words in (
            ("keys", "list", "-c", socket_only),
            ("audit", "-c", socket_only),
            ("erase", "--confirm", "home", "-c", socket_only),
            ("export", closed / "mine", "-c", hub_toml),
            ("keys", "rotate", "--to", closed / "new.key", "-c", hub_toml),
            ("engine", "-c", closed_hub),
            ("status", "-c", closed_hub),
            ("keys", "list", "-c", closed_hub),
            ("provision", closed / "house", "--hub", "home"),
            ("keys", "new", closed / "a.key"),
        ):
            code, _, err = run(*words)
            assert code == 2, (words, err)
            assert "closed" in err, (words, err)
            assert "no hub answers" not in err, (words, err)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(closed))
        code, _, err = run("keys", "check", tmp_path / "store.key")
        assert (code, "closed/store.key" in err, "sudo" in err) == (2, True, True)
    finally:
        closed.chmod(0o700)


@pytest.mark.usefixtures("nobody")
def test_a_socket_that_another_user_may_serve_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        path.chmod(0)
        with pytest.raises(EnvironmentMissing, match="another process serves"):
            asyncio.run(serve_control(path, lambda _: asyncio.sleep(0, {})))
    assert path.is_socket()


@pytest.mark.usefixtures("nobody")
def test_a_store_that_may_only_be_read_is_told_so(hub_toml: Path, run: Run) -> None:
    store = hub_toml.parent / "state" / "replay.sqlite"
    store.chmod(0o400)
    code, _, err = run("keys", "list", "-c", hub_toml)
    assert (code, "cannot be opened for writing" in err) == (2, True), err


@pytest.mark.usefixtures("nobody")
def test_an_erase_in_a_closed_folder_says_what_is_gone_and_how_to_finish(hub_toml: Path, run: Run) -> None:
    state = hub_toml.parent / "state"
    state.chmod(0o500)
    code, _, err = run("erase", "--confirm", "home", "-c", hub_toml)
    assert (code, "what it held is gone" in err, "erase again, which finishes" in err) == (2, True, True), err
    state.chmod(0o700)
    assert run("erase", "--confirm", "home", "-c", hub_toml)[0] == 0
    assert [p.name for p in state.iterdir()] == ["replay.sqlite.lock"]


def test_who_types_nothing_is_told_that_nothing_was_erased(
    hub_toml: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    code, _, err = run("erase", "-c", hub_toml)
    assert (code, "nothing was erased" in err) == (2, True), err


def test_what_is_no_key_and_where_none_can_be_made(hub_toml: Path, tmp_path: Path, run: Run) -> None:
    zero = tmp_path / "zero.key"
    zero.write_bytes(bytes(32))
    zero.chmod(0o600)
    code, _, err = run("keys", "check", zero)
    assert (code, "is no key" in err) == (2, True)
    for words in (
        ("new", tmp_path / "slip" / "a.key"),
        ("rotate", "-c", hub_toml, "--to", tmp_path / "slip" / "a.key"),
    ):
        code, _, err = run("keys", *words)
        assert (code, "no such folder" in err, (tmp_path / "slip").exists()) == (2, True, False), err
    hub_toml.write_text(hub_toml.read_text() + '\n[store]\npassphrase_file = "words.txt"\n')
    code, _, err = run("keys", "list", "-c", hub_toml)
    assert (code, "no passphrase file" in err, "keys new" in err) == (2, True, False), err


def test_keys_and_audit_log_are_listed_in_words(hub_toml: Path, run: Run) -> None:
    assert run("keys", "rotate", "-c", hub_toml)[0] == 0
    assert run("keys", "rotate-data", "-c", hub_toml)[0] == 0
    assert re.match(r"slot 2: key of \d{4}-\d\d-\d\d, held", run("keys", "list", "-c", hub_toml)[1])
    _, out, _ = run("audit", "-c", hub_toml)
    assert re.search(r"\d\d:\d\d:\d\d UTC owner +key.retired +slots gone 1$", out, re.MULTILINE)
    assert re.search(r"datakey.begun +key 2$", out, re.MULTILINE)
    assert "no hub answers (No such file" in run("status", "-c", hub_toml)[2]


def test_names_too_long_for_the_disk_are_told(hub_toml: Path, run: Run) -> None:
    long = "x" * 300
    code, _, err = run("export", hub_toml.parent / long, "-c", hub_toml)
    assert (code, "File name too long" in err) == (2, True)
    hub_toml.write_text(f'hub_id = "home"\nstate_dir = "{long}"\n')
    code, _, err = run("keys", "list", "-c", hub_toml)
    assert (code, "File name too long" in err) == (2, True)


@pytest.mark.parametrize("name", [b"p\xff", b"a\nlistener 1"])
def test_a_folder_that_no_configuration_can_name_is_refused_before_anything_is_made(
    tmp_path: Path, run: Run, name: bytes
) -> None:
    code, _, err = run("provision", tmp_path / os.fsdecode(name), "--hub", "home")
    assert (code, "printable" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def started(tmp_path: Path, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        **{"env": {**environ, "PYTHONPATH": str(ROOT)}, **options},
    )


def test_an_output_that_is_full_is_one_line(hub_toml: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = started(tmp_path, "-m", "hometwin", "keys", "list", "-c", hub_toml, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "hometwin: standard output cannot be written: No space left on device\n"


ENDED_WHILE_EXPORTING = """
import os, signal, sys, edge.export, hometwin
edge.export._Writer.write = lambda _: os.kill(os.getpid(), signal.SIGTERM)
hometwin.main()
"""


def test_an_export_that_is_ended_leaves_nothing_in_clear(hub_toml: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    process = started(tmp_path, "-c", ENDED_WHILE_EXPORTING, "export", place / "mine", "-c", hub_toml)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert list(place.iterdir()) == []


def test_a_closed_output_gets_nothing_and_its_number_no_other_file(hub_toml: Path, tmp_path: Path) -> None:
    process = started(
        tmp_path, "-m", "hometwin", "keys", "list", "-c", hub_toml, preexec_fn=lambda: os.close(1)
    )
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(("program", "slow"), [("hometwin", "typer"), ("edge.hub_main", "structlog")])
def test_ctrl_c_while_the_program_is_still_loading_is_quiet(tmp_path: Path, program: str, slow: str) -> None:
    (tmp_path / f"{slow}.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    path = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = started(tmp_path, "-m", program, env=path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGINT, "")
