"""How a sensor tells the air to disturb its own link: one vendor-specific HCI command.

It travels on the sensor's own HCI socket, so no second channel to the air is needed. Importing this module
registers the command with bumble on both ends.
"""

from __future__ import annotations

import dataclasses
from enum import IntEnum

from bumble import hci


class FAULT(IntEnum):
    """What happens to the link of the controller that receives the command."""

    DROP = 0  # both ends see reason 8; advertising goes on
    OUT_OF_RANGE = 1  # drop, and nothing in or out until IN_RANGE
    IN_RANGE = 2
    RSSI = 3  # others hear this controller at ``rssi`` dBm from now on


HCI_AIR_FAULT_COMMAND = hci.hci_vendor_command_op_code(0x03A1)
hci.HCI_Command.register_commands(globals())


@hci.HCI_SyncCommand.sync_command(hci.HCI_StatusReturnParameters)
@dataclasses.dataclass
class HCI_Air_Fault_Command(hci.HCI_SyncCommand[hci.HCI_StatusReturnParameters]):
    """See FAULT; ``rssi`` counts only for FAULT.RSSI."""

    action: int = dataclasses.field(metadata=hci.metadata(1))
    rssi: int = dataclasses.field(metadata=hci.metadata(-1))


AirFaultCommand = HCI_Air_Fault_Command
