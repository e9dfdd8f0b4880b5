"""Verdict and sentence of each fact about a site."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jobs.contract.metrics_log import StepTimes
from meditron_cli.config.facts_file import PartitionFacts, Probe, SlurmFacts
from meditron_cli.doctor import plan_facts, rules
from meditron_cli.doctor.facts import JobTest, SiteFacts
from meditron_cli.doctor.finding import FATAL, OK, UNKNOWN, WARN
from meditron_cli.plan.model import Resources

from .sites import by_fact, profile, site, view, with_settings

QUICK = StepTimes(save_seconds=2.0, step_seconds=1.0)
LABEL = "pretrain (2 nodes of low)"
JOB = f"job of {LABEL}"


def verdict(asked: SiteFacts, fact: str, partition: str = "low", **more: Any) -> tuple[str, str]:
    """Verdict and sentence about one fact."""
    found = by_fact(rules.apply(view(asked, profile(partition, **more))))[fact]
    return found.verdict, found.meaning


def test_the_test_slurm_is_fit() -> None:
    findings = rules.apply(view(site("22.05.8"), profile("low"), times=QUICK))

    assert {finding.verdict for finding in findings} == {OK}


def test_nothing_is_unknown_of_a_site_that_answers() -> None:
    for version, partition in (("23.11.4", "h100"), ("24.05.2", "spare"), ("25.05.1", "low")):
        findings = rules.apply(view(site(version), profile(partition)))
        silent = {finding.fact for finding in findings if finding.verdict == UNKNOWN}
        no_accounts = {"24.05.2": {"account", "job limits"}, "25.05.1": {"account", "job limits"}}
        no_nodes = {"25.05.1": {"nodes"}}
        assert silent == no_accounts.get(version, set()) | no_nodes.get(version, set()), version


def test_each_missing_answer_stands_alone_and_hides_nothing() -> None:
    whole = by_fact(rules.apply(view(site("22.05.8"), profile("low"))))

    without_nodes = by_fact(rules.apply(view(site("22.05.8", nodes=None), profile("low"))))

    assert without_nodes["nodes"].verdict == UNKNOWN
    kept = {fact: finding for fact, finding in whole.items() if fact not in ("nodes", "GPUs")}
    assert {fact: without_nodes[fact] for fact in kept} == kept


def test_without_answers_of_a_site_nothing_is_claimed() -> None:
    findings = rules.apply(view(SiteFacts(), profile("low")))

    assert {finding.verdict for finding in findings} == {UNKNOWN}
    assert rules.is_unanswered(SiteFacts())
    assert not rules.is_unanswered(site("22.05.8", config=None))


@pytest.mark.parametrize(
    ("asked", "fact", "found"),
    [
        (
            site("22.05.8", version=(20, 11, 9)),
            "version",
            (WARN, "older than 22.05, the oldest version tested: run `meditron drill` before a "
             "long training"),
        ),
        (
            site("22.05.8", missing_programs=("sbatch", "srun")),
            "commands",
            (FATAL, "this machine cannot submit: log in to the cluster"),
        ),
        (
            site("22.05.8", nodes=()),
            "MaxArraySize",
            (OK, "tasks are split into arrays of 101"),
        ),
        (
            site("22.05.8", job_tests=(JobTest(LABEL, False, "Never"),)),
            JOB,
            (FATAL, "such a job can never start: Never"),
        ),
        (
            site("22.05.8", job_tests=(JobTest(LABEL, True, "Job 3 to start"),)),
            JOB,
            (OK, "Job 3 to start"),
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"),
            "preemption",
            (OK, "Slurm does not requeue a preempted job: a new job resumes the run"),
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"),
            "JobRequeue",
            (OK, "the site does not requeue jobs: a new job resumes the run"),
        ),
        (
            with_settings(site("22.05.8"), SlurmctldParameters="(null)"),
            "preempt_send_user_signal",
            (OK, "only the ranks receive the preemption signal: they save, and the batch step "
             "queries Slurm for the cause"),
        ),
        (
            with_settings(site("22.05.8"), PreemptType="preempt/none"),
            "preemption",
            (OK, "no job in low is preempted"),
        ),
        (
            site("22.05.8", has_accounting=False),
            "accounting",
            (WARN, "no accounting: the end of a job is known from squeue and the run directory "
             "alone"),
        ),
        (
            site("22.05.8", has_accounting=None),
            "accounting",
            (UNKNOWN, "no answer: the state of jobs that left the queue is unknown"),
        ),
        (
            site("22.05.8", account_fields=frozenset({"JobID", "State", "Submit", "Start", "End"})),
            "accounting",
            (WARN, "sacct has no column Comment, ExitCode, JobName, NodeList: root causes are "
             "found without it"),
        ),
        (
            with_settings(site("22.05.8", has_accounting=False), MinJobAge="30 sec"),
            "MinJobAge",
            (WARN, "Slurm forgets an ended job so soon that its root cause may be missed"),
        ),
        (
            with_settings(site("22.05.8"), DependencyParameters="kill_invalid_depend"),
            "kill_invalid_depend",
            (WARN, "Slurm cancels the jobs that depend on one that failed: `meditron resume RUN` "
             "then submits the later stages again"),
        ),
        (
            with_settings(site("22.05.8"), AccountingStorageEnforce="associations,wckeys"),
            "wckey",
            (WARN, "the site refuses jobs without one: set slurm.sbatch.wckey in the profile"),
        ),
        (
            with_settings(site("22.05.8"), SelectTypeParameters="CR_CORE_MEMORY"),
            "SelectTypeParameters",
            (OK, "a job that uses more memory than it requested is killed"),
        ),
        (
            with_settings(site("22.05.8"), ProctrackType="proctrack/cgroup"),
            "ProctrackType",
            (OK, "a signal reaches the direct children of a step; helpers of the ranks ignore it"),
        ),
        (
            with_settings(site("22.05.8"), TaskPlugin="task/affinity,task/cgroup"),
            "TaskPlugin",
            (OK, "ranks are bound to the cores they request"),
        ),
    ],
)  # fmt: skip
def test_a_setting_has_its_sentence(asked: SiteFacts, fact: str, found: tuple[str, str]) -> None:
    assert verdict(asked, fact) == found


@pytest.mark.parametrize(
    ("changes", "fact", "found"),
    [
        ({"gpu": {"nodes": 9}}, "partition low",
         (WARN, "the profile states 9 nodes, the site has 4: correct the profile")),
        ({"node": {"gpus": 8}}, "GPUs",
         (FATAL, "the profile states 8: no job would start; correct node.gpus")),
        ({"node": {"gpu_type": "a100"}}, "GPUs",
         (FATAL, "the site has no gpu:a100; correct node.gpu_type in the profile")),
        ({"node": {"gpu_type": "fake"}}, "GPUs", (OK, "jobs request up to 4 per node")),
        ({"node": {"memory_gb": 64}}, "partition low",
         (WARN, "the profile states 64 GiB of memory per node, the largest node has 3.9 GiB: "
          "correct node.memory_gb")),
        ({"node": {"cpus": 17}}, "partition low",
         (WARN, "the profile states 17 cores per node, the largest node has 16: correct "
          "node.cpus")),
        ({"node": {"memory_gb": 64}, "gpu": {"request_memory": False}}, "partition low",
         (OK, "open, and matches the profile")),
        ({"qos": "gold"}, "QOS",
         (FATAL, "the site has no such QOS; there are normal")),
        ({"account": "med"}, "account", (WARN, "you have no account med; you have root")),
        ({"slurm": {"max_array_size": 1001}}, "MaxArraySize",
         (WARN, "the profile states 1001, and sbatch refuses such an array: correct it")),
        ({"slurm": {"max_array_size": 50}}, "MaxArraySize",
         (OK, "tasks are split into arrays of 50")),
    ],
)  # fmt: skip
def test_a_profile_that_differs_from_its_site_has_its_sentence(
    changes: dict[str, Any], fact: str, found: tuple[str, str]
) -> None:
    assert verdict(site("22.05.8"), fact, **changes) == found


def test_an_unknown_partition_is_fatal_with_the_one_that_was_meant() -> None:
    assert verdict(site("22.05.8"), "partition lwo", "lwo") == (
        FATAL,
        "the site has no such partition; did you mean low",
    )
    assert verdict(site("22.05.8"), "partition xyz", "xyz") == (
        FATAL,
        "the site has no such partition; there are cpu, low, high",
    )


def test_a_partition_that_is_closed_is_fatal() -> None:
    assert verdict(site("24.05.2"), "partition old", "old") == (
        FATAL,
        "the partition is down: no job starts there",
    )
    assert verdict(site("23.11.4"), "partition h100", "h100", account="art") == (
        FATAL,
        "closed to account art; open to med42, bio7",
    )


def test_a_partition_that_allows_less_than_the_profile_states_is_a_warning() -> None:
    assert verdict(site("24.05.2"), "partition spare", "spare")[1] == (
        "a job may use 1 node, the profile states 2: correct the profile"
    )
    assert verdict(
        site("24.05.2"), "partition spare", "spare", gpu={"nodes": 1, "max_time_minutes": 1440}
    ) == (WARN, "the profile allows 1440 minutes, the site 360: correct the profile")


def test_an_account_that_the_site_insists_on_is_fatal_when_it_is_not_yours() -> None:
    assert verdict(site("23.11.4"), "account", "h100", account="bio7") == (
        FATAL,
        "you have no account bio7; you have med42",
    )


def test_the_strictest_limit_on_jobs_counts() -> None:
    cluster = profile("h100", qos="low")

    many = by_fact(rules.apply(view(site("23.11.4"), cluster, jobs=25)))["job limits"]
    long = by_fact(rules.apply(view(site("23.11.4"), cluster, time_minutes=2000)))["job limits"]

    assert many.value == "submit 20, run 4, minutes 1440"
    assert many.meaning.startswith("the plan has 25 jobs, and 20 may be queued at once")
    assert long.meaning == "a training job requests 2000 minutes: lower time_minutes"


def test_a_grace_too_short_for_a_save_reports_what_is_lost() -> None:
    found = by_fact(rules.apply(view(site("22.05.8"), profile("low"))))["GraceTime"]

    assert (found.value, found.verdict) == ("10 s", WARN)
    assert found.meaning == (
        "shorter than a step and a save take (about 55.0 s, measured in run med-7b-3f2a91c0): a "
        "preemption here loses up to 500 steps (about 83.3 minutes, 88.9 GPU-hours)"
    )


def test_a_grace_long_enough_is_reported() -> None:
    found = by_fact(rules.apply(view(site("23.11.4"), profile("h100", qos="low"))))["GraceTime"]

    assert (found.value, found.verdict, found.source) == ("120 s", OK, "sacctmgr")
    assert found.meaning == "a step and a save take about 55.0 s, measured in run med-7b-3f2a91c0"


def test_nodes_that_are_away_are_counted() -> None:
    found = by_fact(rules.apply(view(site("23.11.4"), profile("h100"))))["nodes"]

    assert (found.value, found.verdict) == ("4, 2 of them unavailable", OK)


def test_a_job_that_is_only_suspended_is_a_warning() -> None:
    config = {"PreemptType": "preempt/qos", "PreemptMode": "GANG,SUSPEND"}
    asked = with_settings(site("23.11.4"), **config)

    found = by_fact(rules.apply(view(asked, profile("h100", qos="normal"))))["preemption"]

    assert (found.value, found.verdict) == ("SUSPEND", WARN)


@pytest.mark.parametrize(
    ("asked", "partition", "submits", "sentence"),
    [
        (
            site("22.05.8"), "low", True,
            "Slurm requeues a job that is preempted or loses a node; after a time limit or a "
            "failure the job itself submits the next, or else a small recovery job does",
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"), "low", True,
            "a new job replaces one that is preempted, since JobRequeue=0 prevents a requeue; "
            "after a time limit or a failure the job itself submits the next, or else a small "
            "recovery job does",
        ),
        (
            site("24.05.2"), "spare", None,
            "a new job replaces one that is preempted, since PreemptMode=CANCEL prevents a "
            "requeue; after a time limit or a failure the job itself submits the next, or else "
            "a small recovery job does (not probed: whether compute nodes may submit)",
        ),
        (
            site("25.05.1"), "low", False,
            "nothing is preempted here, and a job that loses a node is requeued by Slurm; after "
            "any other end before its target, `meditron recover` on this machine submits the next "
            "job, since compute nodes cannot",
        ),
    ],
)  # fmt: skip
def test_the_strategy_is_one_sentence_with_its_reason(
    asked: SiteFacts, partition: str, submits: bool | None, sentence: str
) -> None:
    assert rules.strategy(view(asked, profile(partition)), submits) == sentence


def test_a_profile_without_requeue_is_the_reason() -> None:
    cluster = profile("low", slurm={"requeue": False})

    assert rules.strategy(view(site("22.05.8"), cluster), True).startswith(
        "a new job replaces one that is preempted, since the profile's slurm.requeue prevents a "
        "requeue; "
    )


def test_what_plans_are_made_with_is_kept() -> None:
    cluster = profile("h100", qos="low")

    kept = plan_facts.derive(view(site("23.11.4"), cluster), [], None, now=5.0)

    assert kept.partitions == {"h100": PartitionFacts("low", 120, 1440)}
    assert kept.slurm == SlurmFacts(max_array_size=20001, requeue=False, submit_from_jobs=None)


def test_what_was_not_answered_is_not_kept() -> None:
    kept = plan_facts.derive(
        view(site("22.05.8", config=None, qos=None), profile("low")), [], None, now=5.0
    )

    assert kept.partitions == {"low": PartitionFacts("", None, None)}
    assert kept.slurm == SlurmFacts()


def test_a_probe_that_slurm_would_not_queue_again_counts_more_than_the_setting() -> None:
    report = {"requeue": False, "commands": {"sbatch": True}, "submit": {"accepted": True}}

    kept = plan_facts.derive(
        view(site("22.05.8"), profile("low")), [], Probe("1", "/x", 1.0, report), now=5.0
    )

    assert (kept.slurm.requeue, kept.slurm.submit_from_jobs) == (False, True)


def job(**changes: Any) -> JobTest:
    """Return a job that sbatch refused."""
    resources = Resources(
        nodes=2, ranks_per_node=4, gpus_per_node=4, gpu_type="", cpus_per_rank=4, memory_gb=3,
        time_minutes=60, signal_lead_seconds=60, partition="low", account="", qos="",
    )  # fmt: skip
    answer = "Requested node configuration is not available"
    return JobTest(LABEL, False, answer, replace(resources, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"memory_gb": 64}, "it requests 64 GiB of memory per node, the largest node of low has "
         "3.9 GiB: correct gpu_partition.node.memory_gb"),
        ({"cpus_per_rank": 5}, "it requests 20 cores per node, the largest node of low has 16: "
         "correct gpu_partition.node.cpus"),
        ({"gpus_per_node": 8, "memory_gb": 64}, "it requests 64 GiB of memory per node, the "
         "largest node of low has 3.9 GiB: correct gpu_partition.node.memory_gb; it requests 8 "
         "GPUs per node, the largest node of low has 4: correct gpu_partition.node.gpus"),
        ({"nodes": 8}, "it requests 8 nodes, low has 4: correct gpu_partition.nodes"),
        ({"partition": "cpu", "gpus_per_node": 0, "ranks_per_node": 1, "memory_gb": 4}, "it "
         "requests 4 GiB of memory per node, the largest node of cpu has 3.9 GiB: correct "
         "cpu_partition.node.memory_gb"),
    ],
)  # fmt: skip
def test_a_job_that_can_never_start_names_the_resource_that_does_not_fit(
    changes: dict[str, Any], sentence: str
) -> None:
    found = verdict(site("22.05.8", job_tests=(job(**changes),)), JOB)

    answer = "(sbatch: Requested node configuration is not available)"
    assert found == (FATAL, f"such a job can never start: {sentence} {answer}")


def test_a_job_for_more_large_nodes_than_there_are_reports_how_many_there_are() -> None:
    recorded = site("22.05.8")
    (first, *others) = [node for node in recorded.nodes or () if "low" in node.partitions]
    nodes = (replace(first, memory_mb=100_000), *others)

    found = verdict(replace(recorded, nodes=nodes, job_tests=(job(memory_gb=64),)), JOB)

    assert "64 GiB of memory per node, low has 1 node with that, and 2 are requested" in found[1]


def test_a_refusal_without_a_shortage_has_sbatchs_reason_alone() -> None:
    found = verdict(site("22.05.8", job_tests=(job(),)), JOB)

    assert found[1] == ("such a job can never start: Requested node configuration is not available")


def test_fatal_findings_are_kept_for_plans() -> None:
    seen = view(site("22.05.8", job_tests=(job(memory_gb=64),)), profile("low"))

    kept = plan_facts.derive(seen, rules.apply(seen), None, now=5.0)

    assert len(kept.fatal) == 1
    assert kept.fatal[0].startswith(f"{JOB}: such a job can never start: it requests 64 GiB")


@pytest.mark.parametrize("name", ["Prolog", "Prolog[0]"])
def test_a_prolog_whose_failure_holds_jobs_is_a_warning(name: str) -> None:
    recorded = with_settings(site("22.05.8"), **{name: "/etc/slurm/prolog.sh"})
    fixed = with_settings(recorded, SchedulerParameters="bf_interval=1,nohold_on_prolog_fail")

    assert verdict(recorded, "nohold_on_prolog_fail") == (
        WARN,
        "a job is held when the Prolog (/etc/slurm/prolog.sh) fails on a node, until a person runs "
        "`scontrol release`: ask the site to add nohold_on_prolog_fail to SchedulerParameters in "
        "slurm.conf",
    )
    assert verdict(fixed, "nohold_on_prolog_fail")[0] == OK
    assert "nohold_on_prolog_fail" not in by_fact(
        rules.apply(view(site("22.05.8"), profile("low")))
    )
