"""Child processes of the demo: started in order, restarted when they die (as systemd would), ended cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from core.errors import EnvironmentMissing

STOP_TIMEOUT_S: Final = 8.0
RESTART_PAUSE_S: Final = 0.5
READY_POLL_S: Final = 0.05
# A child that dies this often right after its start will not recover by itself.
MAX_QUICK_DEATHS: Final = 5
QUICK_DEATH_S: Final = 5.0
LAST_WORDS_CHARS: Final = 300  # of a child's log, on the terminal


@dataclass
class Child:
    """One process: how to start it, and how it is."""

    name: str
    argv: Sequence[str]
    log_path: Path
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    quick_deaths: int = 0
    held: bool = False  # killed on purpose and not to be restarted
    killed: bool = False  # killed on purpose: this death says nothing about the child
    watcher: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None


@dataclass
class Group:
    """The demo's children by name. They die with us, even if we are killed."""

    log_dir: Path
    environ: Mapping[str, str]
    children: dict[str, Child] = field(default_factory=dict)
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    failed_name: str = ""
    _stopping: bool = False

    async def start(
        self, name: str, argv: Sequence[str], ready: Callable[[], bool], timeout_s: float = 60.0
    ) -> Child:
        """Start a child and wait until ``ready()``; EnvironmentMissing with its last words otherwise."""
        child = Child(name, argv, self.log_dir / f"{name}.log")
        self.children[name] = child
        await self._spawn(child)
        child.watcher = asyncio.create_task(self._watch(child), name=f"watch-{name}")
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not ready():
            if self.failed.is_set() or asyncio.get_running_loop().time() > deadline:
                raise EnvironmentMissing(f"did not start: {self.last_words(name)}", where=name)
            if child.process is not None and child.process.returncode == 2:
                raise EnvironmentMissing(self.last_words(name), where=name)
            await asyncio.sleep(READY_POLL_S)
        return child

    def last_words(self, name: str) -> str:
        """The last line that a child wrote to its log, without the names that ours begins with already."""
        try:
            lines = self.children[name].log_path.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        words = (
            lines[-1].removeprefix("hometwin: ").removeprefix(f"{name}: ") if lines else "it wrote nothing"
        )
        return words[-LAST_WORDS_CHARS:]

    def kill(self, name: str, sig: int = signal.SIGKILL, *, hold: bool = False) -> None:
        """Send a signal; unless ``hold`` the watcher starts the child again."""
        child = self.children[name]
        child.held = hold
        if child.alive and child.process is not None:
            child.killed = True
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(sig)

    async def release(self, name: str) -> None:
        """Start a held child again."""
        child = self.children[name]
        if child.process is not None:
            await child.process.wait()
        child.held = False
        if child.watcher is None or child.watcher.done():
            await self._spawn(child)
            child.watcher = asyncio.create_task(self._watch(child), name=f"watch-{name}")

    async def stop(self, names: Sequence[str] | None = None) -> None:
        """End children in reverse order of their start: SIGTERM, then SIGKILL for those that do not listen."""
        chosen = [n for n in reversed(self.children) if names is None or n in names]
        if names is None:
            self._stopping = True
        for name in chosen:
            child = self.children[name]
            child.held = True
            process = child.process
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
                except TimeoutError:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
            if child.watcher is not None:
                child.watcher.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await child.watcher

    async def _spawn(self, child: Child) -> None:
        with child.log_path.open("ab") as log_file:
            child.process = await asyncio.create_subprocess_exec(
                *_tied_to_us(child.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=dict(self.environ),
                start_new_session=True,  # Ctrl-C reaches only us; we end the children in order
            )

    async def _watch(self, child: Child) -> None:
        loop = asyncio.get_running_loop()
        while child.process is not None:
            born_s = loop.time()
            code = await child.process.wait()
            if child.held or self._stopping:
                return
            quick = loop.time() - born_s < QUICK_DEATH_S
            if not child.killed:
                child.quick_deaths = child.quick_deaths + 1 if quick else 0
            child.killed = False
            if code == 2 or child.quick_deaths >= MAX_QUICK_DEATHS:
                self.failed_name = child.name
                self.failed.set()
                return
            await asyncio.sleep(RESTART_PAUSE_S)
            child.restarts += 1
            await self._spawn(child)


def _tied_to_us(argv: Sequence[str]) -> list[str]:
    """Ask the kernel to end the child when we die, however we die (util-linux is essential on Debian)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *argv] if setpriv else list(argv)


def this_command(*words: str) -> list[str]:
    """``hometwin WORDS`` by the interpreter that runs us."""
    return [sys.executable, "-m", "hometwin", *words]


def child_environ(clock: str) -> dict[str, str]:
    """Our environment with the shared clock; nothing else of ours leaks in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HOMETWIN_")}
    return {**kept, "HOMETWIN_CLOCK": clock, "PYTHONUNBUFFERED": "1"}
