"""What a process of ours keeps to itself (no core dump, no look into its memory, no swap), and how it ends."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core.errors import InputError, StoreError
from edge.demo.demo import Demo, DemoPlan, run_demo
from edge.demo.layout import free_port
from edge.process import run_until_signal, with_one_line_errors

CANARY = "canary-5c1e9a77"
# Root sees everything, so as root these programs become a user without rights (in the middle: that user may not be
# able to start this interpreter), and as open to their fellows as after an ordinary start.
BECOME_SOMEBODY = """
import ctypes, os, sys
from edge.process import keep_memory_private
if sys.argv[1] != "as-root" and os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
"""
# A process that holds a secret, built so that neither its command line nor its code shows it.
HOLDER = (
    BECOME_SOMEBODY
    + """
if sys.argv[2] == "private":
    keep_memory_private(lock=True)
secret = bytearray("-".join(("canary", "5c1e9a77")).encode())
print("ready", flush=True)
sys.stdin.readline()
os.abort()
"""
)
ROOT = Path(__file__).parents[2]


def holder(folder: Path, how: str, who: str = "as-root") -> subprocess.Popen[str]:
    """Started, with core dumps allowed, and its secret in memory."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, who, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "ready\n":  # its log comes first
        assert line, process.wait()
    return process


def dumps_after_abort(folder: Path, how: str) -> list[Path]:
    """The core files that an aborted process leaves in its folder."""
    folder.mkdir()
    process = holder(folder, how)
    process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGABRT
    return list(folder.iterdir())


def test_a_command_dumps_no_core(tmp_path: Path) -> None:
    """Commands hold keys and readings as well; this one is cut off while it waits for an answer."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard == 0:
        pytest.skip("this machine lets nobody dump")
    (tmp_path / "hub.toml").write_text('hub_id = "home"\n')
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "hometwin.py"), "erase", "--config", str(tmp_path / "hub.toml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()  # its warning; it asks now
        limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        process.send_signal(signal.SIGABRT)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -os.WTERMSIG(status)
    assert process.returncode == -signal.SIGABRT
    assert not os.WCOREDUMP(status)
    assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]


def test_no_core_dump_is_written_and_without_the_guard_one_would_be(tmp_path: Path) -> None:
    assert dumps_after_abort(tmp_path / "private", "private") == []
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|") or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(f"this machine writes no core file into the folder (core_pattern {pattern[:20]})")
    [dump] = dumps_after_abort(tmp_path / "open", "open")
    assert CANARY.encode() in dump.read_bytes()


LOOK = (
    BECOME_SOMEBODY
    + """
try:
    for line in open(f"/proc/{sys.argv[2]}/maps"):
        span, rights, *_ = line.split()
        first, last = (int(x, 16) for x in span.split("-"))
        if "rw" in rights:
            with open(f"/proc/{sys.argv[2]}/mem", "rb") as memory:
                memory.seek(first)
                if "-".join(("canary", "5c1e9a77")).encode() in memory.read(last - first):
                    print("seen")
                    break
    open(f"/proc/{sys.argv[2]}/environ").read()
except PermissionError:
    print("refused")
"""
)


@pytest.mark.parametrize(("how", "says"), [("private", "refused"), ("open", "seen")])
def test_another_program_of_the_same_user_cannot_look_into_it(tmp_path: Path, how: str, says: str) -> None:
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if how == "open" and scope.exists() and scope.read_text().strip() != "0":
        pytest.skip("this kernel refuses it anyway (yama)")
    process = holder(tmp_path, how, "as-somebody")
    try:
        looked = subprocess.run(
            [sys.executable, "-c", LOOK, "as-somebody", str(process.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        process.kill()
        process.communicate()
    assert looked.stdout.split() == [says], looked.stderr


def test_its_memory_is_locked_where_the_limit_allows_it(tmp_path: Path) -> None:
    process = holder(tmp_path, "private")
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    finally:
        process.kill()
        process.communicate()
    locked_kib = int(status.partition("VmLck:")[2].split()[0])
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    capable = int(status.partition("CapEff:")[2].split()[0], 16) >> 14 & 1  # CAP_IPC_LOCK
    assert (locked_kib > 0) == bool(capable or limit == resource.RLIM_INFINITY)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_asked_to_end_it_cleans_up_and_a_second_hang_up_does_not_cut_that_short(name: str) -> None:
    cleaned: list[str] = []
    number = getattr(signal, name)

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.05)
            cleaned.append(name)

    before = [signal.signal(n, lambda *_: None) for n in (number, signal.SIGHUP)]
    try:
        run_until_signal(work())
    finally:
        for n, handler in zip((number, signal.SIGHUP), before, strict=True):
            signal.signal(n, handler)
    assert cleaned == [name]


def test_started_with_nohup_it_outlives_its_terminal() -> None:
    lived: list[bool] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.05)
        lived.append(True)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_until_signal(work())
    finally:
        signal.signal(signal.SIGHUP, before)
    assert lived == [True]


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("is odd", where="a.toml", mend="even it"), 2, "hometwin: a.toml: is odd (even it)\n"),
        (StoreError("is broken"), 1, "hometwin: is broken\n"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "hometwin: /x/y: Permission denied\n"),
        (OSError("odd"), 1, "hometwin: OSError\n"),
        (UnicodeDecodeError("utf-8", b"secret\xff", 6, 7, "no"), 1, "not in the encoding"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_what_ends_a_process_is_one_line_and_a_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        with_one_line_errors(fails)
    err = capsys.readouterr().err
    assert (end.value.code, says in err, err.count("\n")) == (code, True, bool(says)), err
    assert "secret" not in err


def test_an_ended_demo_leaves_no_keys_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its terminal is closed and the end of its processes is cut short."""
    if shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        pytest.skip("no mosquitto here")
    found: list[Path] = []

    async def play(demo: Demo) -> None:
        found.extend(demo.layout.root.rglob("store.key"))
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(60)

    async def end(_: Demo) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Demo, "play", play)
    monkeypatch.setattr(Demo, "end", end)
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        plan = DemoPlan(None, 300.0, "1h", "", "UTC", 1, None, free_port())
        run_until_signal(asyncio.wait_for(run_demo(plan), 20))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found
    assert list(tmp_path.iterdir()) == []
