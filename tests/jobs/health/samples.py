"""Samples of a healthy node, one and over time."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator

from jobs.health.sample import (
    Disk,
    Driver,
    Fabric,
    Gpu,
    GpuMemory,
    Host,
    LinkErrors,
    Port,
    RemappedRows,
    Sample,
    SlowTime,
    SramErrors,
    Unknown,
)

GIB = 1 << 30

WELL = Gpu(
    index=0,
    uuid="GPU-0",
    serial="1",
    name="NVIDIA A100-SXM4-80GB",
    recovery_action=0,
    ecc_volatile=0,
    ecc_aggregate=0,
    sram=SramErrors(False, 0),
    remapped_rows=RemappedRows(0, 0, False, False),
    unrepairable_memory=False,
    retired_pages=0,
    retired_pages_pending=False,
    clock_reasons=1,
    temperature=40,
    temperature_max=85,
    temperature_slowdown=89,
    memory_temperature=45,
    memory_temperature_max=95,
    power_limit=400_000,
    power_limit_default=400_000,
    pcie_width=16,
    pcie_width_max=16,
    nvlinks=(True,) * 12,
    fabric=Fabric(3, 0, 1),
    processes=(),
    ecc_mode=(True, True),
    mig_mode=False,
    persistence=True,
    utilisation=98,
    memory=GpuMemory(60 * GIB, 80 * GIB),
    power=350_000,
    energy=1_000_000,
    sm_clock=1400,
    sm_clock_max=1410,
    memory_clock=1593,
    pcie_generation=4,
    pcie_generation_max=4,
    pcie_replays=0,
    pcie_fatal=0,
    slow_time=SlowTime(0, 0, 0, 0),
    link_errors=LinkErrors(0, 0, 0),
    link_failures=0,
    ecc_corrected=0,
)

HOST = Host(
    memory_total=256 * GIB,
    swap_used=0,
    load=8.0,
    cores=64,
    ports=(Port("mlx5_0/1", True, "400 Gb/sec (4X NDR)", 0, 0, 0, 0),),
    oom_kills=0,
)

NODE = Sample(
    node="node01",
    time=1_700_000_000.0,
    uid=1000,
    driver=Driver("570.133.20", "12.570.133.20"),
    gpus=(WELL, dataclasses.replace(WELL, index=1)),
    unreachable=(),
    disk=Disk("/runs", 100 * GIB, 1000),
    shm=Disk("/dev/shm", 10 * GIB, 1000),
    memory_available=200 * GIB,
    host=HOST,
)


INTERVAL = 15.0
"""Seconds between two samples."""
START = NODE.time


def with_host(sample: Sample, **readings: object) -> Sample:
    """Return a sample whose node has these readings."""
    host = dataclasses.replace(sample.host, **readings)  # type: ignore[arg-type]
    return dataclasses.replace(sample, host=host)


def with_gpus(sample: Sample, *changed: int, **readings: object) -> Sample:
    """Return a sample some of whose GPUs have these readings."""
    gpus = tuple(
        dataclasses.replace(gpu, **readings) if gpu.index in changed else gpu  # type: ignore[arg-type]
        for gpu in sample.gpus
    )
    return dataclasses.replace(sample, gpus=gpus)


def steady(count: int, gpus: int = 4) -> list[Sample]:
    """Return samples of a node that trains without pause."""
    cards = tuple(
        dataclasses.replace(WELL, index=index, uuid=f"GPU-{index}") for index in range(gpus)
    )
    return [
        dataclasses.replace(NODE, gpus=cards, time=START + INTERVAL * number)
        for number in range(count)
    ]


class HealthyNode:
    """A node that trains, saves, validates and waits, with the noise of a healthy one.

    Heat follows the day; clocks, power and the PCIe generation drop in pauses; counters rise now
    and then by a little; a reading is missing now and then.
    """

    def __init__(self, seed: int, gpus: int = 8) -> None:
        self.random = random.Random(seed)
        self.warmth = [self.random.uniform(-4, 4) for _ in range(gpus)]
        self.replays = [0] * gpus
        self.corrected = [0] * gpus
        self.links = [LinkErrors(0, 0, 0)] * gpus
        self.slow = [SlowTime(0, 0, 0, 0)] * gpus
        self.energy = [10**9] * gpus
        self.errors = 0
        self.downs = 0
        self.pause_until = -1.0
        self.next_pause = self.random.uniform(600, 3600)

    def samples(self, hours: float) -> Iterator[Sample]:
        """Yield the samples of some hours."""
        for number in range(int(hours * 3600 / INTERVAL)):
            yield self.sample(number * INTERVAL)

    def sample(self, seconds: float) -> Sample:
        """Return the sample of a moment."""
        dice = self.random
        if seconds >= self.next_pause:
            self.pause_until = seconds + dice.choice([20, 60, 90, 300, 900])
            self.next_pause = self.pause_until + dice.uniform(600, 5400)
        pauses = seconds < self.pause_until
        gpus = tuple(self.gpu(index, seconds, pauses) for index in range(len(self.warmth)))
        self.errors += dice.random() < 0.01
        return dataclasses.replace(
            NODE,
            time=START + seconds,
            gpus=gpus,
            memory_available=int(dice.uniform(90, 160) * GIB),
            shm=Disk("/dev/shm", int(dice.uniform(4, 10) * GIB), 1000),
            host=dataclasses.replace(
                HOST,
                load=dice.uniform(2, 1.2 * 64),
                swap_used=int(dice.uniform(0, 0.2) * GIB),
                ports=(Port("mlx5_0/1", True, "400 Gb/sec (4X NDR)", 0, 0, self.errors, 0),),
            ),
        )

    def gpu(self, index: int, seconds: float, pauses: bool) -> Gpu:
        dice = self.random
        day = 3 * math.sin(seconds / 86400 * 2 * math.pi)
        watts = dice.uniform(70, 110) if pauses else dice.uniform(280, 400)
        self.energy[index] += int(watts * INTERVAL * 1000)
        self.replays[index] += dice.random() < 0.002
        self.corrected[index] += dice.randrange(200) if dice.random() < 0.0005 else 0
        links, slow = self.links[index], self.slow[index]
        if dice.random() < 0.02:
            links = self.links[index] = dataclasses.replace(links, replays=links.replays + 1)
        capped = 0 if pauses else int(dice.uniform(0, 1) * INTERVAL * 1e9)
        blip = int(0.2e9) if dice.random() < 0.002 else 0
        self.slow[index] = SlowTime(
            slow.power_cap + capped, slow.thermal, slow.hardware_thermal + blip, slow.power_brake
        )
        day + self.warmth[index] + dice.gauss(0, 1)
        reading = {
            "index": index,
            "uuid": f"GPU-{index}",
            "temperature": round(
                (42 if pauses else 58) + day + self.warmth[index] + dice.gauss(0, 1)
            ),
            "memory_temperature": round((48 if pauses else 70) + day + dice.gauss(0, 1)),
            "utilisation": dice.choice([0, 0, 5]) if pauses else dice.randint(85, 100),
            "memory": GpuMemory(int(dice.uniform(60, 78) * GIB), 80 * GIB),
            "power": int(watts * 1000),
            "energy": self.energy[index],
            "sm_clock": 210 if pauses else dice.randint(1200, 1410),
            "clock_reasons": 0x1 if pauses else 0x8 if blip else dice.choice([0x0, 0x4]),
            "pcie_generation": 1 if pauses else 4,
            "pcie_replays": self.replays[index],
            "ecc_corrected": self.corrected[index],
            "link_errors": links,
            "slow_time": self.slow[index],
        }
        if dice.random() < 0.001:
            reading[dice.choice(["power", "temperature", "slow_time", "utilisation"])] = Unknown(
                "Unknown Error", 999
            )
        return dataclasses.replace(WELL, **reading)  # type: ignore[arg-type]
