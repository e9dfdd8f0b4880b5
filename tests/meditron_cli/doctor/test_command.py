"""`meditron doctor` against programs that answer as recorded: what it prints, keeps and refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from jobs.contract.files import read_json, write_json
from jobs.health import node_ledger
from jobs.slurm import steps
from meditron_cli.config import facts_file
from meditron_cli.config.facts_file import Probe
from meditron_cli.main import main
from meditron_cli.services import Services

from ... import fake_slurm
from ...conftest import Bench
from ...fake_slurm import FakeSlurm
from ...metric_lines import append, save, step
from .sites import DATA
from .test_rules_probe import finding, report, without

SBATCH = """
echo "sbatch $*" >>"$STATE/log"
case "$*" in
--version) echo slurm-wlm 22.05.8 ;;
*--test-only*) echo "sbatch: Job 9 to start at noon" >&2 ;;
*)
    [ ! -e "$STATE/refused" ] || { cat "$STATE/refused" >&2; exit 1; }
    for word; do
        case $word in --chdir=*) folder=${word#--chdir=} ;; esac
    done
    echo "$folder" >"$STATE/folder"
    echo "$*" >"$STATE/options"
    [ ! -e "$STATE/report" ] || cp "$STATE/report" "$folder/report.json"
    echo "77|PENDING|Priority" >"$STATE/queue"
    echo "77;mini" ;;
esac
"""

UNAVAILABLE = """
case "$*" in
--version) echo slurm-wlm 22.05.8 ;;
*) echo "allocation failure: Requested node configuration is not available" >&2; exit 1 ;;
esac
"""


@dataclass
class Ward:
    """A login node whose Slurm answers as recorded."""

    bench: Bench
    slurm: FakeSlurm

    @property
    def file(self) -> Path:
        """Return where facts are kept."""
        return self.bench.folder / "cache/meditron/clusters/test-slurm.json"

    @property
    def folder(self) -> Path:
        """Return the folder of the last probe job."""
        return Path((self.slurm.state / "folder").read_text().strip())

    def __call__(self, *words: str, cluster: str = "test-slurm") -> Result:
        """Run `meditron doctor`."""
        environ = {**self.slurm.environ, "MEDITRON_RUNS": str(self.bench.runs)}
        services = Services(clock=self.bench.clock, environ=environ)
        return CliRunner().invoke(main, ["doctor", "--cluster", cluster, *words], obj=services)

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Return what it prints for programs."""
        result = self(*words, "--json")
        assert result.exit_code == code, result.stderr
        found = json.loads(result.stdout)
        assert isinstance(found, dict)
        return found

    def kept(self) -> facts_file.Facts:
        """Return what it has kept."""
        facts = facts_file.read(self.file)
        assert facts
        return facts

    def will_report(self, seen: dict[str, Any]) -> None:
        """Have the next probe job report at once."""
        write_json(self.slurm.state / "report", seen)


@pytest.fixture
def ward(meditron: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    monkeypatch.setenv("XDG_CACHE_HOME", str(meditron.folder / "cache"))
    slurm = fake_slurm.install(tmp_path / "slurm")
    state, recorded = f"STATE={slurm.state}", f"{DATA}/slurm-22.05.8"
    slurm.replace("sbatch", f"{state}\n{SBATCH}")
    slurm.replace("scontrol", f'case "$2" in config|partition) cat {recorded}-"$2"*.txt ;; esac')
    slurm.replace("sinfo", f"cat {recorded}-nodes.txt")
    slurm.replace("sacct", '[ "$1" != --helpformat ] || echo JobID State ExitCode Submit Start')
    (slurm.bin / "sacctmgr").touch()
    slurm.replace("sacctmgr", f'cat {recorded}-"$4".txt')
    return Ward(meditron, slurm)


def unfit(seen_at: float) -> dict[str, Any]:
    """Return what a probe reports of two nodes, the second of which is not fit."""
    seen = report(time=seen_at)
    seen["hosts"][1]["health"] = {"findings": [finding("n2", "FATAL", "recovery_action")]}
    return seen


def facts_of(found: dict[str, Any], verdict: str) -> list[str]:
    """Return what has a verdict."""
    return [item["fact"] for item in found["findings"] if item["verdict"] == verdict]


def test_a_table_a_strategy_and_where_facts_are_kept(ward: Ward) -> None:
    result = ward("--no-probe")

    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["FACT", "VALUE", "VERDICT", "MEANING"]
    assert any(line.startswith("GraceTime ") and " 10 s " in line for line in lines)
    assert lines[-1].startswith(
        "strategy: Slurm requeues a job that is preempted or loses a node; "
    )
    assert result.stderr.splitlines()[-1] == f"facts for `plan` and `submit` are in {ward.file}"


def test_without_a_probe_nothing_is_submitted(ward: Ward) -> None:
    found = ward.json("--no-probe")

    assert not (ward.slurm.state / "folder").exists()
    assert facts_of(found, "UNKNOWN") == ["compute nodes"]
    assert (found["works"], found["probe"]) == (True, None)


def test_saves_of_a_run_on_this_cluster_are_measured(ward: Ward) -> None:
    target = ("--cluster", "test-slurm", "--size", "tiny")
    assert ward.bench("submit", "pipeline", *target).exit_code == 0
    run = ward.bench.run()
    estimated = ward.json("--no-probe")
    append(run, save(0, seconds=20.0), step(1, seconds=3.0))

    measured = ward.json("--no-probe")

    def grace(found: dict[str, Any]) -> str:
        return next(str(it["meaning"]) for it in found["findings"] if it["fact"] == "GraceTime")

    assert grace(estimated) == "a step and a save take about 0.0 s, estimated for tiny"
    assert grace(measured) == (
        f"shorter than a step and a save take (about 33.0 s, measured in run {run.name}): a "
        "preemption here loses up to 100 steps (about 5.0 minutes, 0.3 GPU-hours)"
    )


def test_plans_are_made_with_what_was_found_out(ward: Ward) -> None:
    ward("--no-probe")

    result = ward.bench("explain", "cluster.gpu_partition.grace_seconds", "--cluster", "test-slurm")

    assert "cluster.gpu_partition.grace_seconds = 10\n" in result.stdout
    assert "from: cache/meditron/clusters/test-slurm.json\n" in result.stdout


def test_a_probe_is_a_job_like_training_on_two_nodes(ward: Ward) -> None:
    ward.will_report(report())

    found = ward.json()

    options = (ward.slurm.state / "options").read_text().split()
    assert {"--nodes=2", "--ntasks-per-node=1", "--partition=low", "--gpus-per-node=2"} <= set(
        options
    )
    assert {"--requeue", "--time=10", "--job-name=meditron-doctor"} <= set(options)
    assert found["facts"]["slurm"]["submit_from_jobs"] is True
    assert "shared storage" in facts_of(found, "OK")
    assert not ward.folder.exists()


def test_the_environment_of_a_stage_is_probed_as_its_ranks_are_started(ward: Ward) -> None:
    profile = yaml.safe_load(ward.bench("clusters", "test-slurm").stdout)
    image = {"container": {"kind": "pyxis", "image": "/images/vllm.sqsh", "python": "python3"}}
    own = {"pretrain": {"python": "/train/bin/python"}, "finetune": {"python": "/tune/bin/python"}}
    profile["environment"] = {"stages": {**own, "generate": image}}
    (ward.bench.folder / "own.yaml").write_text(yaml.safe_dump(profile))
    backend = "evaluate: {generate: {backend: vllm}}"
    (ward.bench.folder / "experiment.yaml").write_text(backend)

    result = ward("--wait", "5", cluster="own.yaml")

    assert result.exit_code == 0, result.stderr
    request = read_json(ward.folder / "request.json")
    assert request["step"][-1] == "/train/bin/python"
    assert set(request["stages"]) == {"finetune", "generate"}  # that of training is the step above
    assert request["stages"]["finetune"]["step"][-1] == "/tune/bin/python"
    assert request["stages"]["finetune"]["modules"] == ["torch", "megatron.core"]
    generate = request["stages"]["generate"]
    assert generate["step"][-1] == "python3"
    assert "--container-image=/images/vllm.sqsh" in generate["step"]
    (mounts,) = [word for word in generate["step"] if word.startswith("--container-mounts=")]
    assert f"{ward.folder}:{ward.folder}" in mounts
    assert generate["modules"] == ["torch", "tokenizers", "vllm"]
    assert "--time=18" in (ward.slurm.state / "options").read_text().split()


def test_health_is_checked_on_the_host_as_the_preflight_check_does(ward: Ward) -> None:
    """Not as ranks are started: with the profile's Python, container and options of srun."""
    result = ward("--wait", "5")

    assert result.exit_code == 0, result.stderr
    request = read_json(ward.folder / "request.json")
    assert request["host_step"] == steps.one_per_node(2, "--job-name=check")


def test_a_node_that_is_not_fit_is_put_into_the_ledger_once(ward: Ward) -> None:
    seen_at = ward.bench.clock.now() - 3600
    ward.will_report(unfit(seen_at))

    ward.json()
    ward.json("--no-probe")

    (entry,) = node_ledger.read(node_ledger.ledger(ward.bench.runs, "test-slurm"))
    assert (entry.node, entry.code, entry.verdict) == ("n2", "recovery_action", "FATAL")
    assert (entry.time, entry.expires) == (seen_at, seen_at + 7 * 86400)


def test_what_has_expired_since_a_node_was_seen_is_not_put_into_the_ledger(ward: Ward) -> None:
    ward.will_report(unfit(ward.bench.clock.now() - 8 * 86400))

    ward.json()

    assert node_ledger.read(node_ledger.ledger(ward.bench.runs, "test-slurm")) == ()


@pytest.mark.parametrize(("cleared", "count"), [(60, 0), (-60, 1)])
def test_a_node_that_was_cleared_since_it_was_seen_stays_so(
    ward: Ward, cleared: float, count: int
) -> None:
    seen_at = ward.bench.clock.now() - 3600
    ledger = node_ledger.ledger(ward.bench.runs, "test-slurm")
    node_ledger.append(
        ledger, [node_ledger.strike("n2", node_ledger.CLEARED, "cleared", "", seen_at + cleared)]
    )
    ward.will_report(unfit(seen_at))

    ward.json()

    assert len(node_ledger.standing(node_ledger.read(ledger), ward.bench.clock.now())) == count


def test_a_ledger_that_cannot_be_written_is_named(ward: Ward) -> None:
    ledger = node_ledger.ledger(ward.bench.runs, "test-slurm")
    ledger.mkdir(parents=True)  # a folder in its place cannot be appended to, not even by root
    ward.will_report(unfit(ward.bench.clock.now()))

    assert f"{ledger}: Is a directory: no node was added to the node ledger" in ward().stderr


def test_plan_and_submit_warn_of_what_was_fatal(ward: Ward) -> None:
    ward.slurm.replace("sbatch", UNAVAILABLE)
    ward.slurm.replace("sinfo", f"sed 's/|4000|/|2000|/' {DATA}/slurm-22.05.8-nodes.txt")
    found = ward("--no-probe")
    target = ("pretrain", "--cluster", "test-slurm", "--size", "tiny")

    plan = ward.bench("plan", *target)
    dry_run = ward.bench("submit", *target, "--dry-run")
    plan_json = ward.bench("plan", *target, "--json")

    assert found.exit_code == 5
    reason = (
        "such a job can never start: it requests 3 GiB of memory per node, the largest node of low "
        "has 1.9 GiB: correct gpu_partition.node.memory_gb (sbatch: Requested node configuration "
        "is not available)"
    )
    warning = f"doctor reported FATAL: job of pretrain (2 nodes of low): {reason}"
    assert f"warning: {warning}" in plan.stderr
    assert f"warning: {warning}" in dry_run.stderr
    assert any(item.startswith(warning) for item in json.loads(plan_json.stdout)["warnings"])
    assert "; `meditron doctor --cluster test-slurm` checks again" in plan.stderr


def test_a_probe_that_still_waits_is_read_the_next_time(ward: Ward) -> None:
    first = ward("--wait", "5")

    assert first.exit_code == 0, first.stderr
    assert first.stderr.splitlines()[1] == (
        "probe job 77 is still queued; run `meditron doctor --cluster test-slurm` later to "
        "read its report"
    )
    waiting = ward.folder
    write_json(waiting / "report.json", report())
    (ward.slurm.state / "folder").unlink()

    second = ward.json()

    assert "shared storage" in facts_of(second, "OK")
    assert not (ward.slurm.state / "folder").exists()
    assert not waiting.exists()


def test_what_a_probe_saw_is_remembered_with_its_age(ward: Ward) -> None:
    ward.will_report(report(time=ward.bench.clock.now()))
    ward()
    ward.bench.clock.sleep(7200)

    result = ward("--no-probe")

    assert result.stderr.splitlines()[0] == "compute nodes were probed 2 hours ago"
    assert "shared storage" in result.stdout
    assert ward.kept().slurm.submit_from_jobs is True


def test_compute_nodes_that_cannot_submit_change_the_strategy_and_the_plan(ward: Ward) -> None:
    ward.will_report({**without("sbatch"), "submit": None})

    found = ward.json()

    assert "`meditron recover` on this machine submits the next job" in found["strategy"]
    assert found["facts"]["slurm"]["submit_from_jobs"] is False


def test_training_that_cannot_work_is_exit_5(ward: Ward) -> None:
    ward.will_report(without("srun"))

    result = ward()

    assert result.exit_code == 5
    assert "FATAL    no rank can be started" in result.stdout
    assert result.stderr.splitlines()[-2:] == [
        "error: training cannot work on cluster test-slurm: see the FATAL findings",
        "hint: correct the profile, then `meditron doctor --cluster test-slurm`",
    ]


def test_a_probe_that_sbatch_refuses_is_fatal_in_its_words(ward: Ward) -> None:
    ward.slurm.tell("refused", "sbatch: error: Invalid account specified\n")

    found = ward.json(code=5)

    (item,) = [item for item in found["findings"] if item["fact"] == "probe job"]
    assert item["meaning"] == "sbatch refused the probe job: Invalid account specified"
    assert list(ward.bench.runs.glob(".doctor-*")) == []


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (None, "the probe job ended without a log: compute nodes do not see {runs}; name a "
         "--runs-dir on storage that all nodes share"),
        ("module: not found\n", "the probe job wrote no report: module: not found"),
        ("", "the probe job wrote no report: its log is empty"),
    ],
)  # fmt: skip
def test_a_probe_that_ends_without_a_report_shows_why(
    ward: Ward, log: str | None, sentence: str
) -> None:
    def end() -> None:
        ward.slurm.queue()
        if log is not None:
            (ward.folder / "probe.log").write_text(log)

    ward.bench.clock.when_slept = end

    found = ward.json(code=5)

    (item,) = [item for item in found["findings"] if item["fact"] == "probe job"]
    assert item["meaning"] == sentence.format(runs=ward.bench.runs)
    assert not ward.folder.exists()
    assert ward.kept().probe is None


def test_ctrl_c_ends_the_probe(ward: Ward) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    ward.bench.clock.when_slept = interrupt

    result = ward()

    assert result.exit_code == 130
    assert ward.slurm.calls("scancel") == ["scancel --quiet 77"]
    assert not ward.folder.exists()


def test_an_unresponsive_slurm_is_exit_3_and_stored_facts_stay(ward: Ward) -> None:
    ward("--no-probe")
    kept = ward.file.read_bytes()
    for name in ("scontrol", "sinfo"):
        ward.slurm.replace(name, "exit 1")

    result = ward("--no-probe")

    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == "error: Slurm does not answer on this machine"
    assert ward.file.read_bytes() == kept


def test_one_unanswered_command_hides_nothing_else(ward: Ward) -> None:
    ward.slurm.replace("sacctmgr", "exit 1")

    found = ward.json("--no-probe")

    assert facts_of(found, "UNKNOWN") == ["account", "job limits", "compute nodes"]


def test_a_profile_with_placeholders_is_examined_without_jobs(ward: Ward) -> None:
    result = ward(cluster="rcp")

    assert result.exit_code == 5
    assert "there are cpu, low, high" in result.stdout
    assert not (ward.slurm.state / "folder").exists()
    assert "--test-only" not in "".join(ward.slurm.calls())


def test_this_machine_has_no_slurm_to_query(ward: Ward) -> None:
    result = ward(cluster="local")

    assert result.exit_code == 0
    assert result.stdout.startswith("cluster local is this machine, without Slurm: ")
    assert json.loads(ward("--json", cluster="local").stdout)["works"] is True


def test_a_broken_cache_is_written_anew(ward: Ward) -> None:
    ward.file.parent.mkdir(parents=True)
    ward.file.write_text("{")

    assert ward("--no-probe").exit_code == 0
    assert ward.kept().partitions["low"].grace_seconds == 10


def test_a_folder_that_was_removed_meanwhile_is_no_probe_to_wait_for(ward: Ward) -> None:
    ward("--no-probe")
    gone = Probe("5", str(ward.bench.folder / "gone"), 1.0)
    facts_file.write(ward.file, facts_file.Facts("test-slurm", 1.0, probe=gone))
    ward.will_report(report())

    assert ward().exit_code == 0
    assert ward.folder.parent == ward.bench.runs
