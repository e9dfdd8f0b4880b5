"""What of a site's facts is kept for plans. Pure."""

from __future__ import annotations

from meditron_cli.config.facts_file import Facts, PartitionFacts, Probe, SlurmFacts
from meditron_cli.doctor import facts, rules_probe, rules_termination
from meditron_cli.doctor.rules_placement import smallest
from meditron_cli.doctor.site_view import SiteView


def keep(look: SiteView, probe: Probe | None, now: float) -> Facts:
    """The facts that a plan is made with; what was not answered is None."""
    report = probe.report if probe else None
    requeue = rules_termination.allows_requeue(look.site)
    if report is not None and report["requeue"] is False:
        requeue = False
    return Facts(
        cluster=look.cluster.name,
        time=now,
        partitions=partitions(look),
        slurm=SlurmFacts(
            max_array_size=facts.count(look.setting("MaxArraySize") or ""),
            requeue=requeue,
            submit_from_jobs=None if report is None else rules_probe.may_submit(report),
        ),
        probe=probe,
    )


def partitions(look: SiteView) -> dict[str, PartitionFacts]:
    """What is known of the partitions that the profile names."""
    named = (look.cluster.gpu_partition, look.cluster.cpu_partition)
    found = {}
    for wanted in [item for item in named if item is not None]:
        partition = look.site.partition(wanted.name)
        if partition is None:
            continue
        qos = wanted.qos or look.cluster.qos
        rules = [look.site.qos_of(name) for name in (qos or look.qos, partition.qos)]
        preemption = facts.preemption(look.site, wanted.name, qos or look.qos)
        found[wanted.name] = PartitionFacts(
            qos=qos,
            grace_seconds=preemption.grace_seconds,
            max_time_minutes=smallest(
                (partition.max_minutes, *(rule.max_wall_minutes for rule in rules if rule))
            ),
        )
    return found
