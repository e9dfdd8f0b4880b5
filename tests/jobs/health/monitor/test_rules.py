"""Each rule about a running node, on a series that it reports and on one that it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from jobs.health.findings import Expected, HealthFinding, HealthVerdict
from jobs.health.monitor import gpu_rules, node_rules, rules
from jobs.health.monitor.node_reader import StuckProbe
from jobs.health.monitor.rules import NodeRules
from jobs.health.monitor.series import NodeSeries, rise
from jobs.health.monitor.summary import NodeSummary
from jobs.health.monitor.xid_events import XidEvent
from jobs.health.sample import (
    Disk,
    GpuMemory,
    LinkErrors,
    Port,
    RemappedRows,
    Sample,
    SlowTime,
    SramErrors,
    Unknown,
)
from jobs.health.xid import XID

from ..samples import GIB, HealthyNode, steady, with_gpus, with_host

WINDOW = 41
"""Samples of ten minutes."""

Series = list[Sample]


def found(
    series: Iterable[Sample],
    stuck: Iterable[StuckProbe] = (),
    events: Iterable[XidEvent] = (),
    expected: Expected | None = None,
) -> list[HealthFinding]:
    """Findings after the last sample."""
    node = NodeRules(expected or Expected())
    for sample in series:
        node.add(sample)
    return node.findings(stuck, list(events))


def brief(findings: Iterable[HealthFinding]) -> list[tuple[str, str, int | None]]:
    return [(item.verdict.name, item.code, item.subject.gpu) for item in findings]


def on_gpu(count: int, *gpus: int, last: int | None = None, **readings: object) -> Series:
    """Return a series in which some GPUs have these readings, throughout or in the last samples."""
    series = steady(count)
    start = 0 if last is None else count - last
    return [
        with_gpus(one, *gpus, **readings) if n >= start else one for n, one in enumerate(series)
    ]


def rising(count: int, name: str, step: int) -> Series:
    """Return a series in which a counter of GPU 1 rises."""
    return [with_gpus(one, 1, **{name: step * n}) for n, one in enumerate(steady(count))]


def slowed(share: float, field: str) -> Series:
    """Return a series in which GPU 1 was held back for a share of the time."""
    nothing = dataclasses.asdict(SlowTime(0, 0, 0, 0))
    return [
        with_gpus(one, 1, slow_time=SlowTime(**{**nothing, field: int(share * 15e9 * n)}))
        for n, one in enumerate(steady(WINDOW))
    ]


def bits(share: float) -> Series:
    """Return a series without times, in which GPU 1 is held back in a share of the samples."""
    series = on_gpu(WINDOW, 0, 1, 2, 3, slow_time=Unknown("not supported", 3))
    marked = round(share * WINDOW)
    return [
        with_gpus(one, 1, clock_reasons=0x40) if n >= WINDOW - marked else one
        for n, one in enumerate(series)
    ]


def linked(bad: int) -> Series:
    """Return a series in which the links of GPU 1 replay in the last intervals."""
    return [
        with_gpus(one, 1, link_errors=LinkErrors(max(0, n - (WINDOW - 1 - bad)), 0, 0))
        for n, one in enumerate(steady(WINDOW))
    ]


def host(count: int, last: int, **readings: object) -> Series:
    return [
        with_host(one, **readings) if n >= count - last else one
        for n, one in enumerate(steady(count))
    ]


def node(count: int, last: int, **readings: object) -> Series:
    return [
        dataclasses.replace(one, **readings) if n >= count - last else one  # type: ignore[arg-type]
        for n, one in enumerate(steady(count))
    ]


def port(**readings: object) -> Port:
    return dataclasses.replace(Port("mlx5_0/1", True, "400 Gb/sec", 0, 0, 0, 0), **readings)  # type: ignore[arg-type]


FAILED_ROW = RemappedRows(0, 1, False, True)
SRAM = SramErrors(True, 1)

GPU_SERIES: list[tuple[str, Series, Series, str]] = [
    # code, a series with a finding, one without, the verdict
    (
        "ecc_uncorrected",
        on_gpu(3, 1, last=1, ecc_volatile=2),
        on_gpu(3, 1, ecc_volatile=2),
        "DRAIN",
    ),
    (
        "ecc_corrected",
        rising(WINDOW, "ecc_corrected", 300),
        rising(WINDOW, "ecc_corrected", 100),
        "WARN",
    ),
    ("throttle", slowed(0.10, "thermal"), slowed(0.04, "thermal"), "WARN"),
    ("throttle", slowed(0.10, "power_brake"), slowed(0.9, "power_cap"), "WARN"),
    ("throttle", slowed(0.35, "hardware_thermal"), slowed(0.03, "power_brake"), "DRAIN"),
    ("throttle", bits(0.7), bits(0.05), "DRAIN"),
    ("throttle", bits(0.2), bits(0.0), "WARN"),
    ("clock_low", on_gpu(20, 1, sm_clock=900), on_gpu(20, 1, last=5, sm_clock=900), "WARN"),
    (
        "clock_low",
        on_gpu(20, 1, sm_clock=900),
        on_gpu(20, 1, sm_clock=900, clock_reasons=0x4),
        "WARN",
    ),
    (
        "clock_low",
        on_gpu(20, 1, sm_clock=900),
        on_gpu(20, 1, sm_clock=210, utilisation=3),
        "WARN",
    ),
    ("power_low", on_gpu(20, 1, power=150_000), on_gpu(20, 1, power=250_000), "WARN"),
    ("power_low", on_gpu(20, 1, power=150_000), on_gpu(20, 0, 1, 2, 3, power=90_000), "WARN"),
    (
        "pcie_generation",
        on_gpu(20, 1, pcie_generation=1),
        on_gpu(20, 1, pcie_generation=1, utilisation=0),
        "WARN",
    ),
    ("pcie_errors", on_gpu(3, 1, last=1, pcie_fatal=1), on_gpu(3, 1, pcie_fatal=1), "DRAIN"),
    (
        "nvlink_recovery",
        on_gpu(3, 1, last=1, link_failures=1),
        on_gpu(3, 1, link_failures=1),
        "DRAIN",
    ),
    (
        "power_cap",
        on_gpu(9, 1, last=4, power_limit=300_000),
        on_gpu(9, 1, last=3, power_limit=300_000),
        "WARN",
    ),
    ("pcie_replays", rising(WINDOW, "pcie_replays", 5), rising(WINDOW, "pcie_replays", 1), "WARN"),
    ("nvlink_errors", linked(20), linked(10), "WARN"),
    # checks of one sample, which must hold for some in a row
    ("gpu_lost", on_gpu(3, 1, last=1, power=Unknown("lost", 15)), on_gpu(3, 1), "FATAL"),
    (
        "gpu_reset_required",
        on_gpu(3, 1, last=1, power=Unknown("reset", 16)),
        on_gpu(3, 1, last=1, power=Unknown("Unknown Error", 999)),
        "FATAL",
    ),
    (
        "inforom_corrupted",
        on_gpu(3, 1, last=1, power=Unknown("corrupt", 14)),
        on_gpu(3, 1),
        "DRAIN",
    ),
    (
        "recovery_action",
        on_gpu(3, 1, last=1, recovery_action=2),
        on_gpu(3, 1, recovery_action=0),
        "FATAL",
    ),
    ("ecc_sram", on_gpu(3, 1, last=1, sram=SRAM), on_gpu(3, 1, sram=SRAM), "FATAL"),
    ("row_remap", on_gpu(3, 1, last=1, remapped_rows=FAILED_ROW), on_gpu(3, 1), "FATAL"),
    (
        "memory_unrepairable",
        on_gpu(3, 1, last=1, unrepairable_memory=True),
        on_gpu(3, 1, unrepairable_memory=False),
        "FATAL",
    ),
    (
        "retired_pages",
        on_gpu(3, 1, last=1, retired_pages=61),
        on_gpu(3, 1, retired_pages=60),
        "FATAL",
    ),
    (
        "fabric",
        on_gpu(3, 1, last=1, fabric=dataclasses.replace(steady(1)[0].gpus[0].fabric, state=1)),  # type: ignore[type-var]
        on_gpu(3, 1),
        "FATAL",
    ),
    ("pcie_width", on_gpu(9, 1, last=3, pcie_width=8), on_gpu(9, 1, last=2, pcie_width=8), "DRAIN"),
    (
        "nvlink",
        on_gpu(9, 1, last=3, nvlinks=(True,) * 11 + (False,)),
        on_gpu(9, 1, last=2, nvlinks=(True,) * 11 + (False,)),
        "DRAIN",
    ),
    (
        "temperature",
        on_gpu(9, 1, last=4, temperature=90),
        on_gpu(9, 1, last=3, temperature=90),
        "DRAIN",
    ),
    (
        "memory_temperature",
        on_gpu(9, 1, last=4, memory_temperature=99),
        on_gpu(9, 1, last=3, memory_temperature=99),
        "WARN",
    ),
    (
        "temperature_peers",
        on_gpu(20, 1, last=8, temperature=60),
        on_gpu(20, 1, last=7, temperature=60),
        "WARN",
    ),
]


@pytest.mark.parametrize(("code", "bad", "good", "verdict"), GPU_SERIES)
def test_a_rule_reports_the_gpu_of_a_bad_series_and_nothing_of_a_good_one(
    code: str, bad: Series, good: Series, verdict: str
) -> None:
    assert (verdict, code, 1) in brief(found(bad))
    assert code not in [item.code for item in found(good)]


DOWN = [port(active=False)]
NODE_SERIES: list[tuple[str, Series, Series, str]] = [
    (
        "memory",
        node(9, 4, memory_available=2 * GIB),
        node(9, 3, memory_available=2 * GIB),
        "WARN",
    ),
    ("swap", host(9, 2, swap_used=2 * GIB), host(9, 9, swap_used=2 * GIB), "WARN"),
    ("load", host(9, 4, load=200.0), host(9, 3, load=200.0), "WARN"),
    (
        "shm",
        node(9, 4, shm=Disk("/dev/shm", 1 << 20, 1000)),
        node(9, 3, shm=Disk("/dev/shm", 1 << 20, 1000)),
        "WARN",
    ),
    (
        "disk",
        node(9, 4, disk=Disk("/runs", 4 * GIB, 1000)),
        node(9, 3, disk=Disk("/runs", 4 * GIB, 1000)),
        "WARN",
    ),
    ("oom_kill", host(9, 2, oom_kills=1), host(9, 9, oom_kills=1), "WARN"),
    (
        "network_port",
        host(9, 4, ports=(port(active=False),)),
        host(9, 3, ports=(port(active=False),)),
        "DRAIN",
    ),
    (
        "network_flap",
        host(9, 2, ports=(port(downs=1),)),
        host(9, 9, ports=(port(downs=1),)),
        "WARN",
    ),
    (
        "network_flap",
        host(9, 2, ports=(port(downs=2),)),
        host(9, 9, ports=(port(downs=2),)),
        "DRAIN",
    ),
    (
        "network_errors",
        host(9, 2, ports=(port(errors=2000),)),
        host(9, 2, ports=(port(errors=20),)),
        "WARN",
    ),
    (
        "driver",
        node(5, 2, driver=Unknown("Driver/library version mismatch", 18), gpus=()),
        node(5, 1, driver=Unknown("Driver/library version mismatch", 18), gpus=()),
        "DRAIN",
    ),
]


@pytest.mark.parametrize(("code", "bad", "good", "verdict"), NODE_SERIES)
def test_a_rule_reports_the_node_of_a_bad_series_and_nothing_of_a_good_one(
    code: str, bad: Series, good: Series, verdict: str
) -> None:
    expected = Expected(min_free_gb=10)

    assert (verdict, code, None) in brief(found(bad, expected=expected))
    assert code not in [item.code for item in found(good, expected=expected)]


def test_gpus_that_are_gone_are_missing_from_the_second_sample_on() -> None:
    series = steady(6)
    gone = [dataclasses.replace(one, gpus=one.gpus[:3]) for one in series[4:]]
    expected = Expected(gpus=4)

    once = found([*series[:4], gone[0]], expected=expected)
    twice = found([*series[:4], *gone], expected=expected)

    assert brief(once) == []
    assert brief(twice) == [("FATAL", "gpu_count", None)]


def test_a_probe_that_hangs_is_a_finding_and_later_a_reason_to_leave() -> None:
    short = StuckProbe("GPU 1", 1, "power", 20.0)
    long = dataclasses.replace(short, seconds=400.0)

    assert brief(found(steady(3), [short])) == [("WARN", "probe_stuck", 1)]
    (finding,) = found(steady(3), [long])
    assert (finding.verdict, finding.message) == (
        HealthVerdict.DRAIN,
        "power of GPU 1 has not returned for 400 s",
    )


def xids(*events: tuple[float, int, int]) -> list[tuple[str, str]]:
    """Verdict and message of events: seconds, GPU, number."""
    heard = [XidEvent(seconds, gpu, f"GPU-{gpu}", number) for seconds, gpu, number in events]
    return [(item.verdict.name, item.message) for item in found(steady(3), events=heard)]


def test_an_unknown_xid_is_reported_and_an_informational_one_is_not() -> None:
    assert xids((0, 1, 999)) == [("WARN", "XID 999: not in the table of this program")]
    assert xids((0, 1, 43), (0, 1, 63)) == []


def test_an_error_of_nvlink_5_is_fatal_where_the_gpu_needs_a_reset() -> None:
    """Most of its causes need nothing (NVIDIA's catalogue, decoding of XID 144 to 150)."""
    heard = [XidEvent(0, 1, "GPU-1", 145)]

    assert brief(found(steady(3), events=heard)) == [("WARN", "xid", 1)]
    assert brief(found(on_gpu(3, 1, last=1, recovery_action=1), events=heard)) == [
        ("FATAL", "recovery_action", 1),
        ("WARN", "xid", 1),
    ]


def test_every_xid_that_is_reported_has_a_meaning() -> None:
    messages = [message for number in XID for _, message in xids((0, 1, number))]

    assert len(messages) > 40
    assert not [message for message in messages if "not in the table" in message]


def test_a_second_contained_error_on_a_gpu_condemns_it_but_the_same_one_told_twice_does_not() -> (
    None
):
    message = "XID 94: a contained memory error"

    assert xids((0, 1, 94), (60, 2, 94)) == [("WARN", message), ("WARN", message)]
    assert xids((0, 1, 94), (4, 1, 94)) == [("WARN", f"{message}, 2 times")]
    assert xids((0, 1, 94), (60, 1, 94)) == [("FATAL", f"{message}, 2 times")]


def test_every_code_has_a_series_with_and_without_a_finding() -> None:
    tested = {row[0] for row in (*GPU_SERIES, *NODE_SERIES)}

    assert tested | {"gpu_count", "probe_stuck", "xid"} == rules.CODES
    assert {rule.code for rule in gpu_rules.RULES} <= tested
    assert {rule.code for rule in node_rules.RULES} <= tested


def test_what_the_preflight_check_has_reported_is_not_reported_again_unless_worse() -> None:
    pending = dataclasses.replace(FAILED_ROW, pending=True, failed=False)
    series = on_gpu(5, 1, remapped_rows=pending)

    assert brief(found(series)) == []
    assert brief(found([*series, *on_gpu(1, 1, remapped_rows=FAILED_ROW)])) == [
        ("FATAL", "row_remap", 1)
    ]


def test_a_counter_that_was_reset_counts_from_zero() -> None:
    values = [5000, 5200, 40, 90]
    series = [with_gpus(one, 1, pcie_replays=v) for one, v in zip(steady(4), values, strict=True)]

    (finding,) = found(series)

    assert finding.evidence == {"new": 290}


@pytest.mark.parametrize("jump", [-86_400.0, -100.0, 86_400.0])
def test_a_clock_that_is_set_leaves_no_finding_and_no_old_samples(jump: float) -> None:
    series = NodeSeries()
    samples = [
        dataclasses.replace(one, time=one.time + (jump if n >= WINDOW else 0.0))
        for n, one in enumerate(steady(2 * WINDOW))
    ]
    for sample in samples:
        series.add(sample)

    assert len(list(series)) == WINDOW
    assert found(samples) == []


def test_energy_by_power_over_time_never_falls() -> None:
    summary, series = NodeSummary(), on_gpu(3, 0, 1, 2, 3, energy=Unknown("not supported", 3))
    for sample in (*series, dataclasses.replace(series[0], time=series[0].time - 60)):
        before = summary.to_json()["energy_j"]
        summary.add(sample)
        assert summary.to_json()["energy_j"] >= before

    assert summary.to_json()["energy_source"] == "power"


def test_skipped_codes_are_omitted() -> None:
    series = on_gpu(9, 1, last=3, pcie_width=8)

    assert found(series, expected=Expected(skip=frozenset({"pcie_width"}))) == []


def test_a_gpu_without_readings_is_not_against_the_node() -> None:
    silent = {
        name: Unknown("did not answer in time")
        for name in ("power", "temperature", "memory", "ecc_volatile", "slow_time", "sm_clock")
    }

    assert brief(found(on_gpu(WINDOW, 1, last=20, **silent))) == []
    assert isinstance(steady(1)[0].gpus[0].memory, GpuMemory)


def healthy(hours: float, seed: int) -> list[HealthFinding]:
    """Everything that the rules report during some hours of a healthy node, in every minute."""
    node, alarms = NodeRules(Expected(gpus=8)), []
    for number, sample in enumerate(HealthyNode(seed).samples(hours)):
        node.add(sample)
        if number % 4 == 0:
            alarms += node.findings((), ())
    return alarms


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_node_raises_no_alarm(seed: int) -> None:
    assert healthy(2, seed) == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_hours_of_each_of_ten_healthy_nodes_raise_no_alarm(seed: int) -> None:
    assert healthy(100, seed) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5000, 5000, 5003], 3),
        ([0, 0, 7], 7),
        ([5000, 2, 4], 4),
        ([5000, 0, 4], 4),
        ([5000, 0, 5001], 1),
        ([5000], 0),
        ([], 0),
    ],
)
def test_a_counter_that_is_reset_or_not_readable_rises_by_what_it_counted(
    values: list[int], expected: int
) -> None:
    assert rise(enumerate(values)) == expected
