"""What a site does to jobs that it ends, and what is known of them afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.slurm.queries import AccountRow
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import SiteFacts
from meditron_cli.doctor.finding import OK, WARN, SiteFinding, unknown
from meditron_cli.doctor.site_view import ACCOUNTS, CONFIG, PARTITIONS, SiteView
from meditron_cli.plan import fit

REQUEUES = 5
"""MaxBatchRequeue where it is not set, or not shown, as by 22.05 (slurm.conf(5))."""
SHORT_MEMORY = 60
"""Below so many seconds of MinJobAge, an ended job may be forgotten between two looks: a guess."""


def preempted(look: SiteView) -> Iterator[SiteFinding]:
    """Whether others may take a training's nodes, and what then happens."""
    kind, found = look.setting("PreemptType"), look.preemption
    if found.possible is None:
        yield unknown("preemption", CONFIG, "not answered: whatever happens is handled as it comes")
        return
    if not found.possible:
        meaning = f"nothing takes the nodes of a job in {look.wanted.name}"
        yield SiteFinding("preemption", kind or "none", OK, meaning, CONFIG)
        return
    yield SiteFinding("preemption", found.mode, *after_preemption(look), CONFIG)


def after_preemption(look: SiteView) -> tuple[str, str]:
    """Verdict and sentence about what becomes of a preempted job."""
    mode = look.preemption.mode
    if mode == "REQUEUE" and allows_requeue(look.site):
        return OK, "a preempted job saves, is queued again and goes on"
    if mode in ("REQUEUE", "CANCEL"):
        return OK, "Slurm ends a preempted job for good: a fresh job goes on instead"
    return WARN, (
        "a preempted job is halted where it is and goes on later: that takes long enough to look "
        "like a hang, after which its ranks are started anew"
    )


def allows_requeue(site: SiteFacts) -> bool | None:
    """Whether the site queues ended jobs again; None where it is not known.

    With ``JobRequeue=0`` a job may still ask for it (verified on 22.05); a site that sets it does
    not want it, so ours do not.
    """
    if site.config is None:
        return None
    return site.setting("JobRequeue") != "0"


def notice(look: SiteView) -> Iterator[SiteFinding]:
    """Who hears of a preemption, and how long before the end."""
    if not look.preemption.possible:
        return
    told = facts.tells_batch_step(look.site)
    if told:
        meaning = "the batch step hears of a preemption at once, and has the ranks save"
    else:
        meaning = "only the ranks hear of a preemption; handled: they save, and Slurm is asked why"
    yield SiteFinding("preempt_send_user_signal", "on" if told else "off", OK, meaning, CONFIG)
    yield grace(look)


def grace(look: SiteView) -> SiteFinding:
    """Whether a preempted job can save in the time it has."""
    seconds = look.preemption.grace_seconds or 0
    source = ACCOUNTS if look.setting("PreemptType") == "preempt/qos" else PARTITIONS
    pace, value = look.work.pace, f"{seconds} s"
    if pace.leave_seconds <= seconds:
        meaning = f"a step and a save take about {pace.leave_seconds:.1f} s, {look.work.source}"
        return SiteFinding("GraceTime", value, OK, meaning, source)
    lost = fit.loss(pace.step_seconds, look.work.save_interval, look.work.gpus)
    meaning = (
        f"shorter than a step and a save take (about {pace.leave_seconds:.1f} s, "
        f"{look.work.source}): a preemption here loses up to {lost}"
    )
    return SiteFinding("GraceTime", value, WARN, meaning, source)


def requeue(look: SiteView) -> Iterator[SiteFinding]:
    """Whether Slurm queues an ended job again, and how often."""
    allowed = allows_requeue(look.site)
    if allowed is None:
        yield unknown("JobRequeue", CONFIG)
    elif not allowed:
        meaning = "the site does not want jobs queued again: a fresh job goes on instead"
        yield SiteFinding("JobRequeue", "0", OK, meaning, CONFIG)
    else:
        shown = look.setting("MaxBatchRequeue")
        value = f"1, at most {shown} times" if shown else f"1, at most {REQUEUES} times by default"
        meaning = "what Slurm itself ends, it queues again; after so many times a fresh job goes on"
        yield SiteFinding("JobRequeue", value, OK, meaning, CONFIG)


def endings(look: SiteView) -> Iterator[SiteFinding]:
    """What Slurm does to the processes of a job that ends."""
    if look.site.config is None:
        yield unknown("KillWait", CONFIG)
        return
    wait = look.setting("KillWait") or ""
    meaning = "from SIGTERM to SIGKILL; runs save at the signal before the time limit, not in this"
    yield SiteFinding("KillWait", wait, OK, meaning, CONFIG)
    value = look.setting("KillOnBadExit") or ""
    meaning = "every step of ours says --kill-on-bad-exit=1 itself"
    yield SiteFinding("KillOnBadExit", value, OK, meaning, CONFIG)
    kind = (look.setting("ProctrackType") or "").rpartition("/")[2]
    reach = "the direct children of a step" if kind == "cgroup" else "every process below a step"
    meaning = f"a signal reaches {reach}; helpers of the ranks ignore it"
    yield SiteFinding("ProctrackType", kind, OK, meaning, CONFIG)


def binding(look: SiteView) -> Iterator[SiteFinding]:
    """Whether ranks are bound to cores, and jobs to their memory."""
    if look.site.config is None:
        yield unknown("TaskPlugin", CONFIG)
        return
    plugins = look.setting("TaskPlugin") or ""
    bound = "affinity" in plugins or "cgroup" in plugins
    meaning = "ranks are bound to the cores they ask for" if bound else "ranks share all cores"
    yield SiteFinding("TaskPlugin", plugins, OK, meaning, CONFIG)
    chosen = look.setting("SelectTypeParameters") or ""
    counted = "MEMORY" in chosen.upper()
    meaning = (
        "a job that uses more memory than it asked for is ended"
        if counted
        else "memory is not counted: jobs that share a node may take each other's"
    )
    yield SiteFinding("SelectTypeParameters", chosen, OK, meaning, CONFIG)


def accounting(look: SiteView) -> Iterator[SiteFinding]:
    """How the end of a job is known."""
    kept = look.site.has_accounting
    if kept is None:
        yield unknown(
            "accounting", "sacct", "silent now: jobs that ended stay unknown until it answers"
        )
    elif not kept:
        meaning = "no accounting: endings are judged by squeue and the run directory"
        yield SiteFinding("accounting", "none", WARN, meaning, "sacct")
    else:
        yield from account_fields(look)
    age = facts.count(look.setting("MinJobAge") or "")
    if age is None:
        yield unknown("MinJobAge", CONFIG)
    elif age < SHORT_MEMORY and not kept:
        meaning = "Slurm forgets an ended job so soon that its cause may be missed"
        yield SiteFinding("MinJobAge", f"{age} s", WARN, meaning, CONFIG)
    else:
        meaning = "so long Slurm itself remembers an ended job"
        yield SiteFinding("MinJobAge", f"{age} s", OK, meaning, CONFIG)


def account_fields(look: SiteView) -> Iterator[SiteFinding]:
    """Whether sacct knows the columns that are asked for."""
    asked = {item.metadata["column"] for item in AccountRow.__dataclass_fields__.values()}
    missing = sorted(asked - (look.site.account_fields or asked))
    if missing:
        meaning = f"sacct has no column {', '.join(missing)}: endings are judged without it"
        yield SiteFinding("accounting", "answers", WARN, meaning, "sacct --helpformat")
    else:
        yield SiteFinding("accounting", "answers", OK, "tells how each job ended", "sacct")


def dependencies(look: SiteView) -> Iterator[SiteFinding]:
    """What happens to jobs that wait for one that failed."""
    if look.site.config is None:
        yield unknown("kill_invalid_depend", CONFIG)
    elif "kill_invalid_depend" in facts.options(look.setting("DependencyParameters")):
        meaning = (
            "Slurm cancels what waits for a job that failed: later stages are then submitted again "
            "by `meditron resume`"
        )
        yield SiteFinding("kill_invalid_depend", "on", WARN, meaning, CONFIG)
    else:
        meaning = "what waits for a job that failed stays queued, and waits for its successor"
        yield SiteFinding("kill_invalid_depend", "off", OK, meaning, CONFIG)
