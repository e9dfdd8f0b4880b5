"""Actions for NVIDIA Xid errors."""

from __future__ import annotations

from enum import Enum


class XidAction(Enum):
    """An action for an XID."""

    RETRY = "R"
    """An error of the program: retry on the same nodes."""
    CONFIRM = "R1"
    """Retry once on the same nodes, then exclude the node."""
    EXCLUDE = "X"
    """The GPU needs a reset."""
    REPAIR = "XB"
    """The node needs a reboot, or the GPU to be replaced."""
    IGNORE = "I"


_XIDS: dict[XidAction, tuple[int, ...]] = {
    XidAction.RETRY: (68,),
    XidAction.CONFIRM: (8, 13, 31, 32, 38, 44, 60, 69, 94, 109),
    XidAction.EXCLUDE: (
        *(46, 48, 61, 62, 74, 95, 110, 119, 120, 136, 140),
        *range(144, 151),
        *(155, 156, 158, 167, 171, 172),
    ),
    XidAction.REPAIR: (54, 64, 79, 143, 151),
    XidAction.IGNORE: (
        *(37, 43, 45, 63, 66, 67, 92, 93, 106, 107, 121, 137, 154, 157, 160, 161),
        *range(162, 166),
    ),
}


XID = {number: action for action, numbers in _XIDS.items() for number in numbers}
"""XID number → action. From NVIDIA's XID catalogue (docs.nvidia.com/deploy/xid-errors) and the
checks of leptonai/gpud, facebookresearch/gcm and Azure/azurehpc-health-checks; unproven on
hardware. 43, 45 and 137 follow when ranks are killed.
"""


def action(number: int) -> XidAction:
    """Return the action for an XID; an unknown one is confirmed, never ignored."""
    return XID.get(number, XidAction.CONFIRM)
