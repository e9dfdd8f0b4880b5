"""Rules for a site's settings: turn each fact into a verdict and its consequence for runs. Pure.

The settings are those of slurm.conf(5) and sacctmgr(1); ``rules_probe`` holds the rules for facts
that only a compute node can report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meditron_cli.doctor import rules_placement as place
from meditron_cli.doctor import rules_termination as end
from meditron_cli.doctor.facts import SiteFacts
from meditron_cli.doctor.finding import SiteFinding
from meditron_cli.doctor.site_view import SiteView

RULES: tuple[Callable[[SiteView], Iterator[SiteFinding]], ...] = (
    place.version, place.programs, place.partitions, place.nodes, place.accounts, place.job_limits,
    place.wckeys, place.arrays, place.job_tests, end.preempted, end.notice, end.requeue,
    end.failed_prolog, end.endings, end.binding, end.accounting, end.dependencies,
)  # fmt: skip
"""In the order of the table."""


def apply(view: SiteView) -> list[SiteFinding]:
    """Return the findings of every rule."""
    return [finding for rule in RULES for finding in rule(view)]


def is_unanswered(site: SiteFacts) -> bool:
    """Return whether Slurm answered no query, which is not a statement about the site."""
    return site.config is None and site.partitions is None and site.nodes is None


def strategy(view: SiteView, submits: bool | None) -> str:
    """Return how an interrupted run is resumed on this site, and why, in one sentence.

    Args:
        submits: whether compute nodes may call sbatch; None without a probe.
    """
    first = after_preemption(view)
    if submits is False or not view.cluster.slurm.submit_from_jobs:
        return (
            f"{first}; after any other end before its target, `meditron recover` on this machine "
            "submits the next job, since compute nodes cannot"
        )
    doubt = "" if submits else " (not probed: whether compute nodes may submit)"
    recovery = ", or else a small recovery job does" if view.cluster.slurm.recovery_job else ""
    return (
        f"{first}; after a time limit or a failure the job itself submits the next{recovery}{doubt}"
    )


def after_preemption(view: SiteView) -> str:
    """Return the first half of the strategy: what follows when Slurm itself ends a job."""
    allowed = end.allows_requeue(view.site) and view.cluster.slurm.requeue
    if view.preemption.possible is False:
        again = "is requeued by Slurm" if allowed else "is replaced by a new one"
        return f"nothing is preempted here, and a job that loses a node {again}"
    if allowed and view.preemption.mode in ("REQUEUE", ""):
        return "Slurm requeues a job that is preempted or loses a node"
    why = f"PreemptMode={view.preemption.mode}"
    if not allowed:
        why = "JobRequeue=0" if view.cluster.slurm.requeue else "the profile's slurm.requeue"
    return f"a new job replaces one that is preempted, since {why} prevents a requeue"
