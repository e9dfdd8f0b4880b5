"""The checks through the real nvidia-ml-py, which loads a library scripted with readings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ...fake_nvml import NAME, Examiner, build

NEWER_THAN_520 = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetUnrepairableMemoryFlag_v1",
    "nvmlDeviceGetSramEccErrorStatus",
)

A100 = {"count": 8}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    """Yield a node with a current driver."""
    folder = tmp_path_factory.mktemp("nvml")
    examiner = Examiner(build(folder / "lib"), folder)
    yield examiner
    examiner.close()


@pytest.fixture(scope="module")
def old_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examiner]:
    """Yield a node with a driver that lacks the newer symbols."""
    folder = tmp_path_factory.mktemp("old-nvml")
    examiner = Examiner(build(folder / "lib", without=NEWER_THAN_520), folder)
    yield examiner
    examiner.close()


def unwell(findings: list[dict[str, Any]]) -> list[tuple[str, str, str, int | None]]:
    """Verdict, code, action and GPU of each finding that is not OK."""
    return [
        (found["verdict"], found["code"], found["action"], found["subject"]["gpu"])
        for found in findings
        if found["verdict"] != "OK"
    ]


def only(findings: list[dict[str, Any]], code: str) -> dict[str, Any]:
    (found,) = [finding for finding in findings if finding["code"] == code]
    return found


def test_a_healthy_node_of_eight_gpus_is_ok_in_every_check(node: Examiner) -> None:
    findings = node.ask(A100, {"gpus": 8, "gpu_kind": "a100"})

    assert unwell(findings) == []
    codes = [found["code"] for found in findings]
    per_gpu = {
        "recovery_action", "ecc_uncorrected", "ecc_sram", "row_remap", "memory_unrepairable",
        "retired_pages", "throttle", "temperature", "memory_temperature", "power_cap", "pcie_width",
        "ecc_mode", "mig_mode", "persistence", "gpu_kind", "nvlink", "foreign_process",
    }  # fmt: skip
    assert {code for code in codes if codes.count(code) == 8} == per_gpu
    assert set(codes) - per_gpu == {"driver", "gpu_count", "disk", "shm", "memory"}


READINGS = [
    # field 230
    ({"gpu.field.230": 1}, "FATAL", "recovery_action", "exclude_now"),
    ({"gpu.field.230": 2}, "FATAL", "recovery_action", "exclude_now"),
    ({"gpu.field.230": 3}, "DRAIN", "recovery_action", "exclude_after_job"),
    ({"gpu.field.230": 4}, "DRAIN", "recovery_action", "exclude_after_job"),
    ({"gpu.field.230": 5}, "DRAIN", "recovery_action", "exclude_after_job"),
    ({"gpu.field.230": 6}, "FATAL", "recovery_action", "exclude_now"),
    ({"gpu.field.230": 7}, "FATAL", "recovery_action", "exclude_now"),
    ({"gpu.field.230": 99}, "DRAIN", "recovery_action", "exclude_after_job"),
    ({"gpu.field.230.error": 3}, "UNKNOWN", "recovery_action", "none"),
    # uncorrected errors since the last reset
    ({"gpu.ecc.volatile": 1}, "DRAIN", "ecc_uncorrected", "exclude_after_job"),
    ({"gpu.error.nvmlDeviceGetTotalEccErrors": 3}, "UNKNOWN", "ecc_uncorrected", "none"),
    # on-chip memory
    ({"gpu.sram.threshold": 1}, "FATAL", "ecc_sram", "exclude_now"),
    ({"gpu.sram.aggregate_parity": 1}, "WARN", "ecc_sram", "none"),
    (
        {"gpu.sram.aggregate_parity": 2, "gpu.sram.aggregate_secded": 3},
        "DRAIN",
        "ecc_sram",
        "exclude_after_job",
    ),
    # remapped rows, unrepairable memory, retired pages
    ({"gpu.remap.pending": 1}, "WARN", "row_remap", "none"),
    ({"gpu.remap.failed": 1}, "FATAL", "row_remap", "exclude_now"),
    ({"gpu.remap.pending": 1, "gpu.remap.failed": 1}, "FATAL", "row_remap", "exclude_now"),
    ({"gpu.error.nvmlDeviceGetRemappedRows": 999}, "UNKNOWN", "row_remap", "none"),
    ({"gpu.unrepairable": 1}, "FATAL", "memory_unrepairable", "exclude_now"),
    ({"gpu.retired.single": 30, "gpu.retired.double": 31}, "FATAL", "retired_pages", "exclude_now"),
    ({"gpu.retired.pending": 1}, "DRAIN", "retired_pages", "exclude_after_job"),
    # throttling, seen once
    ({"gpu.clocks": 0x08}, "WARN", "throttle", "none"),
    ({"gpu.clocks": 0x20}, "WARN", "throttle", "none"),
    ({"gpu.clocks": 0x48}, "WARN", "throttle", "none"),
    ({"gpu.clocks": 0x84}, "WARN", "throttle", "none"),
    # temperature; on every GPU alike, so that no one is hotter than its peers
    ({"gpu.temperature": 86}, "WARN", "temperature", "none"),
    ({"gpu.temperature": 89}, "DRAIN", "temperature", "exclude_after_job"),
    ({"gpu.limit.gpu": 0, "gpu.limit.slowdown": 0}, "UNKNOWN", "temperature", "none"),
    ({"gpu.field.82": 96}, "WARN", "memory_temperature", "none"),
    ({"gpu.limit.memory": 0}, "UNKNOWN", "memory_temperature", "none"),
    # power and PCIe
    ({"gpu.power.limit": 300000}, "WARN", "power_cap", "none"),
    ({"gpu.pcie.width": 8}, "DRAIN", "pcie_width", "exclude_after_job"),
    # links
    ({"gpu.nvlink.active": 0}, "FATAL", "nvlink", "exclude_now"),
    ({"gpu.error.nvmlDeviceGetNvLinkState": 999}, "UNKNOWN", "nvlink", "none"),
    # NVSwitch fabric
    ({"gpu.fabric.state": 1}, "FATAL", "fabric", "exclude_now"),
    ({"gpu.fabric.state": 3, "gpu.fabric.status": 999}, "FATAL", "fabric", "exclude_now"),
    ({"gpu.fabric.state": 3, "gpu.fabric.summary": 2}, "DRAIN", "fabric", "exclude_after_job"),
    ({"gpu.fabric.state": 3, "gpu.fabric.summary": 3}, "WARN", "fabric", "none"),
    # modes
    ({"gpu.ecc.mode": 0}, "DRAIN", "ecc_mode", "exclude_after_job"),
    ({"gpu.ecc.pending": 0}, "WARN", "ecc_mode", "none"),
    ({"gpu.mig": 1}, "FATAL", "mig_mode", "exclude_now"),
    ({"gpu.persistence": 0}, "WARN", "persistence", "none"),
]


@pytest.mark.parametrize(("reading", "verdict", "code", "action"), READINGS)
def test_a_reading_gives_its_verdict_and_nothing_else(
    node: Examiner, reading: dict[str, object], verdict: str, code: str, action: str
) -> None:
    findings = node.ask({"count": 2, **reading}, {"gpus": 2})

    assert unwell(findings) == [(verdict, code, action, gpu) for gpu in range(2)]


@pytest.mark.parametrize(
    ("error", "verdict", "code", "action"),
    [
        (14, "DRAIN", "inforom_corrupted", "exclude_after_job"),
        (15, "FATAL", "gpu_lost", "exclude_now"),
        (16, "FATAL", "gpu_reset_required", "exclude_now"),
    ],
)
def test_some_errors_condemn_a_gpu_whichever_call_meets_them(
    node: Examiner, error: int, verdict: str, code: str, action: str
) -> None:
    readings = {
        **A100,
        "gpu.4.error.nvmlDeviceGetPersistenceMode": error,
        "gpu.4.error.nvmlDeviceGetSerial": error,
    }

    findings = node.ask(readings, {"gpus": 8})

    assert unwell(findings) == [(verdict, code, action, 4), ("UNKNOWN", "persistence", "none", 4)]
    assert only(findings, code)["evidence"]["probes"] == ["persistence", "serial"]


WELL = [
    {"gpu.clocks": 0x17},  # idle, application clocks, power cap, sync boost
    {"gpu.ecc.aggregate": 12345},
    {"gpu.remap.corrected": 3, "gpu.remap.uncorrected": 1},
    {"gpu.retired.single": 60},
    {"gpu.fabric.state": 3},
    {"gpu.fabric.state": 3, "gpu.fabric.newest_form": 2},
    {"gpu.error.nvmlDeviceGetRetiredPages": 3},
    {"gpu.error.nvmlDeviceGetGpuFabricInfoV": 3},
    {"gpu.error.nvmlDeviceGetMigMode": 3},
    {"gpu.error.nvmlDeviceGetEccMode": 3},
    {"gpu.field.82.error": 3},
    {"gpu.error.nvmlDeviceGetNvLinkState": 3},
    {"gpu.name": "NVIDIA A100 80GB PCIe", "gpu.nvlink.active": 0},
    {"gpu.name": "NVIDIA GeForce RTX 3090", "gpu.ecc.mode": 0},
    {"gpu.error.nvmlDeviceGetMPSComputeRunningProcesses_v3": 3},
    {"gpu.processes": "99999999:100"},  # a process that has ended
]


@pytest.mark.parametrize("reading", WELL)
def test_what_is_normal_raises_nothing(node: Examiner, reading: dict[str, object]) -> None:
    assert unwell(node.ask({"count": 2, **reading}, {"gpus": 2})) == []


def test_one_unsupported_probe_does_not_affect_others(node: Examiner) -> None:
    whole = node.ask(A100, {"gpus": 8})
    findings = node.ask({**A100, "gpu.5.error.nvmlDeviceGetRemappedRows": 3}, {"gpus": 8})

    assert unwell(findings) == [("UNKNOWN", "row_remap", "none", 5)]
    assert [found["code"] for found in findings] == [found["code"] for found in whole]


def test_a_gpu_that_fails_every_call_with_nonsense_is_unknown_not_fatal(node: Examiner) -> None:
    calls = (
        "nvmlDeviceGetName",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetTemperatureV",
    )
    errors = {f"gpu.0.error.{name}": 999 for name in calls}

    findings = node.ask({"count": 1, **errors}, {"gpus": 1, "gpu_kind": "a100"})

    assert {(verdict, code) for verdict, code, _, _ in unwell(findings)} == {
        ("UNKNOWN", "recovery_action"),
        ("UNKNOWN", "ecc_uncorrected"),
        ("UNKNOWN", "temperature"),
        ("UNKNOWN", "memory_temperature"),
        ("UNKNOWN", "gpu_kind"),
        ("UNKNOWN", "foreign_process"),
    }


def test_seven_of_eight_gpus_is_fatal_and_reports_how_many(node: Examiner) -> None:
    findings = node.ask({"count": 7}, {"gpus": 8})

    assert unwell(findings) == [("FATAL", "gpu_count", "exclude_now", None)]
    assert only(findings, "gpu_count")["message"] == "7 of 8 GPUs answer"


def test_a_lost_gpu_is_named_and_counts_as_missing(node: Examiner) -> None:
    findings = node.ask({**A100, "gpu.3.error": 15}, {"gpus": 8})

    assert unwell(findings) == [
        ("FATAL", "gpu_count", "exclude_now", None),
        ("FATAL", "gpu_lost", "exclude_now", 3),
    ]


def test_a_gpu_without_handle_for_another_reason_is_unknown_and_missing(node: Examiner) -> None:
    findings = node.ask({**A100, "gpu.3.error": 17}, {"gpus": 8})

    assert unwell(findings) == [
        ("FATAL", "gpu_count", "exclude_now", None),
        ("UNKNOWN", "gpu_handle", "none", 3),
    ]


def test_gpus_withheld_by_the_kernel_belong_to_other_jobs(node: Examiner) -> None:
    readings = {**A100, "gpu.0.error": 4, "gpu.1.error": 4, "gpu.1.remap.failed": 1}

    assert unwell(node.ask(readings, {"gpus": 6})) == []


@pytest.mark.parametrize(
    "visible", ["2,3", "GPU-00000002-0000-0000-0000-000000000000, GPU-00000003"]
)
def test_only_visible_gpus_are_examined(node: Examiner, visible: str) -> None:
    readings = {**A100, "gpu.2.remap.pending": 1, "gpu.4.remap.failed": 1, "gpu.5.error": 15}

    findings = node.ask(readings, {"gpus": 2}, {"CUDA_VISIBLE_DEVICES": visible})

    assert unwell(findings) == [("WARN", "row_remap", "none", 2)]


def test_only_as_many_gpus_as_the_task_uses_are_examined(node: Examiner) -> None:
    readings = {**A100, "gpu.1.remap.pending": 1, "gpu.2.remap.failed": 1, "gpu.5.error": 15}

    assert unwell(node.ask(readings, {"gpus": 2})) == [("WARN", "row_remap", "none", 1)]
    ordered = {"CUDA_VISIBLE_DEVICES": "5,2,1"}
    assert unwell(node.ask(readings, {"gpus": 2}, ordered)) == [
        ("FATAL", "gpu_count", "exclude_now", None),
        ("FATAL", "gpu_lost", "exclude_now", 5),
        ("FATAL", "row_remap", "exclude_now", 2),
    ]


def test_slurms_count_stands_in_for_a_missing_expectation(node: Examiner) -> None:
    findings = node.ask({"count": 3}, {}, {"SLURM_GPUS_ON_NODE": "4"})

    assert only(findings, "gpu_count")["message"] == "3 of 4 GPUs answer"


def test_another_kind_of_gpu_is_fatal_and_named(node: Examiner) -> None:
    readings = {"count": 2, "gpu.1.name": "NVIDIA H100 80GB HBM3"}

    findings = node.ask(readings, {"gpus": 2, "gpu_kind": "A100-80GB"})

    assert unwell(findings) == [("FATAL", "gpu_kind", "exclude_now", 1)]
    messages = [found["message"] for found in findings if found["verdict"] == "FATAL"]
    assert messages == ["is a NVIDIA H100 80GB HBM3, expected A100-80GB"]


def test_fewer_links_than_its_peers_drains_that_gpu_alone(node: Examiner) -> None:
    findings = node.ask({**A100, "gpu.6.nvlink.active": 11}, {"gpus": 8})

    assert unwell(findings) == [("DRAIN", "nvlink", "exclude_after_job", 6)]


def test_a_gpu_alone_needs_no_links(node: Examiner) -> None:
    assert unwell(node.ask({"count": 1, "gpu.nvlink.active": 0}, {"gpus": 1})) == []


def test_a_gpu_hotter_than_its_peers_is_reported(node: Examiner) -> None:
    findings = node.ask({**A100, "gpu.7.temperature": 56}, {"gpus": 8})

    assert unwell(findings) == [("WARN", "temperature_peers", "none", 7)]


def test_a_foreign_process_is_fatal_and_named(node: Examiner) -> None:
    here = os.getpid()
    findings = node.ask({"count": 2, "gpu.1.processes": f"{here}:20480,99999999:1"}, {"gpus": 2})

    assert unwell(findings) == [("FATAL", "foreign_process", "exclude_now", 1)]
    (found,) = [one for one in findings if one["verdict"] == "FATAL"]
    assert found["message"] == f"other processes compute on it: {here} of user {os.getuid()}"
    assert found["evidence"]["processes"] == [
        {"pid": here, "uid": os.getuid(), "memory": 20480 << 20}
    ]


def test_a_process_under_mps_is_foreign_too(node: Examiner) -> None:
    findings = node.ask({"count": 1, "gpu.mps_processes": f"{os.getpid()}:1"}, {"gpus": 1})

    assert unwell(findings) == [("FATAL", "foreign_process", "exclude_now", 0)]


INIT = [
    # NVML's start, GPUs expected: code, then what is not OK
    (18, 8, [("DRAIN", "driver", "exclude_after_job"), ("FATAL", "gpu_count", "exclude_now")]),
    (999, 8, [("DRAIN", "driver", "exclude_after_job"), ("FATAL", "gpu_count", "exclude_now")]),
    (15, 8, [("FATAL", "driver", "exclude_now"), ("FATAL", "gpu_count", "exclude_now")]),
    (9, 8, [("FATAL", "gpu_count", "exclude_now")]),
    (9, None, []),
    (9, 0, []),
    (18, None, [("DRAIN", "driver", "exclude_after_job"), ("UNKNOWN", "gpu_count", "none")]),
    (18, 0, [("WARN", "driver", "none")]),
]


@pytest.mark.parametrize(("code", "gpus", "expected"), INIT)
def test_a_driver_that_does_not_start(
    node: Examiner, code: int, gpus: int | None, expected: list[tuple[str, str, str]]
) -> None:
    findings = node.ask({"init": code}, {"gpus": gpus, "min_shm_gb_per_gpu": 0})

    assert [one[:3] for one in unwell(findings)] == expected


def test_gpus_that_are_needed_and_cannot_be_counted_are_missing(node: Examiner) -> None:
    findings = node.ask({"init": 18}, {"gpus": 8, "min_shm_gb_per_gpu": 0})

    message = only(findings, "gpu_count")["message"]
    assert message.startswith("8 GPUs needed, none can be counted: ")


def test_faults_of_unused_gpus_are_not_examined(node: Examiner) -> None:
    findings = node.ask({**A100, "gpu.remap.failed": 1}, {"gpus": 0})

    assert unwell(findings) == []
    assert only(findings, "gpu_count")["message"] == "no GPU expected and 8 there, not examined"


def test_skipped_codes_are_omitted(node: Examiner) -> None:
    readings = {"count": 2, "gpu.persistence": 0}

    findings = node.ask(readings, {"gpus": 2, "skip": ["persistence", "nvlink"]})

    assert unwell(findings) == []
    assert not {"persistence", "nvlink"} & {found["code"] for found in findings}


def test_an_older_driver_answers_under_older_names_and_the_rest_is_unknown(
    old_node: Examiner,
) -> None:
    findings = old_node.ask({"count": 1, "gpu.clocks": 0x40, "gpu.temperature": 86}, {"gpus": 1})

    assert {(verdict, code) for verdict, code, _, _ in unwell(findings)} == {
        ("WARN", "throttle"),
        ("WARN", "temperature"),
        ("UNKNOWN", "fabric"),
        ("UNKNOWN", "memory_unrepairable"),
        ("UNKNOWN", "ecc_sram"),
    }


def test_findings_name_node_gpu_and_time(node: Examiner) -> None:
    findings = node.ask({"count": 1}, {"gpus": 1})

    found = only(findings, "row_remap")
    assert found["subject"] == {
        "node": "node01",
        "gpu": 0,
        "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    }
    assert found["time"] > 1_700_000_000
    assert only(findings, "gpu_count")["evidence"]["gpus"] == [
        {
            "index": 0,
            "uuid": "GPU-00000000-0000-0000-0000-000000000000",
            "serial": "1650923000001",
            "name": "NVIDIA A100-SXM4-80GB",
        }
    ]


@pytest.fixture
def without_nvml(tmp_path: Path) -> Examiner:
    """Return a machine whose only NVML is no library at all."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / NAME).write_text("no library\n")
    return Examiner(tmp_path / "lib", tmp_path)


def test_a_machine_without_gpu_is_healthy(without_nvml: Examiner) -> None:
    none_said = without_nvml.ask({})
    zero_expected = without_nvml.ask({}, {"gpus": 0})
    eight_expected = without_nvml.ask({}, {"gpus": 8, "min_shm_gb_per_gpu": 0})
    without_nvml.close()

    assert unwell(none_said) == []
    assert only(none_said, "gpu_count")["message"] == "no GPU here, none expected"
    assert unwell(zero_expected) == []
    assert only(zero_expected, "gpu_count")["message"] == "no GPU expected and none there"
    assert unwell(eight_expected) == [("FATAL", "gpu_count", "exclude_now", None)]
    assert only(eight_expected, "gpu_count")["message"] == (
        "0 of 8 GPUs answer (NVML Shared Library Not Found)"
    )


def test_importing_health_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, jobs.health.preflight; print({'pynvml', 'torch', 'click'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "set()\n"
