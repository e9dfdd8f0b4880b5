"""Rules on the end of jobs: preemption, requeue, signals, and the record of their state. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from jobs.slurm.queries import AccountRow
from meditron_cli.doctor import facts
from meditron_cli.doctor.facts import SiteFacts
from meditron_cli.doctor.finding import OK, WARN, SiteFinding, unknown
from meditron_cli.doctor.site_view import ACCOUNTS, CONFIG, PARTITIONS, SiteView
from meditron_cli.plan import fit

REQUEUES = 5
"""MaxBatchRequeue where it is unset, or not shown as in 22.05 (slurm.conf(5))."""
SHORT_MEMORY = 60
"""Seconds of MinJobAge below which Slurm may forget an ended job between two queries. Guessed."""


def preempted(view: SiteView) -> Iterator[SiteFinding]:
    """Report whether jobs may be preempted, and what follows."""
    kind, preemption = view.setting("PreemptType"), view.preemption
    if preemption.possible is None:
        yield unknown("preemption", CONFIG, "no answer: a preemption is handled when it happens")
        return
    if not preemption.possible:
        meaning = f"no job in {view.requested.name} is preempted"
        yield SiteFinding("preemption", kind or "none", OK, meaning, CONFIG)
        return
    yield SiteFinding("preemption", preemption.mode, *after_preemption(view), CONFIG)


def after_preemption(view: SiteView) -> tuple[str, str]:
    """Return verdict and sentence about a preempted job."""
    mode = view.preemption.mode
    if mode == "REQUEUE" and allows_requeue(view.site):
        return OK, "a preempted job saves, is requeued and resumes"
    if mode in ("REQUEUE", "CANCEL"):
        return OK, "Slurm does not requeue a preempted job: a new job resumes the run"
    return WARN, (
        "Slurm suspends a preempted job and continues it later: a suspension longer than the "
        "heartbeat timeout counts as a hang, and the ranks are restarted"
    )


def allows_requeue(site: SiteFacts) -> bool | None:
    """Return whether the site requeues jobs; None when unknown.

    With ``JobRequeue=0`` a job may still request it (verified on 22.05), but the site's setting is
    respected.
    """
    if site.config is None:
        return None
    return site.setting("JobRequeue") != "0"


def notice(view: SiteView) -> Iterator[SiteFinding]:
    """Report which processes receive a preemption's signal, and how long before the kill."""
    if not view.preemption.possible:
        return
    is_on = facts.signals_batch_step(view.site)
    if is_on:
        meaning = "the batch step receives the preemption signal and has the ranks save"
    else:
        meaning = (
            "only the ranks receive the preemption signal: they save, and the batch step queries "
            "Slurm for the cause"
        )
    yield SiteFinding("preempt_send_user_signal", "on" if is_on else "off", OK, meaning, CONFIG)
    yield grace(view)


def grace(view: SiteView) -> SiteFinding:
    """Compare the grace period with the time that a step and a save take."""
    seconds = view.preemption.grace_seconds or 0
    source = ACCOUNTS if view.setting("PreemptType") == "preempt/qos" else PARTITIONS
    times, value = view.work.times, f"{seconds} s"
    if times.leave_seconds <= seconds:
        meaning = f"a step and a save take about {times.leave_seconds:.1f} s, {view.work.source}"
        return SiteFinding("GraceTime", value, OK, meaning, source)
    lost = fit.loss(times.step_seconds, view.work.save_interval, view.work.gpus)
    meaning = (
        f"shorter than a step and a save take (about {times.leave_seconds:.1f} s, "
        f"{view.work.source}): a preemption here loses up to {lost}"
    )
    return SiteFinding("GraceTime", value, WARN, meaning, source)


def requeue(view: SiteView) -> Iterator[SiteFinding]:
    """Report whether and how often Slurm requeues a job."""
    allowed = allows_requeue(view.site)
    if allowed is None:
        yield unknown("JobRequeue", CONFIG)
    elif not allowed:
        meaning = "the site does not requeue jobs: a new job resumes the run"
        yield SiteFinding("JobRequeue", "0", OK, meaning, CONFIG)
    else:
        limit = view.setting("MaxBatchRequeue")
        value = f"1, at most {limit} times" if limit else f"1, at most {REQUEUES} times by default"
        meaning = "Slurm requeues the jobs that it ends; past this limit a new job resumes the run"
        yield SiteFinding("JobRequeue", value, OK, meaning, CONFIG)


def failed_prolog(view: SiteView) -> Iterator[SiteFinding]:
    """Report what follows when a Prolog fails, where the site has one.

    Slurm then drains the node and requeues the job, held unless SchedulerParameters has
    ``nohold_on_prolog_fail`` (slurm.conf(5)).
    """
    path, option = facts.prolog(view.site), "nohold_on_prolog_fail"
    if path is None:
        return
    if option in facts.options(view.setting("SchedulerParameters")):
        meaning = f"a job is requeued when the Prolog ({path}) fails on a node"
        yield SiteFinding(option, "on", OK, meaning, CONFIG)
        return
    meaning = (
        f"a job is held when the Prolog ({path}) fails on a node, until a person runs `scontrol "
        f"release`: ask the site to add {option} to SchedulerParameters in slurm.conf"
    )
    yield SiteFinding(option, "off", WARN, meaning, CONFIG)


def endings(view: SiteView) -> Iterator[SiteFinding]:
    """Report how Slurm ends the processes of a job."""
    if view.site.config is None:
        yield unknown("KillWait", CONFIG)
        return
    wait = view.setting("KillWait") or ""
    meaning = "from SIGTERM to SIGKILL; runs save earlier, at the signal before the time limit"
    yield SiteFinding("KillWait", wait, OK, meaning, CONFIG)
    value = view.setting("KillOnBadExit") or ""
    meaning = "every step sets --kill-on-bad-exit itself"
    yield SiteFinding("KillOnBadExit", value, OK, meaning, CONFIG)
    kind = (view.setting("ProctrackType") or "").rpartition("/")[2]
    reach = "the direct children of a step" if kind == "cgroup" else "every process of a step"
    meaning = f"a signal reaches {reach}; helpers of the ranks ignore it"
    yield SiteFinding("ProctrackType", kind, OK, meaning, CONFIG)


def binding(view: SiteView) -> Iterator[SiteFinding]:
    """Report whether Slurm binds ranks to cores, and jobs to their memory."""
    if view.site.config is None:
        yield unknown("TaskPlugin", CONFIG)
        return
    plugins = view.setting("TaskPlugin") or ""
    binds = "affinity" in plugins or "cgroup" in plugins
    meaning = "ranks are bound to the cores they request" if binds else "ranks share all cores"
    yield SiteFinding("TaskPlugin", plugins, OK, meaning, CONFIG)
    parameters = view.setting("SelectTypeParameters") or ""
    meaning = (
        "a job that uses more memory than it requested is killed"
        if "MEMORY" in parameters.upper()
        else "memory is not allocated: jobs that share a node may exhaust each other's"
    )
    yield SiteFinding("SelectTypeParameters", parameters, OK, meaning, CONFIG)


def accounting(view: SiteView) -> Iterator[SiteFinding]:
    """Report where the final state of a job is recorded, and for how long."""
    has_accounting = view.site.has_accounting
    if has_accounting is None:
        yield unknown(
            "accounting",
            "sacct",
            "no answer: the state of jobs that left the queue is unknown",
        )
    elif not has_accounting:
        meaning = "no accounting: the end of a job is known from squeue and the run directory alone"
        yield SiteFinding("accounting", "none", WARN, meaning, "sacct")
    else:
        yield from account_fields(view)
    age = facts.count(view.setting("MinJobAge") or "")
    if age is None:
        yield unknown("MinJobAge", CONFIG)
    elif age < SHORT_MEMORY and not has_accounting:
        meaning = "Slurm forgets an ended job so soon that its root cause may be missed"
        yield SiteFinding("MinJobAge", f"{age} s", WARN, meaning, CONFIG)
    else:
        meaning = "Slurm itself remembers an ended job for this time"
        yield SiteFinding("MinJobAge", f"{age} s", OK, meaning, CONFIG)


def account_fields(view: SiteView) -> Iterator[SiteFinding]:
    """Check that sacct has the columns that meditron requests."""
    requested = {item.metadata["column"] for item in AccountRow.__dataclass_fields__.values()}
    missing = sorted(requested - (view.site.account_fields or requested))
    if missing:
        meaning = f"sacct has no column {', '.join(missing)}: root causes are found without it"
        yield SiteFinding("accounting", "answers", WARN, meaning, "sacct --helpformat")
    else:
        yield SiteFinding("accounting", "answers", OK, "records how each job ended", "sacct")


def dependencies(view: SiteView) -> Iterator[SiteFinding]:
    """Report what Slurm does with jobs whose dependency has failed."""
    if view.site.config is None:
        yield unknown("kill_invalid_depend", CONFIG)
    elif "kill_invalid_depend" in facts.options(view.setting("DependencyParameters")):
        meaning = (
            "Slurm cancels the jobs that depend on one that failed: `meditron resume RUN` then "
            "submits the later stages again"
        )
        yield SiteFinding("kill_invalid_depend", "on", WARN, meaning, CONFIG)
    else:
        meaning = "jobs that depend on one that failed stay queued, and then wait for its successor"
        yield SiteFinding("kill_invalid_depend", "off", OK, meaning, CONFIG)
