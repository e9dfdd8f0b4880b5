"""Readings of a node beside its GPUs, from copies of /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.health import host
from jobs.health.sample import Port, Unknown

COUNTERS = {
    "port_rcv_data": 1000,
    "port_xmit_data": 2000,
    "port_rcv_errors": 1,
    "port_xmit_discards": 2,
    "symbol_error": 3,
    "local_link_integrity_errors": 4,
    "link_downed": 5,
}
MEMINFO = """\
MemTotal:       263856188 kB
MemAvailable:   200000000 kB
SwapTotal:        2097152 kB
SwapFree:         1048576 kB
HugePages_Total:        0
"""


def write(folder: Path, files: Mapping[str, object]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def add_fabric_port(sys: Path, device: str, state: str = "4: ACTIVE") -> None:
    counters = {f"counters/{name}": value for name, value in COUNTERS.items()}
    files = {"state": state, "rate": "400 Gb/sec (4X NDR)", **counters}
    write(sys / "class/infiniband" / device / "ports/1", files)


def add_interface(sys: Path, name: str, folder: str, **files: object) -> None:
    """Add an interface whose entry links to its device, as the kernel's does."""
    device = sys / "devices" / folder / "net" / name
    statistics = {"rx_bytes": 7, "tx_bytes": 8, "rx_errors": 1, "tx_errors": 2}
    write(device, {"operstate": "up", "speed": 25000, "carrier_down_count": 3, **files})
    write(device / "statistics", statistics)
    entry = sys / "class/net" / name
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.symlink_to(device)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write(tmp_path / "proc", {"meminfo": MEMINFO, "loadavg": "12.50 8.00 6.00 3/1200 4711"})
    return tmp_path / "proc"


def test_memory_swap_and_load_are_read(proc: Path, tmp_path: Path) -> None:
    found = host.read_host(proc, tmp_path / "sys")

    assert (found.memory_total, found.swap_used) == (263856188 << 10, 1 << 30)
    assert found.load == 12.5
    assert found.ports == ()


def test_ports_of_infiniband_and_roce_and_other_interfaces_are_read(
    proc: Path, tmp_path: Path
) -> None:
    sys = tmp_path / "sys"
    add_fabric_port(sys, "mlx5_0")
    add_fabric_port(sys, "mlx5_bond_0", state="1: DOWN")
    write(sys / "class/infiniband/mlx5_bond_0/device/net/bond0", {"address": "x"})  # RoCE
    add_interface(sys, "bond0", "pci0000:00")
    add_interface(sys, "eno1", "pci0000:01")
    add_interface(sys, "eno2", "pci0000:02", operstate="down", speed=-1)
    add_interface(sys, "lo", "virtual")

    found = host.read_host(proc, sys)

    rate = "400 Gb/sec (4X NDR)"
    assert found.ports == (
        Port("mlx5_0/1", True, rate, received=4000, sent=8000, errors=10, downs=5),
        Port("mlx5_bond_0/1", False, rate, received=4000, sent=8000, errors=10, downs=5),
        Port("eno1", True, "25000 Mb/s", received=7, sent=8, errors=3, downs=3),
        Port("eno2", False, "", received=7, sent=8, errors=3, downs=3),
    )


def test_a_counter_that_the_driver_lacks_counts_nothing(proc: Path, tmp_path: Path) -> None:
    add_fabric_port(tmp_path / "sys", "mlx5_0")
    counters = tmp_path / "sys/class/infiniband/mlx5_0/ports/1/counters"
    for name in ("symbol_error", "link_downed"):
        (counters / name).unlink()

    (port,) = host.read_host(proc, tmp_path / "sys").ports

    assert (port.errors, port.downs) == (7, 0)


def test_oom_kills_are_those_of_all_steps_of_the_job(proc: Path, tmp_path: Path) -> None:
    job = "system.slice/slurmstepd.scope/job_42"
    write(proc, {"self/cgroup": f"0::/{job}/step_1/user/task_0"})
    write(tmp_path / "sys/fs/cgroup" / job, {"memory.events": "low 0\noom 3\noom_kill 2"})

    assert host.read_host(proc, tmp_path / "sys").oom_kills == 2


def test_what_is_missing_is_not_known_and_hinders_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"loadavg": "1.00 1.00 1.00 1/1 1"})

    found = host.read_host(tmp_path / "proc", tmp_path / "sys")

    assert isinstance(found.memory_total, Unknown)
    assert isinstance(found.oom_kills, Unknown)
    assert found.load == 1.0
