"""Checks on samples made up here: no NVML, no node."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.contract.outcomes import HEALTH_CODES
from jobs.health import gpu_checks, node_checks
from jobs.health.monitor import rules
from jobs.health.node_checks import Expected, HealthFinding, HealthVerdict, NodeAction
from jobs.health.nvml import PROBES, node_name, read_disk
from jobs.health.sample import Disk, Driver, Gpu, GpuProcess, RemappedRows, Sample, Unknown

from .samples import GIB, HOST, NODE, WELL

CONDEMNING = set(gpu_checks.HARD_ERRORS)
soft_unknowns = st.builds(
    Unknown, st.text(), st.none() | st.integers(1, 999).filter(lambda code: code not in CONDEMNING)
)
unsupported_is_unknown = soft_unknowns.filter(lambda reading: reading.nvml != 3)


def findings_of(sample: Sample, code: str, expected: Expected | None = None) -> list[HealthFinding]:
    found = node_checks.check(sample, expected or Expected())
    return [finding for finding in found if finding.code == code]


def one(
    sample: Sample, code: str, expected: Expected | None = None
) -> tuple[HealthVerdict, NodeAction, str]:
    (found,) = findings_of(sample, code, expected)
    return found.verdict, found.action, found.message


def with_gpu(**readings: object) -> Sample:
    """Return a node whose only GPU has these readings."""
    return dataclasses.replace(NODE, gpus=(dataclasses.replace(WELL, **readings),))  # type: ignore[arg-type]


def test_every_field_of_a_gpu_has_its_probe() -> None:
    assert [field.name for field in dataclasses.fields(Gpu)] == ["index", *PROBES]


def test_verdicts_are_ordered_by_the_action_they_require() -> None:
    ordered = [
        HealthVerdict.OK,
        HealthVerdict.UNKNOWN,
        HealthVerdict.WARN,
        HealthVerdict.DRAIN,
        HealthVerdict.FATAL,
    ]

    assert sorted(HealthVerdict) == ordered


def test_a_node_that_is_well_is_ok() -> None:
    assert (
        node_checks.worst(node_checks.check(NODE, Expected(gpus=2, gpu_kind="a100")))
        is HealthVerdict.OK
    )


def test_no_finding_at_all_is_unknown() -> None:
    assert node_checks.worst([]) is HealthVerdict.UNKNOWN


@given(
    reading=unsupported_is_unknown,
    gpus=st.integers(1, 3),
    expected=st.builds(Expected, gpus=st.none() | st.integers(1, 8), gpu_kind=st.just("a100")),
)
def test_a_node_without_readings_is_unknown_but_for_gpus_that_are_needed(
    reading: Unknown, gpus: int, expected: Expected
) -> None:
    silent = Gpu(index=0, **dict.fromkeys(PROBES, reading))
    no_driver = Unknown("no package")
    sample = Sample(
        "node01", 0.0, 0, no_driver, (silent,) * gpus, (), reading, reading, reading, HOST
    )

    findings = node_checks.check(sample, expected)

    counted = {f.verdict for f in findings if f.code == "gpu_count"}
    others = [f for f in findings if f.code != "gpu_count"]
    assert counted == {HealthVerdict.FATAL if expected.gpus else HealthVerdict.UNKNOWN}
    assert {finding.verdict for finding in others} == {HealthVerdict.UNKNOWN}
    assert {finding.action for finding in others} == {NodeAction.NONE}


@settings(max_examples=200)
@given(gpu=st.from_type(Gpu), field=st.sampled_from(sorted(PROBES)), reading=soft_unknowns)
def test_a_reading_that_is_missing_touches_only_the_checks_that_use_it(
    gpu: Gpu, field: str, reading: Unknown
) -> None:
    users = {check.code for check in gpu_checks.CHECKS if field in (*check.needs, *check.also)}
    users |= {
        "name": {"gpu_kind", "nvlink"},
        "temperature": {"temperature_peers"},
        "nvlinks": {"nvlink"},
        "processes": {"foreign_process"},
    }.get(field, set())
    users |= {code for code, _, _ in gpu_checks.HARD_ERRORS.values()}
    blind = dataclasses.replace(gpu, **{field: reading})

    before, after = (
        [
            (finding.code, finding.verdict, finding.message)
            for finding in node_checks.check(
                dataclasses.replace(NODE, gpus=(WELL, one)), Expected()
            )
            if finding.code not in users
            and finding.subject.gpu == gpu.index
            and finding.code != "gpu_count"
        ]
        for one in (gpu, blind)
    )

    assert before == after


@settings(max_examples=200)
@given(gpu=st.from_type(Gpu))
def test_whatever_a_gpu_reports_findings_have_known_codes_and_are_json(gpu: Gpu) -> None:
    expected = Expected(gpus=2, gpu_kind="A100-SXM4-80GB")

    findings = node_checks.check(dataclasses.replace(NODE, gpus=(WELL, gpu)), expected)

    assert {finding.code for finding in findings} <= node_checks.CODES
    assert json.loads(json.dumps([finding.to_json() for finding in findings]))


def test_a_driver_that_hides_its_version_is_unknown_and_its_gpus_still_count() -> None:
    sample = dataclasses.replace(NODE, driver=Driver(Unknown("no answer", 999), "12"))

    assert one(sample, "driver")[0] is HealthVerdict.UNKNOWN
    assert one(sample, "gpu_count", Expected(gpus=2))[0] is HealthVerdict.OK


@pytest.mark.parametrize(
    ("disk", "verdict", "action", "message"),
    [
        (Disk("/runs", 50 * GIB, 9), HealthVerdict.OK, NodeAction.NONE, "/runs has 50.0 GiB free"),
        (
            Disk("/runs", 50 * GIB - 1, 9),
            HealthVerdict.FATAL,
            NodeAction.RETRY_SAME,
            "/runs has 50.0 GiB free, 50 are needed",
        ),
        (
            Disk("/runs", 60 * GIB, 0),
            HealthVerdict.FATAL,
            NodeAction.RETRY_SAME,
            "/runs has no free inode",
        ),
        (
            Disk("/runs", 60 * GIB, None),
            HealthVerdict.OK,
            NodeAction.NONE,
            "/runs has 60.0 GiB free",
        ),
        (
            Unknown("no such device"),
            HealthVerdict.UNKNOWN,
            NodeAction.NONE,
            "could not be read: no such device",
        ),
    ],
)
def test_full_storage_is_fatal_but_no_fault_of_the_node(
    disk: Disk | Unknown, verdict: HealthVerdict, action: NodeAction, message: str
) -> None:
    sample = dataclasses.replace(NODE, disk=disk)

    assert one(sample, "disk", Expected(min_free_gb=50)) == (verdict, action, message)


@pytest.mark.parametrize(
    ("gpus", "free_gb", "verdict"),
    [
        (8, 8.0, HealthVerdict.OK),
        (8, 7.9, HealthVerdict.FATAL),
        (0, 0.0, HealthVerdict.OK),
        (None, 1.9, HealthVerdict.FATAL),
    ],
)
def test_shared_memory_is_needed_per_gpu(
    gpus: int | None, free_gb: float, verdict: HealthVerdict
) -> None:
    sample = dataclasses.replace(NODE, shm=Disk("/dev/shm", int(free_gb * GIB), None))

    assert one(sample, "shm", Expected(gpus=gpus))[0] is verdict


@pytest.mark.parametrize(
    ("memory_gb", "verdict"),
    [(0, HealthVerdict.OK), (222, HealthVerdict.OK), (223, HealthVerdict.WARN)],
)
def test_a_tenth_of_the_memory_may_be_in_use(memory_gb: float, verdict: HealthVerdict) -> None:
    assert one(NODE, "memory", Expected(memory_gb=memory_gb))[0] is verdict


def test_our_own_processes_are_in_the_way_only_before_a_start() -> None:
    sample = with_gpu(processes=(GpuProcess(7, NODE.uid, 0),))

    assert one(sample, "foreign_process", Expected(idle=True))[0] is HealthVerdict.FATAL
    assert one(sample, "foreign_process", Expected(idle=False))[0] is HealthVerdict.OK


def test_a_process_that_we_may_not_see_is_foreign() -> None:
    sample = with_gpu(processes=(GpuProcess(7, -1, 0),))

    assert one(sample, "foreign_process", Expected(idle=False))[0] is HealthVerdict.FATAL


def test_links_of_a_gpu_without_a_reading_do_not_count_against_its_peers() -> None:
    silent = dataclasses.replace(WELL, index=1, nvlinks=Unknown("no answer"))
    sample = dataclasses.replace(NODE, gpus=(WELL, silent))

    verdicts = [finding.verdict for finding in findings_of(sample, "nvlink")]

    assert verdicts == [HealthVerdict.OK, HealthVerdict.UNKNOWN]


@pytest.mark.parametrize(
    ("name", "kind", "same"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100", True),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB", True),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB", True),
        ("NVIDIA GH200 120GB", "gh200", True),
        ("NVIDIA GH200 120GB", "h200", False),
        ("NVIDIA RTX A1000", "a100", False),
        ("NVIDIA GeForce RTX 3090", "rtx3090", True),
        ("NVIDIA GeForce RTX 3090", "rtx4090", False),
        ("Tesla V100-SXM2-32GB", "v100", True),
        ("Tesla V100-SXM2-32GB", "a100", False),
        ("NVIDIA L40S", "l40", False),
        ("NVIDIA L40S", "nvidia", True),
    ],
)
def test_kinds_are_compared_by_model(name: str, kind: str, same: bool) -> None:
    assert gpu_checks.is_kind(name, kind) is same


def test_an_expectation_takes_what_a_specification_holds() -> None:
    given_by_plan = {
        "gpus": 4,
        "gpu_kind": "a100",
        "min_shm_gb_per_gpu": 2,
        "memory_gb": 512,
        "min_free_gb": 30.5,
        "skip": ["persistence"],
    }

    expected = node_checks.expectation(given_by_plan, {"SLURM_GPUS_ON_NODE": "8"})

    assert expected == Expected(4, "a100", 2, 512, 30.5, True, frozenset({"persistence"}))


@pytest.mark.parametrize(("count", "gpus"), [("8", 8), ("", None), ("a100:8", None)])
def test_slurms_count_is_expected_without_another(count: str, gpus: int | None) -> None:
    assert node_checks.expectation({"gpus": None}, {"SLURM_GPUS_ON_NODE": count}).gpus == gpus


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"gpu": 8}, "health: unknown key 'gpu'; did you mean 'gpus'?"),
        ({"idle": False}, "health: unknown key 'idle'; known are: gpu_kind, gpus, memory_gb, "
                          "min_free_gb, min_shm_gb_per_gpu, skip"),
        ({"skip": ["row_remaps"]},
         "health: unknown code to skip 'row_remaps'; did you mean 'row_remap'?"),
    ],
)  # fmt: skip
def test_an_unknown_expectation_is_refused(wanted: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as refusal:  # noqa: PT011  the whole message is compared
        node_checks.expectation(wanted, {})

    assert str(refusal.value) == message


def test_a_finding_reads_as_one_line() -> None:
    sample = with_gpu(remapped_rows=RemappedRows(0, 1, True, True))

    (found,) = findings_of(sample, "row_remap")

    assert str(found) == (
        "FATAL node01 GPU 0: row_remap: "
        "a memory row could not be remapped: the card needs replacing"
    )


def test_the_disk_of_a_folder_to_be_is_that_of_its_parent(tmp_path: Path) -> None:
    assert read_disk(tmp_path / "not" / "yet").path == str(tmp_path)


def test_slurms_name_of_the_node_comes_first() -> None:
    assert node_name({"SLURMD_NODENAME": "gpu07"}) == "gpu07"
    assert node_name({}) != ""


def test_a_profile_may_skip_the_codes_of_findings() -> None:
    assert list(HEALTH_CODES) == sorted(node_checks.CODES | rules.CODES | {"straggler"})
