"""What facts about a site mean, each with the sentence a person reads."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.contract.metrics_log import StepTimes
from meditron_cli.config.facts_file import PartitionFacts, Probe, SlurmFacts
from meditron_cli.doctor import rules
from meditron_cli.doctor.facts import Shape, SiteFacts
from meditron_cli.doctor.finding import FATAL, OK, UNKNOWN, WARN
from meditron_cli.doctor.known import keep

from .sites import by_fact, look, profile, site, with_settings

QUICK = StepTimes(save_seconds=2.0, step_seconds=1.0)
SHAPE = "job of pretrain (2 nodes of low)"


def verdict(asked: SiteFacts, fact: str, partition: str = "low", **more: Any) -> tuple[str, str]:
    """Verdict and sentence about one fact."""
    found = by_fact(rules.judge(look(asked, profile(partition, **more))))[fact]
    return found.verdict, found.meaning


def test_the_test_slurm_is_fit() -> None:
    findings = rules.judge(look(site("22.05.8"), profile("low"), pace=QUICK))

    assert {finding.verdict for finding in findings} == {OK}


def test_nothing_is_unknown_of_a_site_that_answers() -> None:
    for version, partition in (("23.11.4", "h100"), ("24.05.2", "spare"), ("25.05.1", "low")):
        findings = rules.judge(look(site(version), profile(partition)))
        silent = {finding.fact for finding in findings if finding.verdict == UNKNOWN}
        no_accounts = {"24.05.2": {"account", "job limits"}, "25.05.1": {"account", "job limits"}}
        no_nodes = {"25.05.1": {"nodes"}}
        assert silent == no_accounts.get(version, set()) | no_nodes.get(version, set()), version


def test_each_silence_stands_alone_and_hides_nothing() -> None:
    whole = by_fact(rules.judge(look(site("22.05.8"), profile("low"))))

    without_nodes = by_fact(rules.judge(look(site("22.05.8", nodes=None), profile("low"))))

    assert without_nodes["nodes"].verdict == UNKNOWN
    kept = {fact: finding for fact, finding in whole.items() if fact not in ("nodes", "GPUs")}
    assert {fact: without_nodes[fact] for fact in kept} == kept


def test_of_a_silent_site_nothing_is_claimed() -> None:
    findings = rules.judge(look(SiteFacts(), profile("low")))

    assert {finding.verdict for finding in findings} == {UNKNOWN}
    assert rules.is_silent(SiteFacts())
    assert not rules.is_silent(site("22.05.8", config=None))


@pytest.mark.parametrize(
    ("asked", "fact", "found"),
    [
        (
            site("22.05.8", version=(20, 11, 9)),
            "version",
            (WARN, "older than 22.05, with which this was tried: run `meditron drill` before a "
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
            (OK, "tasks are cut into arrays of 101"),
        ),
        (
            site("22.05.8", shapes=(Shape("pretrain (2 nodes of low)", False, "Never"),)),
            SHAPE,
            (FATAL, "such a job can never start: Never"),
        ),
        (
            site("22.05.8", shapes=(Shape("pretrain (2 nodes of low)", True, "Job 3 to start"),)),
            SHAPE,
            (OK, "Job 3 to start"),
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"),
            "preemption",
            (OK, "Slurm ends a preempted job for good: a fresh job goes on instead"),
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"),
            "JobRequeue",
            (OK, "the site does not want jobs queued again: a fresh job goes on instead"),
        ),
        (
            with_settings(site("22.05.8"), SlurmctldParameters="(null)"),
            "preempt_send_user_signal",
            (OK, "only the ranks hear of a preemption; handled: they save, and Slurm is asked why"),
        ),
        (
            with_settings(site("22.05.8"), PreemptType="preempt/none"),
            "preemption",
            (OK, "nothing takes the nodes of a job in low"),
        ),
        (
            site("22.05.8", has_accounting=False),
            "accounting",
            (WARN, "no accounting: endings are judged by squeue and the run directory"),
        ),
        (
            site("22.05.8", has_accounting=None),
            "accounting",
            (UNKNOWN, "silent now: jobs that ended stay unknown until it answers"),
        ),
        (
            site("22.05.8", account_fields=frozenset({"JobID", "State", "Submit", "Start", "End"})),
            "accounting",
            (WARN, "sacct has no column ExitCode, NodeList: endings are judged without it"),
        ),
        (
            with_settings(site("22.05.8", has_accounting=False), MinJobAge="30 sec"),
            "MinJobAge",
            (WARN, "Slurm forgets an ended job so soon that its cause may be missed"),
        ),
        (
            with_settings(site("22.05.8"), DependencyParameters="kill_invalid_depend"),
            "kill_invalid_depend",
            (WARN, "Slurm cancels what waits for a job that failed: later stages are then "
             "submitted again by `meditron resume`"),
        ),
        (
            with_settings(site("22.05.8"), AccountingStorageEnforce="associations,wckeys"),
            "wckey",
            (WARN, "the site refuses jobs without one: set slurm.sbatch.wckey in the profile"),
        ),
        (
            with_settings(site("22.05.8"), SelectTypeParameters="CR_CORE_MEMORY"),
            "SelectTypeParameters",
            (OK, "a job that uses more memory than it asked for is ended"),
        ),
        (
            with_settings(site("22.05.8"), ProctrackType="proctrack/cgroup"),
            "ProctrackType",
            (OK, "a signal reaches the direct children of a step; helpers of the ranks ignore it"),
        ),
        (
            with_settings(site("22.05.8"), TaskPlugin="task/affinity,task/cgroup"),
            "TaskPlugin",
            (OK, "ranks are bound to the cores they ask for"),
        ),
    ],
)  # fmt: skip
def test_a_setting_has_its_sentence(asked: SiteFacts, fact: str, found: tuple[str, str]) -> None:
    assert verdict(asked, fact) == found


@pytest.mark.parametrize(
    ("changes", "fact", "found"),
    [
        ({"gpu": {"nodes": 9}}, "partition low",
         (WARN, "the profile has 9 nodes, the site 4: correct it")),
        ({"node": {"gpus": 8}}, "GPUs",
         (FATAL, "the profile says 8: no job would start; correct the profile")),
        ({"node": {"gpu_type": "a100"}}, "GPUs",
         (FATAL, "sbatch knows no gpu:a100; correct node.gpu_type in the profile")),
        ({"node": {"gpu_type": "fake"}}, "GPUs", (OK, "a job asks for up to 4 a node")),
        ({"qos": "gold"}, "QOS",
         (FATAL, "the site has no such quality of service; there are normal")),
        ({"account": "med"}, "account", (WARN, "you have no account med; you have root")),
        ({"slurm": {"max_array_size": 1001}}, "MaxArraySize",
         (WARN, "the profile says 1001, and sbatch refuses such an array: correct it")),
        ({"slurm": {"max_array_size": 50}}, "MaxArraySize",
         (OK, "tasks are cut into arrays of 50")),
    ],
)  # fmt: skip
def test_a_profile_that_differs_from_its_site_is_told_so(
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
        "closed: no job starts there",
    )
    assert verdict(site("23.11.4"), "partition h100", "h100", account="art") == (
        FATAL,
        "closed to account art; open to med42, bio7",
    )


def test_a_partition_that_allows_less_than_the_profile_says_is_doubted() -> None:
    assert verdict(site("24.05.2"), "partition spare", "spare")[1] == (
        "a job may have 1 nodes, the profile says 2"
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

    many = by_fact(rules.judge(look(site("23.11.4"), cluster, jobs=25)))["job limits"]
    long = by_fact(rules.judge(look(site("23.11.4"), cluster, time_minutes=2000)))["job limits"]

    assert many.value == "submit 20, run 4, minutes 1440"
    assert many.meaning.startswith("the plan has 25 jobs, and 20 may be queued at once")
    assert long.meaning == "a training job wants 2000 minutes; lower its time_minutes"


def test_a_grace_too_short_for_a_save_says_what_is_lost() -> None:
    found = by_fact(rules.judge(look(site("22.05.8"), profile("low"))))["GraceTime"]

    assert (found.value, found.verdict) == ("10 s", WARN)
    assert found.meaning == (
        "shorter than a step and a save take (about 55.0 s, measured in run med-7b-3f2a91c0): a "
        "preemption here loses up to 500 steps (about 83.3 minutes, 88.9 GPU-hours)"
    )


def test_a_grace_long_enough_is_said_to_be() -> None:
    found = by_fact(rules.judge(look(site("23.11.4"), profile("h100", qos="low"))))["GraceTime"]

    assert (found.value, found.verdict, found.source) == ("120 s", OK, "sacctmgr")
    assert found.meaning == "a step and a save take about 55.0 s, measured in run med-7b-3f2a91c0"


def test_nodes_that_are_away_are_counted() -> None:
    found = by_fact(rules.judge(look(site("23.11.4"), profile("h100"))))["nodes"]

    assert (found.value, found.verdict) == ("4, 2 of them away", OK)


def test_a_job_that_is_only_halted_is_doubted() -> None:
    config = {"PreemptType": "preempt/qos", "PreemptMode": "GANG,SUSPEND"}
    asked = with_settings(site("23.11.4"), **config)

    found = by_fact(rules.judge(look(asked, profile("h100", qos="normal"))))["preemption"]

    assert (found.value, found.verdict) == ("SUSPEND", WARN)


@pytest.mark.parametrize(
    ("asked", "partition", "submits", "sentence"),
    [
        (
            site("22.05.8"), "low", True,
            "a job that is preempted or loses a node is queued again, since Slurm keeps its place; "
            "after a time limit or a failure the job itself submits the next, and a small recovery "
            "job does so where it could not",
        ),
        (
            with_settings(site("22.05.8"), JobRequeue="0"), "low", True,
            "a job that is preempted is followed by a fresh one, since JobRequeue=0 keeps Slurm "
            "from it; after a time limit or a failure the job itself submits the next, and a small "
            "recovery job does so where it could not",
        ),
        (
            site("24.05.2"), "spare", None,
            "a job that is preempted is followed by a fresh one, since PreemptMode=CANCEL keeps "
            "Slurm from it; after a time limit or a failure the job itself submits the next, and a "
            "small recovery job does so where it could not (not probed: whether compute nodes may "
            "submit)",
        ),
        (
            site("25.05.1"), "low", False,
            "nothing is preempted here, and a job that loses a node is queued again by Slurm; "
            "whatever else ends a job before its target, `meditron recover` on this machine "
            "submits the next, since compute nodes cannot",
        ),
    ],
)  # fmt: skip
def test_the_strategy_is_one_sentence_with_its_reason(
    asked: SiteFacts, partition: str, submits: bool | None, sentence: str
) -> None:
    assert rules.strategy(look(asked, profile(partition)), submits) == sentence


def test_a_profile_that_wants_no_requeue_is_the_reason() -> None:
    cluster = profile("low", slurm={"requeue": False})

    assert rules.strategy(look(site("22.05.8"), cluster), True).startswith(
        "a job that is preempted is followed by a fresh one, since the profile's slurm.requeue "
        "keeps Slurm from it; "
    )


def test_what_plans_are_made_with_is_kept() -> None:
    cluster = profile("h100", qos="low")

    kept = keep(look(site("23.11.4"), cluster), probe=None, now=5.0)

    assert kept.partitions == {"h100": PartitionFacts("low", 120, 1440)}
    assert kept.slurm == SlurmFacts(max_array_size=20001, requeue=False, submit_from_jobs=None)


def test_what_was_not_answered_is_not_kept() -> None:
    kept = keep(look(site("22.05.8", config=None, qos=None), profile("low")), None, now=5.0)

    assert kept.partitions == {"low": PartitionFacts("", None, None)}
    assert kept.slurm == SlurmFacts()


def test_a_probe_that_slurm_would_not_queue_again_counts_more_than_the_setting() -> None:
    report = {"requeue": False, "commands": {"sbatch": True}, "submit": {"accepted": True}}

    kept = keep(look(site("22.05.8"), profile("low")), Probe("1", "/x", 1.0, report), now=5.0)

    assert (kept.slurm.requeue, kept.slurm.submit_from_jobs) == (False, True)
