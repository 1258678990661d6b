"""Who is let in: permissions, passkeys, bonds and what they remember."""

import pytest
from bumble.att import ATT_Error
from bumble.core import ProtocolError

from firmware_sim.peripheral import NotificationTooLong
from firmware_sim.security import INSUFFICIENT_AUTHENTICATION, INSUFFICIENT_ENCRYPTION
from tests.firmware_sim.central import eventually
from tests.firmware_sim.conftest import House, Opener

NEEDS_PASSKEY = [("cgm", 0x2AA8), ("meter", 0x2A51), ("pump", 0x2B23)]


@pytest.mark.parametrize(("name", "uuid"), NEEDS_PASSKEY)
async def test_health_data_is_refused_before_pairing_and_given_after(
    house: House, name: str, uuid: int
) -> None:
    device, hub = await house.device(name), await house.hub()
    await hub.connect(device)
    await hub.discover()
    with pytest.raises(ATT_Error) as refused:
        await hub.read(uuid)
    assert refused.value.error_code == INSUFFICIENT_AUTHENTICATION
    assert b"Hometwin" in await hub.read(0x2A29)  # device information is open
    await hub.pair(device.passkey)
    assert await hub.read(uuid)
    assert device.authenticated


async def test_subscribing_and_control_points_are_refused_before_pairing(house: House) -> None:
    cgm, hub = await house.device("cgm"), await house.hub()
    await hub.connect(cgm)
    await hub.discover()
    for attempt in (hub.subscribe(0x2AA7), hub.subscribe(0x2A52), hub.write(0x2A52, b"\x01\x01")):
        with pytest.raises(ATT_Error) as refused:
            await attempt
        assert refused.value.error_code == INSUFFICIENT_AUTHENTICATION


async def test_wrong_passkey_leaves_no_bond_and_a_second_try_on_the_same_link_works(house: House) -> None:
    cgm, hub = await house.device("cgm"), await house.hub()
    await hub.connect(cgm)
    await hub.discover()
    with pytest.raises(ProtocolError):
        await hub.pair(111111)
    await eventually(lambda: cgm.counters["pairing_refused"] == 1)
    assert cgm.status()["bonds"] == 0
    with pytest.raises(ATT_Error):
        await hub.read(0x2AA8)
    await hub.pair(cgm.passkey)
    assert await hub.read(0x2AA8)


async def test_a_hub_without_a_keyboard_cannot_bond_a_device_that_wants_a_passkey(house: House) -> None:
    cgm, hub = await house.device("cgm"), await house.hub()
    await hub.connect(cgm)
    with pytest.raises(ProtocolError, match="AUTHENTICATION_REQUIREMENTS"):
        await hub.pair(None)
    assert cgm.status()["bonds"] == 0


async def test_a_bonded_peer_on_a_plain_link_is_told_to_encrypt(opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    await hub.close()
    await hub.connect(cgm)
    await hub.discover()
    with pytest.raises(ATT_Error) as refused:
        await hub.read(0x2AA8)
    assert refused.value.error_code == INSUFFICIENT_ENCRYPTION
    await hub.connection.encrypt()
    assert await hub.read(0x2AA8)


async def test_bond_and_subscriptions_survive_a_killed_process(house: House, opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    received = await hub.subscribe(0x2AA7)
    await house.kill(cgm)
    await eventually(lambda: not hub.device.connections)
    again = await house.device("cgm")
    await hub.open(again)  # with the key it has, no passkey asked
    await eventually(lambda: again.authenticated)
    assert again.subscribed(again._measurement)
    assert again.status()["bonds"] == 1
    assert received == []


async def test_a_lost_bond_is_refused_until_paired_anew(opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    await cgm.control("lose_bond", {})
    await eventually(lambda: not hub.device.connections)
    connection = await hub.connect(cgm)
    with pytest.raises(Exception, match=r"PIN_OR_KEY_MISSING"):
        await connection.encrypt()
    await hub.pair(cgm.passkey)
    await hub.discover()
    assert await hub.read(0x2AA8)


async def test_values_without_write_permission_stay_as_they_are(opened: Opener) -> None:
    _, hub = await opened("cgm")
    for uuid in (0x2AA8, 0x2AAB, 0x2A19, 0x2A00):
        before = await hub.read(uuid)
        with pytest.raises(ATT_Error) as refused:
            await hub.write(uuid, b"\0\0")
        assert refused.value.error_code == 0x03
        assert await hub.read(uuid) == before
    with pytest.raises(ATT_Error) as refused:
        await hub.read(0x2AA7)  # notify only
    assert refused.value.error_code == 0x02


async def test_client_configuration_takes_only_what_the_characteristic_offers(opened: Opener) -> None:
    _, hub = await opened("cgm")
    characteristic = hub.characteristic(0x2AA7)
    await characteristic.discover_descriptors()
    descriptor = characteristic.descriptors[0]
    for value, code in ((b"\2\0", 0x13), (b"\1", 0x0D)):  # indications of a notifying value; one octet
        with pytest.raises(ATT_Error) as refused:
            await descriptor.write_value(value, with_response=True)
        assert refused.value.error_code == code
    await descriptor.write_value(b"\1\0", with_response=True)
    assert await descriptor.read_value() == b"\1\0"


async def test_a_value_longer_than_a_notification_is_an_error_not_a_cut(opened: Opener) -> None:
    cgm, hub = await opened("cgm")
    received = await hub.subscribe(0x2AA7)
    with pytest.raises(NotificationTooLong):
        await cgm.send(cgm._measurement, bytes(cgm.connection.att_mtu - 2))
    await cgm.send(cgm._measurement, bytes(cgm.connection.att_mtu - 3))
    await eventually(lambda: len(received) == 1)
