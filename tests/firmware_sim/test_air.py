"""The air: what bumble's own controller gets wrong, and links that end."""

import asyncio

import pytest
from bumble import core, hci
from bumble.core import AdvertisingData
from bumble.host import Host
from bumble.transport import open_transport

from firmware_sim.air import AirController, AirServer, Ether
from firmware_sim.errors import SimError
from firmware_sim.wearables import Strap
from tests.firmware_sim.central import Central, eventually, wire
from tests.firmware_sim.conftest import House

LOST = 8  # supervision timeout


async def test_connect_works_after_a_cancelled_attempt(house: House) -> None:
    hub = await house.hub()
    with pytest.raises(core.TimeoutError):
        await hub.device.connect(hci.Address("C0:00:00:00:00:77"), timeout=0.05)
    strap = await house.device("strap")
    assert await hub.connect(strap)


async def test_cancel_without_a_pending_connection_is_disallowed(house: House) -> None:
    hub = await house.hub()
    with pytest.raises(hci.HCI_Error):
        await hub.device.send_sync_command(hci.HCI_LE_Create_Connection_Cancel_Command())


async def test_a_central_with_a_public_address_is_heard(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub(public=True)
    await hub.connect(strap)
    await hub.pair(None)
    await hub.discover()
    assert await hub.read(0x2A38) == b"\x01"
    assert hub.connection is not None
    assert hub.connection.self_address.is_public
    assert strap.status()["bonds"] == 1


async def test_a_dropped_link_ends_on_both_sides_with_reason_8_and_comes_back(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub()
    connection = await hub.connect(strap)
    await eventually(lambda: strap.connection)
    reasons: list[int] = []
    connection.on(connection.EVENT_DISCONNECTION, reasons.append)
    strap.connection.on("disconnection", reasons.append)
    await strap.control("drop", {})
    await eventually(lambda: len(reasons) == 2)
    assert reasons == [LOST, LOST]
    assert await hub.connect(strap)


async def test_out_of_range_is_silent_until_in_range(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub()
    heard: list[str] = []
    hub.device.on("advertisement", lambda adv: heard.append(str(adv.address)))
    connection = await hub.connect(strap)
    ended = asyncio.Event()
    connection.on(connection.EVENT_DISCONNECTION, lambda _: ended.set())
    await strap.control("out_of_range", {})
    async with asyncio.timeout(5):
        await ended.wait()
    await hub.device.start_scanning(filter_duplicates=False)
    await asyncio.sleep(0.35)  # three advertising intervals
    assert heard == []
    await strap.control("in_range", {})
    await eventually(lambda: heard)


async def test_a_controller_that_vanishes_looks_like_a_lost_link(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub()
    connection = await hub.connect(strap)
    reasons: list[int] = []
    connection.on(connection.EVENT_DISCONNECTION, reasons.append)
    await house.kill(strap)
    await eventually(lambda: reasons)
    assert reasons == [LOST]


async def test_reset_forgets_links_scans_and_pending_connections(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub()
    await hub.connect(strap)
    controller = hub.device.host.controller
    await hub.device.start_scanning()
    assert controller.le_connections
    assert controller.le_scan_enable
    await hub.device.host.send_sync_command(hci.HCI_Reset_Command())
    assert not controller.le_connections
    assert not controller.le_scan_enable
    assert controller.pending_le_connection is None
    await eventually(lambda: strap.connection is None)


async def test_rssi_is_reported_per_pair(house: House) -> None:
    strap, watch = await house.device("strap"), await house.device("watch")
    hub = await house.hub()
    heard: dict[str, int] = {}
    hub.device.on("advertisement", lambda adv: heard.update({str(adv.address).split("/")[0]: adv.rssi}))
    await strap.control("rssi", {"dbm": -91})
    house.ether.set_rssi(-77, watch.address, "C0:00:00:00:00:99")
    await hub.device.start_scanning(filter_duplicates=False)
    await eventually(lambda: heard.get(strap.address) == -91 and heard.get(watch.address) == -77)
    connection = await hub.connect(strap)
    assert await connection.get_rssi() == -91


async def test_advertisement_names_the_service(house: House) -> None:
    await house.device("cgm")
    hub = await house.hub()
    found: list[AdvertisingData] = []
    hub.device.on("advertisement", lambda adv: found.append(adv.data))
    await hub.device.start_scanning()
    await eventually(lambda: found)
    assert found[0].get(AdvertisingData.COMPLETE_LOCAL_NAME) == "Twin CGM"
    assert 0x181F.to_bytes(2, "little") in bytes(found[0])


async def test_every_socket_is_a_controller_and_nonsense_on_one_leaves_the_others(house: House) -> None:
    async with AirServer() as air:
        one = await open_transport(f"tcp-client:127.0.0.1:{air.port}")
        two = await open_transport(f"tcp-client:127.0.0.1:{air.port}")
        strap = await house.device("strap", on_air=False)
        await strap.power_on(Host(one.source, one.sink))
        reader, writer = await asyncio.open_connection("127.0.0.1", air.port)
        writer.write(b"\x01\x03\x0c\x00" + b"\x02\xff\xff\x04\x00junk" + b"\x01\x0d\x20\x01\x00")
        await eventually(lambda: len(air.ether.controllers) == 3 or reader.at_eof())
        hub = await Central(Host(two.source, two.sink)).start()
        assert await hub.connect(strap)
        writer.close()
        await eventually(lambda: len(air.ether.controllers) == 2)
        await one.close()  # the sensor's process dies
        await eventually(lambda: not hub.device.connections)
        await two.close()


async def test_a_restarted_sensor_takes_its_address_over(house: House) -> None:
    strap = await house.device("strap")
    hub = await house.hub()
    await hub.connect(strap)
    second = Strap(strap.flash, strap.clock)
    await second.power_on(wire(house.ether, "again"))
    await eventually(lambda: not hub.device.connections)
    await hub.connect(second)
    await eventually(lambda: second.connection)


async def test_a_taken_port_is_one_clear_error() -> None:
    async with AirServer() as air:
        with pytest.raises(SimError, match=f"127.0.0.1:{air.port}.*--port"):
            await AirServer(port=air.port).__aenter__()


async def test_quiet_controllers_are_not_bothered_by_advertisements() -> None:
    ether = Ether()
    deaf = AirController("deaf", link=ether)
    assert not deaf.listening
    deaf.le_scan_enable = True
    assert deaf.listening
