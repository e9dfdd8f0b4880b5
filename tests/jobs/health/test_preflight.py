"""The preflight check as the supervisor starts it, on nodes made of readings."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir, specs
from jobs.contract.files import FORMAT, read_json, write_json
from jobs.health import preflight
from jobs.health.findings import Outcome, Subject, finding_about
from jobs.health.node_checks import HealthFinding, HealthVerdict, NodeAction

from ...corpus_specs import curate_spec
from ...fake_nvml import build, environment, write_readings
from ...task_specs import task_spec

REPOSITORY = Path(__file__).parents[3]

SPEC = curate_spec()


@dataclass(frozen=True)
class Node:
    """A node called node07, and a run whose first task is to start on it."""

    library: Path
    run: rundir.RunDir

    def expect(self, health: dict[str, Any]) -> None:
        """Write the task's specification."""
        task = task_spec("curate", SPEC, health=health)
        write_json(self.run.spec("curate", 0), specs.to_json(task))

    def start(
        self,
        readings: Mapping[str, object],
        file_limit: int = resource.RLIM_INFINITY,
        more: Sequence[str] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run the preflight check of attempt 3; larger files than `file_limit` fail."""
        path = write_readings(self.run.root.parent / "readings", readings)
        arguments = [str(self.run.root), "curate", "0", "3", "--process-wait", "0.01", *more]
        return subprocess.run(
            [sys.executable, "-m", "jobs.health.preflight", *arguments],
            cwd=REPOSITORY,
            env={**environment(self.library, path), "SLURMD_NODENAME": "node07"},
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit)),
            check=False,
        )

    def record(self) -> dict[str, Any]:
        """Return the preflight check's report."""
        return read_json(self.run.attempt("curate", 3) / "health-00000-node07.json")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def node(library: Path, tmp_path: Path) -> Node:
    run = rundir.RunDir(tmp_path / "run")
    run.root.mkdir()
    return Node(library, run)


def test_a_fit_node_has_its_scratch_folder(node: Node) -> None:
    scratch = node.run.root.parent / "fast" / "meditron-0123"
    node.expect({"gpus": 2})

    done = node.start({"count": 2}, more=("--scratch", str(scratch)))

    assert (done.returncode, done.stderr) == (0, "")
    assert scratch.stat().st_mode & 0o777 == 0o700
    assert list(scratch.iterdir()) == []


def test_a_node_without_its_scratch_folder_is_not_fit(node: Node) -> None:
    file = node.run.root.parent / "file"
    file.write_text("")
    node.expect({"gpus": 2})

    done = node.start({"count": 2}, more=("--scratch", str(file / "meditron-0123")))

    assert done.returncode == 5
    assert done.stderr == (
        f"FATAL node07: scratch: {file}/meditron-0123 cannot be used: Not a directory\n"
    )


def test_a_fit_node_starts_and_writes_every_finding(node: Node) -> None:
    node.expect({"gpus": 2, "gpu_kind": "a100"})

    done = node.start({"count": 2})

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    record = node.record()
    assert (record["format"], record["node"], record["verdict"]) == (FORMAT, "node07", "OK")
    codes = [found["code"] for found in record["findings"]]
    assert codes[0] == "storage"
    assert {"driver", "gpu_count", "disk", "shm", "memory", "row_remap", "nvlink"} <= set(codes)
    assert [path.name for path in node.run.attempt("curate", 3).iterdir()] == [
        "health-00000-node07.json"
    ]


def test_a_node_to_drain_starts_with_a_note(node: Node) -> None:
    node.expect({"gpus": 2})

    done = node.start({"count": 2, "gpu.1.ecc.volatile": 2, "gpu.0.remap.pending": 1})

    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "DRAIN node07 GPU 1: ecc_uncorrected: 2 uncorrected ECC errors since the last reset",
        "WARN node07 GPU 0: row_remap: a row remap is pending: reset the GPU when the node is idle",
    ]
    assert node.record()["verdict"] == "DRAIN"


def test_a_node_with_a_missing_gpu_does_not_start(node: Node) -> None:
    node.expect({"gpus": 8})

    done = node.start({"count": 7})

    assert done.returncode == 5
    assert done.stderr == "FATAL node07: gpu_count: 7 of 8 GPUs answer\n"
    assert node.record()["verdict"] == "FATAL"


def test_a_process_that_stays_on_a_gpu_stops_the_start(node: Node) -> None:
    node.expect({"gpus": 1})

    done = node.start({"count": 1, "gpu.processes": f"{os.getpid()}:1"})

    assert done.returncode == 5
    assert done.stderr == (
        "FATAL node07 GPU 0: foreign_process: other processes compute on it: "
        f"{os.getpid()} of user {os.getuid()}\n"
    )


def test_storage_that_cannot_be_written_is_fatal_and_logged(node: Node) -> None:
    node.expect({"gpus": 0})

    done = node.start({}, file_limit=1000)

    folder = node.run.attempt("curate", 3)
    assert done.returncode == 5
    assert done.stderr.splitlines() == [
        f"FATAL node07: storage: {folder} cannot be used: {os.strerror(errno.EFBIG)}",
        "UNKNOWN node07: disk: could not be read: not read",
        f"preflight: the findings could not be written: {os.strerror(errno.EFBIG)}",
    ]
    assert list(folder.iterdir()) == []


def test_too_little_room_for_the_run_is_fatal(node: Node) -> None:
    node.expect({"gpus": 0, "min_free_gb": 1e9})

    done = node.start({})

    assert done.returncode == 5
    (found,) = [one for one in node.record()["findings"] if one["code"] == "disk"]
    assert (found["verdict"], found["action"]) == ("FATAL", "retry_same")


def test_skipped_checks_do_not_stop_a_start(node: Node) -> None:
    node.expect({"gpus": 1, "skip": ["mig_mode", "storage"]})

    done = node.start({"count": 1, "gpu.mig": 1})

    assert done.returncode == 0
    codes = {found["code"] for found in node.record()["findings"]}
    assert not codes & {"mig_mode", "storage"}


def test_an_unknown_expectation_is_a_configuration_error(node: Node) -> None:
    node.expect({"gpus": 1, "skip": ["mig_mod"]})

    done = node.start({"count": 1})

    assert done.returncode == 2
    assert done.stderr == (
        "preflight: health: unknown code to skip 'mig_mod'; did you mean 'mig_mode'?\n"
        "hint: correct health_skip of the cluster profile\n"
    )


def test_a_task_without_specification_is_a_configuration_error(node: Node) -> None:
    done = node.start({})

    assert done.returncode == 2
    assert done.stderr == (
        f"preflight: {node.run.spec('curate', 0)}: No such file or directory\n"
        "hint: is this the run directory, and does this node see it?\n"
    )


def foreign(verdict: HealthVerdict) -> list[HealthFinding]:
    return [finding_about(Subject("node07", 0), "foreign_process", Outcome(verdict, ""), 0.0)]


@pytest.mark.parametrize(
    ("looks", "waits", "last"),
    [
        ([HealthVerdict.OK], 0, HealthVerdict.OK),
        ([HealthVerdict.FATAL, HealthVerdict.OK], 1, HealthVerdict.OK),
        ([HealthVerdict.FATAL, HealthVerdict.FATAL, HealthVerdict.OK], 2, HealthVerdict.OK),
        ([HealthVerdict.FATAL, HealthVerdict.FATAL, HealthVerdict.FATAL], 2, HealthVerdict.FATAL),
        ([HealthVerdict.UNKNOWN], 0, HealthVerdict.UNKNOWN),
    ],
)
def test_processes_have_three_checks_to_be_gone(
    looks: list[HealthVerdict], waits: int, last: HealthVerdict
) -> None:
    left, waited = iter(looks), []

    findings = preflight.check_until_idle(lambda: foreign(next(left)), 3, lambda: waited.append(1))

    assert [finding.verdict for finding in findings] == [last]
    assert len(waited) == waits


def test_a_child_that_does_not_answer_is_killed() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]

    assert preflight.run_limited(command, 0.2) == preflight.SILENT


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", ""),
        ("raise SystemExit('Stale file handle')", "Stale file handle"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
)
def test_a_child_reports_its_error(program: str, reason: str) -> None:
    assert preflight.run_limited([sys.executable, "-c", program], 60.0) == reason


@pytest.mark.parametrize(
    ("reason", "action"),
    [
        (os.strerror(errno.ENOSPC), NodeAction.RETRY_SAME),
        (os.strerror(errno.EDQUOT), NodeAction.RETRY_SAME),
        (os.strerror(errno.EROFS), NodeAction.EXCLUDE_NOW),
        (preflight.SILENT, NodeAction.EXCLUDE_NOW),
    ],
)
def test_only_full_storage_is_no_fault_of_the_node(reason: str, action: NodeAction) -> None:
    outcome = preflight.check_storage(Path("/runs"), reason)

    assert (outcome.verdict, outcome.action) == (HealthVerdict.FATAL, action)


def test_unresponsive_storage_is_not_written_to(tmp_path: Path) -> None:
    outcome = preflight.check_storage(tmp_path, preflight.SILENT)

    finding = finding_about(Subject("node07"), "storage", outcome, 0.0)
    preflight.report(tmp_path / "health-00000-node07.json", [finding])

    assert list(tmp_path.iterdir()) == []
