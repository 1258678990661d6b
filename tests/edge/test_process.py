"""What a process of ours keeps to itself: no core dump, no look into its memory, no swap."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
