"""Select the facts of a site that later plans use. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from meditron_cli.config.facts_file import Facts, PartitionFacts, Probe, SlurmFacts
from meditron_cli.doctor import facts, rules_probe, rules_termination
from meditron_cli.doctor.finding import FATAL, SiteFinding
from meditron_cli.doctor.rules_placement import smallest
from meditron_cli.doctor.site_view import SiteView


def derive(
    view: SiteView, findings: Sequence[SiteFinding], probe: Probe | None, now: float
) -> Facts:
    """Return the facts for plans; a query without an answer is None.

    Args:
        findings: of the site and its nodes; the FATAL ones are kept as warnings for plans.
        now: in seconds since 1970.
    """
    report = probe.report if probe else None
    requeue = rules_termination.allows_requeue(view.site)
    if report is not None and report["requeue"] is False:
        requeue = False
    return Facts(
        cluster=view.cluster.name,
        time=now,
        partitions=partitions(view),
        slurm=SlurmFacts(
            max_array_size=facts.count(view.setting("MaxArraySize") or ""),
            requeue=requeue,
            submit_from_jobs=None if report is None else rules_probe.may_submit(report),
        ),
        probe=probe,
        fatal=tuple(f"{item.fact}: {item.meaning}" for item in findings if item.verdict == FATAL),
    )


def partitions(view: SiteView) -> dict[str, PartitionFacts]:
    """Return the facts of the partitions that the profile names."""
    named = (view.cluster.gpu_partition, view.cluster.cpu_partition)
    result = {}
    for requested in [item for item in named if item is not None]:
        partition = view.site.partition(requested.name)
        if partition is None:
            continue
        qos = requested.qos or view.cluster.qos
        limits = [view.site.qos_of(name) for name in (qos or view.qos, partition.qos)]
        preemption = facts.preemption(view.site, requested.name, qos or view.qos)
        result[requested.name] = PartitionFacts(
            qos=qos,
            grace_seconds=preemption.grace_seconds,
            max_time_minutes=smallest(
                (partition.max_minutes, *(limit.max_wall_minutes for limit in limits if limit))
            ),
        )
    return result
