"""The probe job on nodes: two processes of this machine stand for two nodes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.files import read_json, write_json
from jobs.health import quota, site_probe, site_probe_peers
from meditron_cli.doctor import job_options

from ... import fake_slurm
from ...fake_nvml import build, environment, write_readings

ROOT = Path(__file__).parents[3]


def start_node(
    folder: Path, number: int, nodes: int = 2, part: str = "node", **more: str
) -> subprocess.Popen[bytes]:
    """Start a part of a probe that runs on a node."""
    own = {"SLURM_PROCID": str(number), "SLURM_NNODES": str(nodes), "PYTHONPATH": str(ROOT)}
    environ = {**os.environ, **own, "SLURMD_NODENAME": f"n{number}", **more}
    words = [sys.executable, "-m", "jobs.health.site_probe", part, str(folder)]
    return subprocess.Popen(words, env=environ)


def write_request(folder: Path, *step: str) -> None:
    """Write the login node's request."""
    request = {
        "environment": [],
        "sbatch": ["--partition=low"],
        "step": list(step),
        "host_step": [],
        "nodes": 1,
        "cpus": 1,
        "modules": ["json", "none.such", "decimal"],
        "stages": {"generate": {"step": list(step), "modules": ["decimal", "none.such"]}},
        "health": {"gpus": 1, "skip": ["shm"]},
    }
    write_json(folder / site_probe.REQUEST, request)


def report_of(folder: Path, number: int, part: str = "node") -> dict[str, Any]:
    return read_json(folder / f"{part}-{number}.json")


@pytest.fixture
def reports(tmp_path: Path) -> list[dict[str, Any]]:
    """Return the reports of two nodes that share a folder."""
    write_request(tmp_path)
    both = [start_node(tmp_path, number) for number in (0, 1)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    return [report_of(tmp_path, number) for number in (0, 1)]


def test_two_nodes_report_what_they_share(reports: list[dict[str, Any]]) -> None:
    first, second = reports

    assert first["peer"] == {"answered": True, "seen": True}
    assert (second["peer"]["seen"], second["peer"]["reached"]) == (True, True)
    assert second["peer"]["lock"] == "held"
    assert abs(second["peer"]["clock_offset"]) < 60  # a delay of the message counts as an offset
    assert [report["node"] for report in reports] == ["n0", "n1"]
    for report in reports:
        assert report["cpus"] == len(os.sched_getaffinity(0))
        assert report["storage"]["free_bytes"] > 0
        assert report["python"] == sys.executable
        assert report["modules"]["json"]["seconds"] >= 0
        assert report["modules"]["none.such"] == {
            "error": "ModuleNotFoundError: No module named 'none'"
        }
        assert "decimal" not in report["modules"]


def test_a_lock_without_a_holder_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert site_probe_peers.try_lock(path) == "free"

    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert site_probe_peers.try_lock(path) == "held"


def test_a_failure_is_an_entry_of_the_report_and_hides_nothing(tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        return {"free": os.statvfs(tmp_path / "none").f_bavail}

    assert site_probe.attempt(broken) == {"error": f"{tmp_path}/none: No such file or directory"}


def test_the_last_lines_of_a_program_are_kept() -> None:
    text = "".join(f"line {number}\n\n" for number in range(9))

    assert site_probe.last_lines(text) == [f"line {number}" for number in range(4, 9)]


def batch(
    folder: Path, slurm: fake_slurm.FakeSlurm, environ: dict[str, str], *step: str
) -> dict[str, Any]:
    """Return the report of a batch step that starts its processes with a command."""
    write_request(folder, *step)
    return site_probe.batch_report(folder, {**environ, "SLURM_JOB_ID": "5"})


def test_the_batch_step_collects_the_reports_of_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = fake_slurm.install(tmp_path / "slurm")
    slurm.tell("job-5", "JobId=5 JobState=RUNNING Requeue=0 Restarts=0 NodeList=n1 Partition=low")
    slurm.replace("sbatch", 'echo "sbatch $*" >&2')
    monkeypatch.setenv("PATH", slurm.environ["PATH"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SLURM_NNODES", "1")
    monkeypatch.delenv("SLURM_PROCID", raising=False)

    found = batch(tmp_path, slurm, dict(slurm.environ), sys.executable)

    assert all(found["commands"].values())
    assert found["requeue"] is False
    assert found["submit"] == {
        "accepted": True,
        "lines": ["sbatch --test-only --partition=low --wrap=true"],
    }
    assert found["step"]["code"] == 0
    assert [node["node"] for node in found["nodes"]] == [os.uname().nodename]
    assert found["stages"]["generate"]["step"]["code"] == 0
    (own,) = found["stages"]["generate"]["nodes"]
    assert (own["node"], own["python"]) == (os.uname().nodename, sys.executable)
    assert list(own["modules"]) == ["decimal", "none.such"]
    assert own["modules"]["none.such"]["error"].startswith("ModuleNotFoundError: ")
    assert "gpu_count" in {item["code"] for item in found["hosts"][0]["health"]["findings"]}
    assert found["hosts"][0]["node"] == os.uname().nodename
    assert found["time"] <= time.time()


def test_without_slurms_commands_a_batch_step_still_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = fake_slurm.install(tmp_path / "slurm")
    for name in ("srun", "sbatch", "scontrol", "sacct"):
        slurm.remove(name)
    monkeypatch.setenv("PATH", str(slurm.bin))

    found = batch(tmp_path, slurm, {"PATH": str(slurm.bin)}, "srun", sys.executable)

    missing = {name for name, is_there in found["commands"].items() if not is_there}
    assert missing == {"srun", "sbatch", "scontrol", "sacct"}
    assert (found["requeue"], found["submit"], found["nodes"]) == (None, None, [])
    assert found["host_step"]["code"] == 0
    assert found["step"] == {"code": None, "lines": ["srun: no such program"]}
    assert found["stages"]["generate"] == {"step": found["step"], "nodes": []}


# ---- health


def test_a_node_is_examined_as_before_a_training(tmp_path: Path) -> None:
    """Its GPU requests a reset, by a stand-in for the driver's library."""
    write_request(tmp_path)
    readings = write_readings(tmp_path / "unwell", {"count": 1, "gpu.field.230": 1})
    driver = environment(build(tmp_path / "lib"), readings)

    process = start_node(tmp_path, 0, nodes=1, part="host", **driver)

    assert process.wait(timeout=300) == 0
    findings = report_of(tmp_path, 0, "host")["health"]["findings"]
    by_code = {item["code"]: item for item in findings}
    assert by_code["gpu_count"]["verdict"] == "OK"
    assert by_code["recovery_action"]["verdict"] == "FATAL"
    assert "shm" not in by_code


def test_an_unknown_health_setting_is_the_reason_for_no_findings(tmp_path: Path) -> None:
    write_request(tmp_path)
    request = read_json(tmp_path / site_probe.REQUEST)
    write_json(tmp_path / site_probe.REQUEST, {**request, "health": {"skip": ["gpu_cuont"]}})

    assert start_node(tmp_path, 0, nodes=1, part="host").wait(timeout=300) == 0
    assert "gpu_cuont" in report_of(tmp_path, 0, "host")["health"]["error"]


def test_the_steps_of_ranks_do_not_report_health(reports: list[dict[str, Any]]) -> None:
    """A container, or an option of srun, may hide GPUs from them that the node has."""
    assert not {"health", "quota"} & {*reports[0], *reports[0]["storage"]}


OCCUPIED = """
import json, subprocess, sys
from pathlib import Path
from jobs.health import site_probe
from tests.fake_nvml import write_readings

process, waits = subprocess.Popen(["sleep", "600"]), []
write_readings(Path(sys.argv[1]), {"count": 1, "gpu.processes": f"{process.pid}:1"})

def wait():
    waits.append(1)
    process.kill()
    process.wait()

findings = site_probe.health_findings({"gpus": 1}, wait)
verdicts = [item["verdict"] for item in findings if item["code"] == "foreign_process"]
print(json.dumps([len(waits), verdicts]))
"""
"""A process on a GPU that ends while the check waits for it."""


def test_a_process_that_exits_in_time_does_not_count_against_its_node(tmp_path: Path) -> None:
    """It computes at the first check, and is gone at the second."""
    readings, driver = tmp_path / "readings", build(tmp_path / "lib")
    environ = {**environment(driver, readings), "PYTHONPATH": str(ROOT)}

    output = subprocess.check_output(
        [sys.executable, "-c", OCCUPIED, str(readings)], env=environ, text=True
    )

    waits, verdicts = json.loads(output)
    assert (waits, verdicts) == (1, ["OK"])


# ---- time

LIMITS = (1.0, 10.0, 60.0)
"""Seconds, of which the first is taken in which a program has begun."""


def test_a_process_has_time_for_all_that_it_may_wait_for(tmp_path: Path) -> None:
    ends = 5.0
    tools = len(list(quota.commands(tmp_path))) * (quota.TIMEOUT_SECONDS + ends)

    assert site_probe_peers.PEER_SECONDS + site_probe.CHILD_SECONDS + ends < site_probe.STEP_SECONDS
    assert site_probe.CHILD_SECONDS + tools + ends < site_probe.HOST_STEP_SECONDS
    steps = (
        site_probe.STEP_SECONDS + site_probe.HOST_STEP_SECONDS + 2 * site_probe.STEP_GRACE_SECONDS
    )
    assert steps + 60 < 60 * job_options.PROBE_MINUTES


def test_a_step_that_exceeds_its_limit_is_reported_with_its_output() -> None:
    step = ["sh", "-c", "echo busy; exec sleep 600"]
    for seconds in LIMITS:
        found = site_probe.run_step(step, seconds, grace=0.5)
        if "busy" in found["lines"]:
            break

    assert found == {"code": None, "lines": ["busy", f"no end after {seconds:.0f} s"]}


def test_a_child_that_exceeds_its_limit_keeps_its_output() -> None:
    program = "import time; print('torch', flush=True); time.sleep(600)"
    for seconds in LIMITS:
        output, error = site_probe.run_child("-c", program, seconds=seconds)
        if output:
            break

    assert (output, error) == ("torch\n", f"no end after {seconds:.0f} s")
