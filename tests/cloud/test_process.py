"""The cloud process with a real broker: killed between commit and acknowledgement, restarted, misconfigured."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from cloud.db import Database, RejectedRow, SampleRow, UplinkRow
from cloud.sealing import read_database_key
from tests.sync.support import House, MemoryOutbox, batch, ignore_down, running, wait_until

REPOSITORY = Path(__file__).parents[2]


class Cloud:
    """Starts and stops cloud processes on one database."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.toml = house.paths.cloud / "cloud.toml"
        self.toml.write_text(f'[mqtt]\nhost = "127.0.0.1"\nport = {house.port}\n')
        self.log = house.paths.cloud / "log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.cloud.cloud_child", str(self.toml), *more]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def run_to_end(self) -> tuple[int, str]:
        """Exit code and what it said last on the error stream."""
        command = [sys.executable, "-m", "tests.cloud.cloud_child", str(self.toml)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60, text=True)
        lines = done.stderr.strip().splitlines()
        return done.returncode, lines[-1] if lines else ""

    def database(self) -> Database:
        key = read_database_key(self.house.paths.cloud / "database.key")
        return Database.open(f"sqlite:///{self.house.paths.cloud / 'cloud.sqlite'}", key)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    house = House(tmp_path / "house")
    house.start()
    made = Cloud(house)
    yield made
    made.end()
    house.stop()


# While the cloud is away the hub's pauses double up to half a minute (sync.session), and a process needs its time to start.
PATIENCE_S = 180.0


def filled(messages: int, per_message: int) -> MemoryOutbox:
    outbox = MemoryOutbox()
    for number in range(messages):
        outbox.enqueue(batch(number * per_message, per_message))
    return outbox


async def drain(cloud: Cloud, outbox: MemoryOutbox) -> None:
    link = cloud.house.hub_link()
    link.bind(outbox=outbox, on_down=ignore_down)
    async with running(link):
        try:
            await wait_until(lambda: not outbox.waiting, "drained", PATIENCE_S)
        except AssertionError as err:
            codes = [process.poll() for process in cloud.processes]
            raise AssertionError(
                f"{err}; finished {len(outbox.finished)}, link {dict(link.counters)}, "
                f"cloud processes {codes}, their log:\n{cloud.log.read_text()}"
            ) from None


def check_exactly_once_in_order(cloud: Cloud, samples: int, uplinks: int) -> None:
    db = cloud.database()
    with db.read() as session:
        assert list(session.scalars(select(SampleRow.seq).order_by(SampleRow.id))) == list(range(samples))
        assert session.scalar(select(func.count()).select_from(UplinkRow)) == uplinks
        assert session.scalar(select(func.count()).select_from(RejectedRow)) == 0
    db.close()


async def test_kill_9_between_commit_and_acknowledgement_stores_everything_exactly_once(cloud: Cloud) -> None:
    outbox = filled(messages=120, per_message=5)
    dying = cloud.start("die-after-commit", "2")

    async def replace_the_dead() -> None:
        await wait_until(lambda: dying.poll() is not None, "it killed itself")
        assert dying.returncode == -9
        assert outbox.waiting, "the last acknowledgements were never sent"
        cloud.start()

    await asyncio.gather(drain(cloud, outbox), replace_the_dead())
    check_exactly_once_in_order(cloud, 600, 120)


async def test_kills_of_cloud_and_broker_in_turn_break_neither_count_nor_order(cloud: Cloud) -> None:
    outbox = filled(messages=200, per_message=5)
    first = cloud.start()
    broker = cloud.house.broker
    assert broker is not None

    async def trouble() -> None:
        await wait_until(lambda: len(outbox.finished) > 10, "under way", PATIENCE_S)
        first.kill()
        broker.kill()
        cloud.house.start()
        second = cloud.start()
        await wait_until(
            lambda: len(outbox.finished) > 100 or not outbox.waiting, "under way again", PATIENCE_S
        )
        second.kill()
        cloud.start()

    await asyncio.gather(drain(cloud, outbox), trouble())
    check_exactly_once_in_order(cloud, 1000, 200)


async def test_ten_thousand_samples_reach_the_database(cloud: Cloud) -> None:
    cloud.start()
    await wait_until(lambda: b"sync.connected" in cloud.log.read_bytes(), "the cloud is up", PATIENCE_S)
    outbox = filled(messages=50, per_message=200)
    await drain(cloud, outbox)
    check_exactly_once_in_order(cloud, 10_000, 50)


async def test_sigterm_ends_it_cleanly(cloud: Cloud) -> None:
    process = cloud.start()
    await wait_until(lambda: b"sync.connected" in cloud.log.read_bytes(), "the cloud is up", PATIENCE_S)
    process.terminate()
    await wait_until(lambda: process.poll() is not None, "ended")
    assert process.returncode == 0
    assert "clean end" in cloud.log.read_text()
    assert "cloud.stopped" in cloud.log.read_text()


async def test_its_log_holds_no_value(cloud: Cloud) -> None:
    cloud.start()
    outbox = MemoryOutbox()
    outbox.enqueue(batch(23, 1))  # 123.0 mg/dL
    outbox.enqueue(b"\x81\xa4type\xa6secret")
    await drain(cloud, outbox)
    text = cloud.log.read_text()
    assert "uplink.rejected" in text
    assert "secret" not in text
    assert "123" not in text.replace(str(cloud.house.port), "")


def break_no_broker(cloud: Cloud) -> None:
    cloud.house.stop()


def break_toml(cloud: Cloud) -> None:
    cloud.toml.write_text("[mqtt]\nhost = '127.0.0.1'\nprot = 1\n")


def break_certificate(cloud: Cloud) -> None:
    (cloud.house.paths.cloud / "client.crt").unlink()


def break_signing_key(cloud: Cloud) -> None:
    (cloud.house.paths.cloud / "signing.key").write_text("garbage")


def break_database_key(cloud: Cloud) -> None:
    cloud.database().close()
    (cloud.house.paths.cloud / "database.key").write_bytes(bytes(32))


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (break_no_broker, "no broker answers"),
        (break_toml, "prot"),
        (break_certificate, "client.crt: no such file"),
        (break_signing_key, "signing.key: is not a private key"),
        (break_database_key, "does not open this database"),
    ],
)
def test_what_a_person_got_wrong_is_one_line_and_exit_code_2(cloud: Cloud, break_it, said: str) -> None:
    break_it(cloud)
    code, line = cloud.run_to_end()
    assert code == 2
    assert said in line
    assert "Traceback" not in line
