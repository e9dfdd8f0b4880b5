"""Findings of a probe job's report."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from jobs.contract.units import GIB
from meditron_cli.doctor import rules_probe
from meditron_cli.doctor.finding import FATAL, OK, UNKNOWN, WARN

from .sites import by_fact

MODULES = {
    "torch": {"version": "2.13.0", "seconds": 3.0},
    "megatron.core": {"version": "0.16.1", "seconds": 2.0},
}


def finding(node: str, verdict: str, code: str) -> dict[str, Any]:
    """Return a health finding with the keys that the rules read."""
    return {"verdict": verdict, "code": code, "message": f"{code} of {node} is {verdict}"}


def node(name: str, **more: Any) -> dict[str, Any]:
    """Return what one node reports."""
    return {
        "node": name,
        "cpus": 8,
        "python": "/venv/bin/python",
        "python_version": "3.11.7",
        "modules": copy.deepcopy(MODULES),
        "storage": {"free_bytes": 500 * GIB, "free_files": 10_000_000},
        **more,
    }


def host(name: str) -> dict[str, Any]:
    """Return what the host of a node reports."""
    findings = [finding(name, "OK", "driver"), finding(name, "UNKNOWN", "disk")]
    return {"node": name, "health": {"findings": findings}, "quota": {}}


def report(**changes: Any) -> dict[str, Any]:
    """Return what two nodes of a site without faults report."""
    second = {"seen": True, "host": "n1", "reached": True, "clock_offset": -0.02, "lock": "held"}
    names = ("srun", "scontrol", "sbatch", "squeue", "scancel", "sacct")
    return {
        "time": 1.0,
        "node": "n1",
        "commands": dict.fromkeys(names, True),
        "requeue": True,
        "submit": {"accepted": True, "lines": []},
        "step": {"code": 0, "lines": []},
        "host_step": {"code": 0, "lines": []},
        "requested_nodes": 2,
        "requested_cpus": 8,
        "nodes": [
            node("n1", peer={"answered": True, "seen": True}),
            node("n2", peer=second),
        ],
        "hosts": [host("n1"), host("n2")],
        **changes,
    }


def with_peer(**changes: Any) -> dict[str, Any]:
    """Return the same with another answer of the second node."""
    found = report()
    found["nodes"][1]["peer"].update(changes)
    return found


def without(*commands: str) -> dict[str, Any]:
    """Return the same on nodes that lack some of Slurm's commands."""
    found = report()
    found["commands"].update(dict.fromkeys(commands, False))
    return found


def on_each(part: str = "nodes", **changes: Any) -> dict[str, Any]:
    """Return the same with other answers of both nodes, or ``hosts``."""
    found = report()
    for each in found[part]:
        each.update(changes)
    return found


def with_stage(stage: str, **modules: Any) -> dict[str, Any]:
    """Return the same of a site where a stage has an environment of its own."""
    nodes = [node(name, python="/vllm/bin/python", modules=modules) for name in ("n1", "n2")]
    return report(stages={stage: {"step": {"code": 0, "lines": []}, "nodes": nodes}})


def with_room(free: int, files: int | None = None, **quota: int) -> dict[str, Any]:
    """Return the same with other room in the runs directory; a quota where one is reported."""
    found = on_each(storage={"free_bytes": free, "free_files": files})
    if quota:
        found["hosts"][1]["quota"] = {"bytes": None, "files": None, **quota}
    return found


def test_a_site_without_faults_has_none() -> None:
    findings = rules_probe.apply(report(), need_gb=100)

    assert {finding.verdict for finding in findings} == {OK}
    assert by_fact(findings)["Python"].value == "3.11.7, torch 2.13.0, megatron.core 0.16.1"
    assert by_fact(findings)["clocks"].value == "0.0 s apart"
    assert by_fact(findings)["runs directory"].value == "500 GiB free, 10,000,000 files"


@pytest.mark.parametrize(
    ("seen", "fact", "verdict", "sentence"),
    [
        (without("srun"), "commands on nodes", FATAL, "no rank can be started"),
        (without("sbatch", "sacct"), "commands on nodes", WARN,
         "jobs cannot submit the next one: `meditron recover` does"),
        (without("scontrol"), "commands on nodes", WARN,
         "a preempted job cannot requeue itself, only Slurm can"),
        (report(submit=None), "sbatch on nodes", UNKNOWN,
         "no answer: `meditron recover` submits"),
        (report(submit={"accepted": False, "lines": ["Access denied"]}), "sbatch on nodes", WARN,
         "jobs cannot submit the next one (Access denied): `meditron recover` does"),
        (report(requeue=False), "requeue", WARN,
         "Slurm does not requeue jobs that request it: a new job resumes the run"),
        (report(nodes=[], step={"code": 1, "lines": ["srun: error: no"]}), "processes on nodes",
         FATAL, "srun cannot start ranks: srun: error: no"),
        (on_each(cpus=1), "cores in a step", WARN,
         "a rank requests 8: check TaskPlugin in slurm.conf, or add --cpu-bind=none to slurm.srun "
         "in the profile"),
        (on_each(modules={"torch": {"error": "no end after 120 s"}}), "torch", FATAL,
         "/venv/bin/python on n1 cannot import it: no end after 120 s"),
        (with_stage("generate", vllm={"error": "no module"}), "Python of generate: vllm", WARN,
         "/vllm/bin/python on n1 cannot import it: no module"),
        (with_stage("finetune", torch={"error": "no module"}), "Python of finetune: torch", FATAL,
         "/vllm/bin/python on n1 cannot import it: no module"),
        (report(stages={"judge": {"step": {"code": 1, "lines": ["srun: no image"]}, "nodes": []}}),
         "Python of judge", WARN, "srun cannot start its ranks: srun: no image"),
        (with_stage("generate", vllm={"version": "0.12", "seconds": 41.0}), "Python of generate",
         OK, "imported on every node, within 41 s"),
        (with_peer(seen=False), "shared storage", FATAL,
         "a file written on one node does not appear on another: name a --runs-dir on storage "
         "that all nodes share"),
        (with_peer(reached=False, error="No route to host"), "nodes by name", FATAL,
         "the rendezvous of ranks would fail (No route to host)"),
        (with_peer(lock="free"), "flock between nodes", WARN,
         "a lock has no effect on other nodes (Lustre: mount with -o flock): two jobs of one run "
         "would not exclude each other"),
        (with_peer(lock="Function not implemented"), "flock between nodes", FATAL,
         "no locks (Function not implemented): name a --runs-dir on a file system that has "
         "them"),
        (with_peer(clock_offset=-30.0), "clocks", WARN,
         "the order of events is in doubt: report it to the site"),
        (on_each(storage={"error": "/runs: Read-only file system"}), "runs directory", FATAL,
         "n1 cannot write there: /runs: Read-only file system"),
        (with_room(50 * GIB), "runs directory", WARN,
         "training requires 100.0 GiB, 2.2 checkpoints"),
        (with_room(500 * GIB, bytes=50 * GIB), "runs directory", WARN,
         "training requires 100.0 GiB, 2.2 checkpoints"),
        (with_room(500 * GIB, 5000), "runs directory", WARN,
         "a long run may need more files"),
        (with_room(500 * GIB, files=5000), "runs directory", WARN,
         "a long run may need more files"),
        (with_room(500 * GIB, bytes=200 * GIB), "runs directory", OK,
         "the nodes can write there"),
        (with_room(500 * GIB), "runs directory", OK,
         "the nodes can write there; no quota is reported, ask the site for yours"),
        (on_each("hosts", health={"error": "no end after 100 s"}), "node health", UNKNOWN,
         "n2 could not be examined: no end after 100 s"),
        (on_each("hosts", health={"findings": [finding("n1", "DRAIN", "recovery_action")]}),
         "node health", WARN,
         "n2: recovery_action of n1 is DRAIN; later jobs exclude it, see "
         "`meditron nodes`"),
        (report(hosts=[host("n1")], host_step={"code": 1, "lines": ["srun: error: no"]}),
         "node health", UNKNOWN, "1 of 2 nodes could not be examined: srun: error: no"),
        (on_each("hosts", quota={"error": "/runs: Stale file handle"}), "runs directory", OK,
         "the nodes can write there; no quota is reported, ask the site for yours"),
        (report(), "node health", OK, "no problem found; 2 checks without a value"),
    ],
)  # fmt: skip
def test_a_fault_has_its_sentence(
    seen: dict[str, Any], fact: str, verdict: str, sentence: str
) -> None:
    found = by_fact(rules_probe.apply(seen, need_gb=100))[fact]

    assert (found.verdict, found.meaning) == (verdict, sentence)


def test_a_node_that_could_not_be_examined_hides_no_other() -> None:
    seen = report()
    seen["hosts"][0]["health"] = {"error": "no end after 100 s"}
    seen["hosts"][1]["health"] = {"findings": [finding("n2", "FATAL", "gpu_count")]}

    found = [item for item in rules_probe.apply(seen, 100) if item.fact == "node health"]

    assert [item.verdict for item in found] == [UNKNOWN, WARN]


def test_one_node_that_cannot_write_is_enough() -> None:
    seen = report()
    seen["nodes"][1]["storage"] = {"error": "/runs: Read-only file system"}

    found = by_fact(rules_probe.apply(seen, need_gb=100))["runs directory"]

    assert (found.verdict, found.meaning) == (
        FATAL,
        "n2 cannot write there: /runs: Read-only file system",
    )


def test_one_node_that_could_not_be_examined_is_enough_for_no_ok() -> None:
    seen = report()
    seen["hosts"][1]["health"] = {"error": "no end after 100 s"}

    found = [item for item in rules_probe.apply(seen, 100) if item.fact == "node health"]

    assert [item.verdict for item in found] == [UNKNOWN]


def test_with_one_node_nothing_is_reported_about_two() -> None:
    alone = report(requested_nodes=1, nodes=[node("n1")], hosts=[host("n1")])

    facts = set(by_fact(rules_probe.apply(alone, need_gb=100)))

    assert not facts & {"shared storage", "nodes by name", "flock between nodes", "clocks"}


@pytest.mark.parametrize(
    ("seen", "may"),
    [
        (report(), True),
        (report(submit={"accepted": False, "lines": []}), False),
        (report(submit=None), None),
        (without("sbatch"), False),
    ],
)
def test_whether_jobs_may_submit_is_what_the_node_reports(
    seen: dict[str, Any], may: bool | None
) -> None:
    assert rules_probe.may_submit(seen) is may
