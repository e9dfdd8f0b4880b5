"""What a site's settings mean for a run: each fact becomes a verdict and a sentence. Pure.

The rows are those of design SLURM, section 9; what only a compute node can tell is judged by
``meaning_probe``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meditron_cli.doctor import rules_placement as place
from meditron_cli.doctor import rules_termination as end
from meditron_cli.doctor.facts import SiteFacts
from meditron_cli.doctor.finding import FATAL, SiteFinding
from meditron_cli.doctor.site_view import SiteView

JUDGES: tuple[Callable[[SiteView], Iterator[SiteFinding]], ...] = (
    place.version, place.programs, place.partitions, place.nodes, place.accounts, place.job_limits,
    place.wckeys, place.arrays, place.shapes, end.preempted, end.notice, end.requeue, end.endings,
    end.binding, end.accounting, end.dependencies,
)  # fmt: skip
"""In the order of the table."""


def judge(look: SiteView) -> list[SiteFinding]:
    """Every fact of a site with its meaning."""
    return [finding for judged in JUDGES for finding in judged(look)]


def is_fatal(findings: list[SiteFinding]) -> bool:
    """Whether training cannot work there."""
    return any(finding.verdict == FATAL for finding in findings)


def is_silent(site: SiteFacts) -> bool:
    """Whether Slurm itself answered nothing, which says nothing about the site."""
    return site.config is None and site.partitions is None and site.nodes is None


def strategy(look: SiteView, submits: bool | None) -> str:
    """How a run goes on here, and why, in one sentence.

    Args:
        look: the site.
        submits: whether compute nodes may call sbatch; None where no probe has told.
    """
    first = after_preemption(look)
    if submits is False or not look.cluster.slurm.submit_from_jobs:
        return (
            f"{first}; whatever else ends a job before its target, `meditron recover` on this "
            "machine submits the next, since compute nodes cannot"
        )
    doubt = "" if submits else " (not probed: whether compute nodes may submit)"
    spare = (
        ", and a small recovery job does so where it could not"
        if look.cluster.slurm.recovery_job
        else ""
    )
    return f"{first}; after a time limit or a failure the job itself submits the next{spare}{doubt}"


def after_preemption(look: SiteView) -> str:
    """The first half: what Slurm itself ends."""
    allowed = end.allows_requeue(look.site) and look.cluster.slurm.requeue
    if look.preemption.possible is False:
        again = "is queued again by Slurm" if allowed else "is followed by a fresh one"
        return f"nothing is preempted here, and a job that loses a node {again}"
    if allowed and look.preemption.mode in ("REQUEUE", ""):
        return (
            "a job that is preempted or loses a node is queued again, since Slurm keeps its place"
        )
    why = f"PreemptMode={look.preemption.mode}"
    if not allowed:
        why = "JobRequeue=0" if look.cluster.slurm.requeue else "the profile's slurm.requeue"
    return f"a job that is preempted is followed by a fresh one, since {why} keeps Slurm from it"
