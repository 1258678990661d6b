"""``hometwin pair``: listen, and say what to write into the configuration."""

from __future__ import annotations

import asyncio

from rich.console import Console

from edge.ble.radio import Advertisement, make_radio
from edge.config import HubConfig

PROFILE_OF_SERVICE = {
    0x181F: "cgm",
    0x180D: "heart_rate",
    0x1808: "glucose_meter",
    0x183A: "insulin_pump",
    0x1810: "blood_pressure",
    0x1822: "pulse_oximeter",
    0x181D: "weight",
    0x1809: "thermometer",
    0x1802: "alert",
}


async def print_nearby(config: HubConfig, seconds: float) -> None:
    """Listen for ``seconds`` and print each health device with the lines that let the hub pair with it."""
    console = Console()
    radio = make_radio(config.radio.adapter, load=lambda: None, save=lambda _data: None)
    seen: dict[str, Advertisement] = {}
    radio.on_advertisement = lambda heard: seen.update({heard.address: heard})
    await radio.start()
    try:
        console.print(f"listening for {seconds:g} s …")
        await asyncio.sleep(seconds)
    finally:
        await radio.stop()
    known = {device.address: device.source for device in config.device}
    found = 0
    for heard in sorted(seen.values(), key=lambda h: -h.rssi):
        profiles = [PROFILE_OF_SERVICE[s] for s in heard.services if s in PROFILE_OF_SERVICE]
        if not profiles:
            continue
        found += 1
        note = f"already configured as {known[heard.address]}" if heard.address in known else "new"
        console.print(
            f"\n{heard.name or 'unnamed'}  {heard.address}  {heard.rssi} dBm  ({note})", highlight=False
        )
        if heard.address not in known:
            console.print(
                f'[[device]]\nsource = "{profiles[0]}"\nprofile = "{profiles[0]}"\n'
                f'address = "{heard.address}"\n# passkey = 000000   # if the device shows or carries one',
                markup=False,
                highlight=False,
            )
    if not found:
        console.print(
            "no health device heard; wake it, bring it near, end its connection to a phone, try again"
        )
