"""Parsers of the output of Slurm's commands; one site per version (`tests/data`)."""

from __future__ import annotations

import pytest

from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import Association, NodeRow, Preemption, SiteFacts

from .sites import output, site, with_settings


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("slurm-wlm 22.05.8\n", (22, 5, 8)),
        ("slurm 23.11.4", (23, 11, 4)),
        ("slurm 24.11.0-0rc1", (24, 11, 0)),
        ("slurm 20.02", (20, 2)),
        ("", None),
    ],
)
def test_the_version_is_read(text: str, version: tuple[int, ...] | None) -> None:
    assert facts.parse_version(text) == version


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("UNLIMITED", None),
        ("", None),
        ("NONE", None),
        ("rubbish", None),
        ("60", 3600),
        ("30:00", 1800),
        ("12:00:00", 43200),
        ("1-12:00:00", 129600),
        ("2-00", 172800),
    ],
)
def test_time_limits_are_read(text: str, seconds: int | None) -> None:
    assert facts.seconds(text) == seconds


def test_partitions_are_read() -> None:
    cpu, low, high = facts.parse_partitions(output("22.05.8", "partitions"))

    assert (cpu.name, cpu.max_minutes, cpu.max_nodes) == ("cpu", None, None)
    assert (low.grace_seconds, low.preempt_mode, low.priority_tier) == (10, "REQUEUE", 1)
    assert low.nodes == high.nodes == {"gpu01", "gpu02", "gpu03", "gpu04"}
    assert (high.preempt_mode, high.up, high.accounts, high.qos) == ("OFF", True, (), "")


def test_partitions_of_newer_versions_have_more_columns() -> None:
    h100, _ = facts.parse_partitions(output("23.11.4", "partitions"))
    spare, _, old = facts.parse_partitions(output("24.05.2", "partitions"))

    assert (h100.max_minutes, h100.max_nodes, h100.qos) == (4320, 16, "p_h100")
    assert h100.accounts == ("med42", "bio7")
    assert h100.nodes == {"g001", "g002", "g003", "g010"}
    assert (spare.max_nodes, spare.grace_seconds) == (1, 30)
    assert (old.up, old.nodes) == (False, frozenset())


def test_a_node_of_two_partitions_is_one_node() -> None:
    nodes = facts.parse_nodes(output("22.05.8", "nodes"))

    assert len(nodes) == 6
    assert nodes[2] == NodeRow("gpu01", ("low", "high"), "idle", 16, 4000, 4, ("fake",))


def test_gpus_are_counted_among_other_resources_and_marks_are_omitted() -> None:
    nodes = {node.name: node for node in facts.parse_nodes(output("23.11.4", "nodes"))}

    assert (nodes["g010"].gpus, nodes["g010"].gpu_kinds) == (4, ("h100",))
    assert (nodes["g010"].state, nodes["g003"].state) == ("down", "draining")
    assert facts.parse_nodes(output("24.05.2", "nodes"))[0].gpus == 4
    assert facts.parse_nodes(output("24.05.2", "nodes"))[0].gpu_kinds == ()


def test_accounts_of_other_clusters_are_omitted() -> None:
    text = output("23.11.4", "associations")
    mine = Association("med42", ("low", "normal"), "low", None, 30, 2880)

    assert facts.parse_associations(text, "alp") == (mine,)
    assert len(facts.parse_associations(text, "")) == 2


def test_rubbish_is_nothing() -> None:
    for text in ("", "\n\n", "error: no\n", "a|b\n"):
        assert facts.parse_partitions(text) == ()
        assert facts.parse_nodes(text) == ()
        assert facts.parse_qos(text) == ()
        assert facts.parse_associations(text, "") == ()


@pytest.mark.parametrize(
    ("version", "partition", "qos", "found"),
    [
        ("22.05.8", "low", "normal", Preemption(True, "REQUEUE", 10)),
        ("22.05.8", "high", "normal", Preemption(False)),
        ("22.05.8", "cpu", "normal", Preemption(False)),
        ("22.05.8", "none", "normal", Preemption(None)),
        ("23.11.4", "h100", "low", Preemption(True, "REQUEUE", 120)),
        ("23.11.4", "h100", "normal", Preemption(True, "REQUEUE", 0)),
        ("23.11.4", "h100", "urgent", Preemption(False)),
        ("23.11.4", "h100", "unheard", Preemption(None)),
        ("24.05.2", "spare", "", Preemption(True, "CANCEL", 30)),
        ("24.05.2", "owners", "", Preemption(False)),
        ("25.05.1", "low", "", Preemption(False)),
    ],
)
def test_preemption_is_by_partition_or_by_quality_of_service(
    version: str, partition: str, qos: str, found: Preemption
) -> None:
    assert facts.preemption(site(version), partition, qos) == found


def test_without_an_answer_preemption_is_not_known() -> None:
    assert facts.preemption(SiteFacts(), "low", "") == Preemption(None)


def test_the_mode_stands_without_its_additions() -> None:
    assert facts.plain_mode("GANG,SUSPEND") == "SUSPEND"
    assert facts.plain_mode("WITHIN,requeue") == "REQUEUE"
    assert facts.plain_mode("") == ""


def test_the_batch_step_is_signalled_under_either_name_of_the_setting() -> None:
    assert facts.signals_batch_step(site("22.05.8"))
    assert facts.signals_batch_step(site("23.11.4"))
    assert facts.signals_batch_step(site("24.05.2")) is False
    assert facts.signals_batch_step(
        with_settings(site("24.05.2"), SlurmctldParameters="a=1,preempt_send_user_signal")
    )
    assert facts.signals_batch_step(SiteFacts()) is None
