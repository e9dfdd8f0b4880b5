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
    REPORT = "W"
    """Worth telling: nothing fails for it."""
    IGNORE = "I"


_XIDS: dict[XidAction, tuple[int, ...]] = {
    XidAction.RETRY: (68,),
    XidAction.CONFIRM: (8, 13, 31, 32, 38, 44, 60, 69, 94, 109, *range(144, 151)),
    XidAction.EXCLUDE: (
        *(46, 48, 61, 62, 74, 95, 110, 119, 120, 136, 140),
        *(155, 156, 158, 167, 171, 172),
    ),
    XidAction.REPAIR: (54, 64, 79, 143, 151),
    XidAction.REPORT: (92, 121, 157),
    XidAction.IGNORE: (
        *(37, 43, 45, 63, 66, 67, 93, 106, 107, 137, 154, 160, 161),
        *range(162, 166),
    ),
}


XID = {number: action for action, numbers in _XIDS.items() for number in numbers}
"""XID number → action. From NVIDIA's XID catalogue (docs.nvidia.com/deploy/xid-errors) and the
checks of leptonai/gpud, facebookresearch/gcm and Azure/azurehpc-health-checks; unproven on
hardware. 43, 45 and 137 follow when ranks are killed. 144 to 150, of NVLink 5, are harmless or
need a reset by a code that NVML's events lack: the recovery action shows which.
"""


def action(number: int) -> XidAction:
    """Return the action for an XID; an unknown one is confirmed, never ignored."""
    return XID.get(number, XidAction.CONFIRM)


MEANINGS = {
    8: "a GPU channel timed out",
    13: "a kernel raised a graphics engine exception",
    31: "a kernel accessed an invalid address",
    32: "a push buffer was invalid",
    38: "the driver's firmware failed",
    43: "the GPU stopped the program",
    44: "a context switch failed",
    45: "the program's channels were cleaned up",
    46: "the GPU timed out",
    48: "an uncorrected double-bit ECC error",
    54: "the auxiliary power is not connected",
    60: "an exception of the security processor",
    61: "the microcontroller has halted",
    62: "the microcontroller has halted",
    63: "a memory row was remapped",
    64: "a memory row could not be remapped",
    68: "a video processor exception",
    69: "a graphics class error",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many corrected ECC errors",
    94: "a contained memory error",
    95: "an uncontained memory error",
    109: "a context switch timed out",
    110: "a security fault",
    119: "the GPU's firmware does not answer",
    120: "the GPU's firmware failed",
    121: "an error of the link between processor and GPU",
    136: "a link could not be trained",
    140: "an unrecovered ECC error",
    143: "the GPU could not be initialised",
    **dict.fromkeys(range(144, 151), "an NVLink error"),
    151: "the rotation of a key",
    154: "the recovery action changed",
    155: "an error of the GPU's software",
    156: "a resource of the GPU was retired",
    157: "a resource of the GPU could not be retired",
    158: "a fatal time-out in the GPU",
    167: "a fatal time-out of PCIe",
    171: "an uncorrected error of the GPU's memory",
    172: "an uncorrected error of on-chip memory",
}
"""In a few words, from NVIDIA's catalogue."""


def meaning(number: int) -> str:
    """Return what an XID means."""
    return MEANINGS.get(number, "not in the table of this program")
