from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from core.errors import EnvironmentMissing, LinkError, LinkTimeout, PairingError, ProcedureError
from edge.ble.bonds import Bonds
from edge.ble.radio import Advertisement, BleakRadio, make_radio

from .bench import Air, C, Sensor, Service, open_air, until

ADDRESS = "C0:00:00:00:00:01"


class Vault:
    """What the hub's sealed store does for the bonds."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.writes = 0

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data, self.writes = data, self.writes + 1


@pytest.fixture
async def air() -> AsyncIterator[tuple[Air, str]]:
    async with open_air() as opened:
        yield opened


@contextlib.asynccontextmanager
async def running(choice: str, vault: Vault | None = None) -> AsyncIterator[BleakRadio]:
    vault = vault or Vault()
    radio = make_radio(choice, vault.load, vault.save)
    await radio.start()
    try:
        yield radio
    finally:
        await radio.stop()


async def seen(radio: BleakRadio, address: str = ADDRESS) -> Advertisement:
    found: list[Advertisement] = []
    radio.on_advertisement = lambda advertisement: (
        found.append(advertisement) if advertisement.address == address else None
    )
    await until(lambda: found)
    return found[0]


async def test_scan_reports_address_name_and_services(air: tuple[Air, str]) -> None:
    await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        advertisement = await seen(radio)
        assert (advertisement.name, advertisement.services) == ("strap", frozenset({0x180D}))
        assert advertisement.rssi < 0


async def test_reads_writes_and_notifications_pass_with_a_negotiated_mtu(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        assert {0x2A37, 0x2A39, 0x2A19} <= link.characteristics
        assert link.mtu > 200
        assert await link.read(0x2A19) == b"\x5a"
        got: list[bytes] = []
        await link.subscribe(0x2A37, got.append)
        long = bytes(range(200))
        await sensor.notify(b"\x00\x50")
        await sensor.notify(long)
        await until(lambda: len(got) == 2)
        assert got == [b"\x00\x50", long]
        await link.write(0x2A39, b"\x01", True)
        assert sensor.control.value == b"\x01"
        with pytest.raises(ProcedureError, match="0x2AFF"):
            await link.read(0x2AFF)


async def test_indications_arrive_and_are_confirmed(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        got: list[bytes] = []
        await link.subscribe(0x2A39, got.append)
        await asyncio.wait_for(sensor.device.indicate_subscribers(sensor.control, b"\x06\x00"), 5)
        assert got == [b"\x06\x00"]


@pytest.mark.parametrize("passkey", [123456, 0])
async def test_right_passkey_bonds_and_the_bond_survives_a_restart(
    air: tuple[Air, str], passkey: int
) -> None:
    sensor = await Sensor(air[0], passkey=passkey, secure=True).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, passkey)
        await link.pair(passkey)
        assert await link.read(0x2A37) == b"\x00\x48"
        keys = await sensor.device.keystore.get_all()
        assert [k.ltk.authenticated for _, k in keys] == [True]
    sensor.passkey = 999999  # a second pairing would fail now
    writes = vault.writes
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, passkey)
        assert next(iter(sensor.device.connections.values())).is_encrypted
        assert await link.read(0x2A37) == b"\x00\x48"
        assert not link.repaired
    assert vault.writes == writes


async def test_wrong_passkey_is_refused_with_a_clear_text_and_stores_nothing(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=123456, secure=True).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        writes = vault.writes
        link = await radio.connect(ADDRESS, 5, 123457)
        with pytest.raises(PairingError, match="passkey is wrong"):
            await link.pair(123457)
        assert vault.writes == writes
        assert b"123457" not in (vault.data or b"")
        with pytest.raises(PairingError):  # one attempt per connection
            await link.read(0x2A37)


async def test_passkey_device_without_configured_passkey_says_so(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=123456, secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        with pytest.raises(PairingError, match=r"asks for a passkey.*printed on the device"):
            await link.read(0x2A37)


async def test_peer_that_skips_the_passkey_is_refused(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=None, secure=True).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        with pytest.raises(PairingError, match="without checking the passkey"):
            await link.pair(123456)
    bonds = Bonds(vault.load, vault.save)
    await bonds.open()
    assert bonds.all() == {}


async def test_legacy_pairing_is_refused(air: tuple[Air, str]) -> None:
    await Sensor(air[0], passkey=123456, secure=True, sc=False).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        with pytest.raises(PairingError, match="legacy"):
            await link.pair(123456)
    bonds = Bonds(vault.load, vault.save)
    await bonds.open()
    assert bonds.all() == {}


async def test_protected_value_pairs_by_just_works_on_first_use(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        assert not next(iter(sensor.device.connections.values())).is_encrypted
        assert await link.read(0x2A37) == b"\x00\x48"
        assert next(iter(sensor.device.connections.values())).is_encrypted


async def test_security_request_of_the_peripheral_is_answered_by_pairing(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], passkey=111222).start()
    async with running(air[1]) as radio:
        await seen(radio)
        await radio.connect(ADDRESS, 5, 111222)
        connection = next(iter(sensor.device.connections.values()))
        connection.request_pairing()
        await until(lambda: connection.is_encrypted)


async def test_reconnects_with_the_bond_after_a_drop(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], passkey=123456, secure=True).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        await link.pair(123456)
        sensor.drop()
        await asyncio.wait_for(link.closed.wait(), 5)
        with pytest.raises(LinkError):
            await link.read(0x2A37)
        writes = vault.writes
        await seen(radio)
        again = await radio.connect(ADDRESS, 5, 123456)
        assert await again.read(0x2A37) == b"\x00\x48"
        assert vault.writes == writes


async def test_bond_lost_at_a_passkey_device_is_made_anew(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], passkey=123456, secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        await link.pair(123456)
        await link.close()
        sensor.forget_bonds()
        await seen(radio)
        again = await radio.connect(ADDRESS, 5, 123456)
        assert again.repaired
        assert await again.read(0x2A37) == b"\x00\x48"


async def test_bond_lost_without_passkey_needs_a_person(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], secure=True).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        await link.pair(None)
        await link.close()
        bonded = vault.data
        sensor.forget_bonds()
        await seen(radio)
        with pytest.raises(PairingError, match="no longer knows its bond"):
            await radio.connect(ADDRESS, 5, None)
        assert vault.data == bonded
        await until(lambda: sensor.connections == 0)
        await seen(radio)
        allowed = await radio.connect(ADDRESS, 5, None, may_repair=True)
        assert await allowed.read(0x2A37) == b"\x00\x48"
        assert vault.data != bonded


async def test_another_key_at_the_peer_is_told_and_then_repaired(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], passkey=123456, secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        await link.pair(123456)
        await link.close()
        for _, keys in await sensor.device.keystore.get_all():
            keys.ltk.value = bytes(16)
        await seen(radio)
        with pytest.raises(PairingError, match="no longer knows"):
            await radio.connect(ADDRESS, 5, 123456)
        await until(lambda: sensor.connections == 0)
        await seen(radio)
        again = await radio.connect(ADDRESS, 5, 123456)
        await again.pair(123456)
        assert await again.read(0x2A37) == b"\x00\x48"


async def test_connect_timeout_leaves_the_controller_free_for_the_next(air: tuple[Air, str]) -> None:
    away, there = Sensor(air[0]), Sensor(air[0], "C0:00:00:00:00:02")
    await away.start()
    await there.start()
    async with running(air[1]) as radio:
        await seen(radio)
        away.vanish()
        for _ in range(2):
            with pytest.raises(LinkTimeout):
                await radio.connect(ADDRESS, 0.3, None)
        await seen(radio, there.address)
        link = await radio.connect(there.address, 5, None)
        assert await link.read(0x2A19) == b"\x5a"
        away.appear()
        await seen(radio)
        late = await radio.connect(ADDRESS, 5, None)
        assert await late.read(0x2A19) == b"\x5a"


async def test_controller_that_ignores_cancel_is_usable_after_the_late_connection(
    air: tuple[Air, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.ble.bumble_host.CANCEL_S", 0.1)
    sensor = await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        await seen(radio)
        air[0].hubs[0].cancels = False
        sensor.vanish()
        with pytest.raises(LinkTimeout):
            await radio.connect(ADDRESS, 0.2, None)
        sensor.appear()  # the controller, still initiating, connects for nobody
        await until(lambda: sensor.connections == 1)
        away = asyncio.create_task(radio.connect("C0:00:00:00:00:77", 0.3, None))
        await until(lambda: sensor.connections == 0)
        with pytest.raises(LinkTimeout):
            await away
        air[0].hubs[0].pending_le_connection = None
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        assert await link.read(0x2A19) == b"\x5a"


async def test_cancelling_a_connect_is_cancellation_and_frees_the_controller(air: tuple[Air, str]) -> None:
    away, there = Sensor(air[0]), Sensor(air[0], "C0:00:00:00:00:02")
    await away.start()
    await there.start()
    async with running(air[1]) as radio:
        await seen(radio)
        await seen(radio, there.address)
        away.vanish()
        connecting = asyncio.create_task(radio.connect(ADDRESS, 30, None))
        await until(lambda: air[0].hubs[0].pending_le_connection)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        link = await radio.connect(there.address, 5, None)
        assert await link.read(0x2A19) == b"\x5a"


async def test_drop_during_a_read_is_a_link_error_not_a_cancellation(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        sensor.controller.deaf = True
        reading = asyncio.create_task(link.read(0x2A19))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sensor.drop()
        with pytest.raises(LinkError):
            await asyncio.wait_for(reading, 5)


async def test_unanswered_read_ends_the_link_because_a_late_answer_would_be_misread(
    air: tuple[Air, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.ble.bumble_backend.ATT_S", 0.2)
    sensor = await Sensor(air[0]).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        sensor.controller.deaf = True
        with pytest.raises(LinkTimeout):
            await link.read(0x2A19)
        await asyncio.wait_for(link.closed.wait(), 5)


async def test_eight_devices_connect_and_notify_at_once(air: tuple[Air, str]) -> None:
    sensors = [
        await Sensor(air[0], f"C0:00:00:00:01:{n:02X}", passkey=100000 + n, secure=True).start()
        for n in range(8)
    ]
    async with running(air[1]) as radio:
        for sensor in sensors:
            await seen(radio, sensor.address)

        async def use(sensor: Sensor) -> list[bytes]:
            link = await radio.connect(sensor.address, 20, sensor.passkey)
            await link.pair(sensor.passkey)
            got: list[bytes] = []
            await link.subscribe(0x2A37, got.append)
            await sensor.notify(sensor.address.encode())
            await until(lambda: got)
            return got

        got = await asyncio.gather(*(use(sensor) for sensor in sensors))
        assert got == [[sensor.address.encode()] for sensor in sensors]


async def test_lost_transport_closes_links_and_start_brings_the_radio_back(air: tuple[Air, str]) -> None:
    await Sensor(air[0]).start()
    vault = Vault()
    async with running(air[1], vault) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        for socket in air[0].sockets:
            socket.close()
        await asyncio.wait_for(radio.lost.wait(), 5)
        await asyncio.wait_for(link.closed.wait(), 5)
        await radio.stop()
        await radio.start()
        await seen(radio)
        again = await radio.connect(ADDRESS, 5, None)
        assert await again.read(0x2A19) == b"\x5a"


async def test_no_air_is_one_clear_line() -> None:
    vault = Vault()
    radio = make_radio("bumble:tcp-client:127.0.0.1:1", vault.load, vault.save)
    with pytest.raises(EnvironmentMissing, match=r"no controller behind.*start the virtual air"):
        await radio.start()


async def test_own_address_stays_the_same_so_that_peers_know_us(air: tuple[Air, str]) -> None:
    vault = Vault()
    addresses = []
    for _ in range(2):
        async with running(air[1], vault):
            addresses.append(str(air[0].hubs[-1].random_address))
    assert addresses[0] == addresses[1]
    assert int(addresses[0][:2], 16) >= 0xC0


async def test_a_peer_without_readable_permission_answers_with_a_procedure_error(
    air: tuple[Air, str],
) -> None:
    locked = C("2A2B", C.Properties.READ, C.WRITEABLE, b"\x00")
    sensor = Sensor(air[0], extra=(Service("1805", [locked]),))

    def refuse(connection: object) -> bytes:
        from bumble.att import ATT_Error, ErrorCode

        raise ATT_Error(ErrorCode.READ_NOT_PERMITTED)

    from bumble.att import AttributeValue

    locked.value = AttributeValue(read=refuse)
    await sensor.start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        with pytest.raises(ProcedureError, match="0x02"):
            await link.read(0x2A2B)
        assert not link.closed.is_set()


async def test_garbage_on_the_link_never_escapes_the_radio(
    air: tuple[Air, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Random ATT and SMP bytes, notifications nobody asked for, answers nobody waits for."""
    sensor = await Sensor(air[0]).start()
    escaped: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: escaped.append(context))
    rng = random.Random(20240607)
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, None)
        got: list[bytes] = []
        await link.subscribe(0x2A37, got.append)
        connection = next(iter(sensor.device.connections.values()))
        for _ in range(300):
            cid = rng.choice((0x0004, 0x0004, 0x0006, 0x0005, rng.randrange(0x10000)))
            opcode = rng.choice((0x01, 0x0B, 0x1B, 0x1D, 0x11, 0x03, rng.randrange(256)))
            connection.send_l2cap_pdu(cid, bytes([opcode]) + rng.randbytes(rng.randrange(30)))
            if link.closed.is_set():
                break
        await asyncio.sleep(0.05)
        with contextlib.suppress(LinkError):  # a late garbage answer may be taken for ours: an error or bytes
            await link.read(0x2A19)
        await link.close()
        await until(lambda: sensor.connections == 0)
        await seen(radio)
        again = await radio.connect(ADDRESS, 5, None)
        assert await again.read(0x2A19) == b"\x5a"
    assert escaped == []


async def test_peer_that_falls_mute_while_pairing_is_given_up(
    air: tuple[Air, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.ble.bumble_host.PAIR_S", 0.3)
    sensor = await Sensor(air[0], passkey=123456, secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        sensor.controller.deaf = True
        with pytest.raises(PairingError, match="not finished in time"):
            await link.pair(123456)


async def test_drop_while_pairing_is_a_link_error(air: tuple[Air, str]) -> None:
    sensor = await Sensor(air[0], passkey=123456, secure=True).start()
    async with running(air[1]) as radio:
        await seen(radio)
        link = await radio.connect(ADDRESS, 5, 123456)
        sensor.controller.deaf = True
        pairing = asyncio.create_task(link.pair(123456))
        await until(lambda: air[0].hubs[0].le_connections and not pairing.done())
        await asyncio.sleep(0.05)
        sensor.drop()
        with pytest.raises(LinkError) as caught:
            await asyncio.wait_for(pairing, 5)
        assert not isinstance(caught.value, PairingError)
