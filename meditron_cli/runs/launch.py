"""Plan → jobs, in dependency order; everything is taken back when one submission fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from jobs.checkpoints import manifest
from jobs.contract import done_markers, events, specs
from jobs.contract.attempt_history import RunHistory
from jobs.contract.corpus.folder import MANIFEST_PATH, TAKEN_DOWN
from jobs.contract.errors import RESUME
from jobs.contract.events import (
    IntentEvent,
    SubmitEvent,
    UndoEvent,
    submit_event,
)
from jobs.contract.files import read_small
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    CORPUS_STAGES,
    TRAINING_STAGES,
    ConvertSpec,
    EvaluateSpec,
    ExportSpec,
    PretrainSpec,
    TokenizerRef,
    TokenizeSpec,
)
from jobs.contract.units import plural
from jobs.health import node_ledger
from jobs.slurm import transaction
from meditron_cli.errors import ConfigError, MeditronError, SchedulerError
from meditron_cli.inputs import finetuned
from meditron_cli.plan import early
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.plan.stage_plan import named_paths
from meditron_cli.runs import code_snapshot, launch_plan, moved, open_jobs, release, store
from meditron_cli.runs.launch_plan import (
    StageDecision,
    decide,
    jobs_in_queue,
    refuse_beside_parts,
    refuse_ending_jobs,
    refuse_other_data,
    refuse_other_tokenizer,
    unique,
)
from meditron_cli.runs.owner import require_owner
from meditron_cli.runs.record import RecordReader, RunRecord, TaskJob
from meditron_cli.runs.run_lock import exclusive
from meditron_cli.scheduler.base import JobInfo, Scheduler

HINT_MISSING = (
    f"nothing was changed; put the files back, then {RESUME}, or submit the experiment file that "
    "names them where they are now"
)

Note = Callable[[str], None]
"""Reports a sentence to the caller."""


def launch(
    plan: Plan,
    scheduler: Scheduler,
    reader: RecordReader,
    note: Note = lambda sentence: None,
    by: str = "person",
    compares_settings: bool = False,
) -> dict[str, list[str]]:
    """Submit what is missing of a plan, and return the ids of the jobs that now run each stage.

    Finished tasks are skipped, and tasks with a queued or running job keep it, which
    ``note`` reports. Either all of this call's submissions stand or none.

    Args:
        reader: of the run, in full.
        by: ``person``, whose request counts more than budgets, or ``recover``.
        compares_settings: whether the plan may have other settings than queued and running tasks.
            Queued ones are then submitted anew; otherwise all keep the settings they have.

    Raises:
        ConfigError: the run belongs to another user, a stage lacks its inputs, or a task runs with
            other settings.
        SchedulerError: refused, no answer about jobs that may be alive, or another submission of
            the run takes too long.
    """
    run = reader.run
    require_owner(run, "resume")
    with exclusive(run, "resume"):
        return _launch(plan, scheduler, reader, note, by, compares_settings)


def _launch(
    plan: Plan,
    scheduler: Scheduler,
    reader: RecordReader,
    note: Note,
    by: str,
    compares_settings: bool,
) -> dict[str, list[str]]:
    run = reader.run
    recorded = recorded_specs(run, plan)
    plan = launch_plan.with_known_indices(plan, recorded)
    restore_damage(plan, run, note)
    transaction.resolve_unanswered(run, reader.history_reader, lambda kind: scheduler)
    record = reader.read().require_readable()
    infos = query_open_jobs(record, scheduler)
    verdicts = check_tasks(plan, run)
    taken_down = read_small(run.path(MANIFEST_PATH)).get(TAKEN_DOWN, ())
    refuse_other_data(record, verdicts, len(taken_down))
    refuse_beside_parts(record, plan, infos)
    refuse_other_tokenizer(record, plan, tokenizers_of_results(run, record))
    saved = saved_steps(plan, run)
    compared = recorded if compares_settings else {}
    decisions = decide(plan, record, infos, verdicts, compared, saved)
    refuse_ending_jobs(record, decisions)
    require_files(run, plan, decisions)
    waiting = release.waiting_jobs(record, decisions, infos) if by == "person" else {}
    kept_sentence = describe_kept_jobs(decisions, infos, waiting)
    for sentence in (*describe_changes(decisions), *describe_takedowns(taken_down, verdicts)):
        note(sentence)
    held = release.held_jobs(record, infos)
    for sentence in release.release_all(run, scheduler, waiting, held):
        note(sentence)
    keep = {(stage, index) for stage, decision in decisions.items() for index in decision.keep}
    plan = without_bad_nodes(plan, scheduler, run, note)
    prepare(plan, run, decisions, keep)
    if by == "person":
        withdrawn = withdraw_stop_request(run, keep)
        kept_sentence = "; ".join(filter(None, (kept_sentence, withdrawn)))
    if kept_sentence:
        note(kept_sentence)
    dropped = [job for decision in decisions.values() for job in decision.drop]
    stays = [job.job_id for item in decisions.values() for job in all_kept(item).values()]
    scheduler.cancel(run.name, [*dropped, *recovery_jobs_of(record.history, dropped, stays)])
    current = {name: jobs_in_queue(stage, infos) for name, stage in record.stages.items()}
    submissions = LaunchTransaction(plan, scheduler, run, by)
    try:
        for stage in plan.stages:
            decision = decisions[stage.stage]
            new = []
            for part, indices in early.parts(stage, decision.submit, current, saved):
                after = [job for name in part.after for job in current.get(name, [])]
                new += submissions.submit(part, indices, after)
            current[stage.stage] = [*unique(j.job_id for j in all_kept(decision).values()), *new]
    except BaseException as error:
        try:
            submissions.undo(error)
        finally:
            restore_markers(run, decisions)
        raise
    return {stage.stage: current[stage.stage] for stage in plan.stages}


def describe_takedowns(
    taken_down: Sequence[object], verdicts: Mapping[str, Mapping[int, str]]
) -> Iterator[str]:
    """Yield a sentence where a corpus is made again of which documents were taken out."""
    if taken_down and set(verdicts.get("curate", {}).values()) - {"done"}:
        yield (
            f"the corpus is made again, with the {plural(len(taken_down), 'document')} taken out "
            "of it, if the sources have them"
        )


def restore_damage(plan: Plan, run: RunDir, note: Note) -> None:
    """Restore damaged code of the run, and done markers whose input files were moved.

    Raises:
        ConfigError: the installed packages cannot restore the code.
    """
    if restored := code_snapshot.restore_code(run):
        note(f"restored {plural(len(restored), 'damaged file')} of the run's code")
    for stage in moved.adopt(plan, run):
        note(f"{stage}: its input files were moved; the result stands")


def restore_markers(run: RunDir, decisions: Mapping[str, StageDecision]) -> None:
    """Restore the done markers of tasks whose submission failed."""
    for stage, decision in decisions.items():
        for index in decision.submit:
            done_markers.restore_done(run, stage, index)


def describe_kept_jobs(
    decisions: Mapping[str, StageDecision],
    infos: Mapping[str, JobInfo],
    waiting: Mapping[str, Collection[str]],
) -> str:
    """Return a sentence about the stages that need no submission, as their jobs are queued or
    running; empty for none.

    Args:
        waiting: jobs by stage that another sentence is about.
    """
    stages = []
    for stage, decision in decisions.items():
        kept = unique(job.job_id for job in decision.keep.values())
        if kept and not decision.submit and stage not in waiting:
            info = infos[kept[0]]
            why = f": {info.reason}" if info.reason not in ("", "None") else ""
            stages.append(f"{stage} has {release.jobs_text(kept)} ({info.state.value}{why})")
    return f"nothing to submit: {', '.join(stages)}" if stages else ""


def describe_changes(decisions: Mapping[str, StageDecision]) -> Iterator[str]:
    """Yield a sentence per stage about jobs that are replaced, and one about jobs that stay though
    the plan does not have their tasks.
    """
    for stage, decision in decisions.items():
        if decision.replaced:
            jobs = release.jobs_text(list(decision.replaced))
            yield f"{stage}: other settings replace {jobs}, still queued"
        if decision.lost:
            jobs = release.jobs_text(list(decision.lost))
            yield f"{stage}: {jobs} of an earlier submission is cancelled: it could not start"
        if decision.others:
            jobs = release.jobs_text(unique(job.job_id for job in decision.others.values()))
            yield f"{stage}: {jobs} of an earlier submission stays"


def saved_steps(plan: Plan, run: RunDir) -> frozenset[int]:
    """Return the steps of the run's checkpoints, where a task of the plan waits for one."""
    folders = {
        task.spec.checkpoint_dir
        for stage in plan.stages
        for task in stage.tasks
        if isinstance(task.spec, EvaluateSpec | ExportSpec) and not early.is_finetuned(task.spec)
    }
    return frozenset().union(*(manifest.saved_steps(run.path(folder)) for folder in folders))


def all_kept(decision: StageDecision) -> dict[int, TaskJob]:
    """Return the tasks whose jobs stay, in the plan or not."""
    return {**decision.keep, **decision.others}


def recorded_specs(run: RunDir, plan: Plan) -> dict[str, dict[int, specs.TaskSpec | None]]:
    """Read the specs that a run has of the plan's stages."""
    return {
        stage.stage: {
            index: specs.read_task(run, stage.stage, index)
            for index in specs.indices(run, stage.stage)
        }
        for stage in plan.stages
    }


def tokenizers_of_results(run: RunDir, record: RunRecord) -> dict[str, TokenizerRef]:
    """Return the tokenizers with which tokens and checkpoints of a run were made, by stage."""
    found = {}
    for name in ("tokenize", "convert", *TRAINING_STAGES):
        stage = record.stages.get(name)
        if stage and (stage.done or stage.progress or stage.task_progress):
            task = specs.read_task(run, name, min(stage.done, default=0))
            if task is not None:
                found[name] = cast(TokenizeSpec | ConvertSpec | PretrainSpec, task.spec).tokenizer
    return found


def withdraw_stop_request(run: RunDir, keep: Collection[tuple[str, int]]) -> str:
    """Remove the file STOP; return a sentence where tasks with queued or running jobs may have
    waited for it, else an empty text.
    """
    requested = run.is_stop_requested()
    run.stop_file.unlink(missing_ok=True)
    return "the request to save and stop is withdrawn" if requested and keep else ""


def without_bad_nodes(plan: Plan, scheduler: Scheduler, run: RunDir, note: Note) -> Plan:
    """Return the plan with the nodes that its stages exclude, by the cluster's node ledger."""
    entries = node_ledger.read(node_ledger.ledger(run.root.parent, plan.site.cluster))
    if plan.site.scheduler != "slurm" or not node_ledger.active(entries, time.time()):
        return plan
    stages = []
    for stage in plan.stages:
        known = scheduler.node_names(stage.resources.partition)
        names, warning = node_ledger.excluded(entries, time.time(), known, stage.resources.nodes)
        if warning:
            note(f"{stage.stage}: {warning}")
        stages.append(replace(stage, exclude=names))
    return replace(plan, stages=tuple(stages))


def recovery_jobs_of(
    history: RunHistory, job_ids: Collection[str], stays: Collection[str]
) -> list[str]:
    """Return the recovery jobs of any of these jobs that have no job left that stays."""
    wanted = set(job_ids)
    return unique(
        recovery_job
        for event in history.events
        if isinstance(event, SubmitEvent)
        and not wanted.isdisjoint(event.job_ids)
        and set(stays).isdisjoint(event.job_ids)
        for recovery_job in event.recovery_jobs
    )


class LaunchTransaction:
    """The submissions of one launch, one per stage, all of which can be taken back."""

    def __init__(self, plan: Plan, scheduler: Scheduler, run: RunDir, by: str) -> None:
        self._plan = plan
        self._by = by
        self._scheduler = scheduler
        self._run = run
        self._submitted: list[str] = []

    def submit(self, stage: StagePlan, indices: Sequence[int], after: Sequence[str]) -> list[str]:
        """Submit some tasks of a stage as one new attempt, and return the new job ids."""
        if not indices:
            return []
        run, plan, scheduler = self._run, self._plan, self._scheduler
        number = run.new_attempt(stage.stage)
        intent = IntentEvent(
            time.time(),
            stage.stage,
            number,
            tuple(indices),
            plan.site.scheduler,
            self._by,
            exclude=tuple(stage.exclude),
            run_dir=str(run.root),
        )

        def make() -> SubmitEvent:
            ids = scheduler.submit(plan, stage, indices, run.root, number, after)
            recovery_jobs = scheduler.submit_recovery_job(plan, stage, run.root, number, ids)
            self._submitted += [
                *ids,
                *recovery_jobs,
            ]  # before the event, which a full disk may refuse
            return submit_event(intent, ids, recovery_jobs)

        return list(transaction.submit(run, intent, scheduler, make).job_ids)

    def undo(self, reason: BaseException) -> None:
        """Cancel the submissions of earlier stages, and record that.

        Raises:
            SchedulerError: they stay queued; with the reason of both.
        """
        if not self._submitted:
            return
        text = reason.message if isinstance(reason, MeditronError) else type(reason).__name__
        try:
            self._scheduler.cancel(self._run.name, self._submitted)
        except SchedulerError as error:
            jobs = release.jobs_text(self._submitted)
            message = f"{text}; {error.message}, so that {jobs} of earlier stages may stay queued"
            raise SchedulerError(message, hint=error.hint) from error
        events.append(self._run, UndoEvent(time.time(), tuple(self._submitted), text))


def query_open_jobs(record: RunRecord, scheduler: Scheduler) -> dict[str, JobInfo]:
    """Return the scheduler's states of every job that may be queued or running.

    Raises:
        SchedulerError: a state is unknown; submitting now could start a task twice.
    """
    open_ids = open_jobs.open_jobs(record, now=0.0)
    ids = sorted(job for ids in open_ids.values() for job in ids)
    if not ids:
        return {}
    infos = scheduler.states({record.name: ids})[record.name]
    unknown = [job for job in ids if job not in infos or infos[job].is_unknown]
    if unknown:
        raise SchedulerError(
            f"the scheduler does not report whether job {unknown[0]} of run {record.name} is alive",
            hint=f"`{store.command(RunDir(record.path), 'resume')}` when it answers; a second job "
            "now could run the task twice",
        )
    return infos


def check_tasks(plan: Plan, run: RunDir) -> dict[str, dict[int, str]]:
    """Return the verdict of ``done_markers.check_done`` on each task, by stage and index.

    A task whose source files are gone as a whole could not run again, so its result stands; a file
    that is gone from a folder of sources is a changed input.
    """
    return {
        stage.stage: {task.index: check_task(run, task) for task in stage.tasks}
        for stage in plan.stages
    }


def check_task(run: RunDir, task: specs.TaskSpec) -> str:
    """Return ``done``, or why a task's marker is not valid."""
    verdict = done_markers.check_done(
        run, task.stage, task.index, specs.digest(task.spec), aside=True
    )
    if verdict != "gone":
        return verdict
    return "done" if missing_paths(task) else "inputs"


def missing_paths(task: specs.TaskSpec) -> list[str]:
    """Return the files and folders outside of the run that a task reads and that do not exist."""
    return [path for path in named_paths(task.spec) if not Path(path).exists()]


def require_files(run: RunDir, plan: Plan, decisions: Mapping[str, StageDecision]) -> None:
    """Refuse to submit tasks whose input files do not exist, before anything is changed.

    Raises:
        ConfigError: one line per missing file or folder.
    """
    lines = {
        f"{stage.stage}: {path}: no such file or folder": None
        for stage in plan.stages
        for task in stage.tasks
        if task.index in decisions[stage.stage].submit
        for path in missing_paths(task)
        if not finetuned.has_begun_with(run, task.spec, path)
    }
    if lines:
        raise ConfigError("\n".join(lines), hint=run.hint(HINT_MISSING))


def prepare(
    plan: Plan,
    run: RunDir,
    decisions: Mapping[str, StageDecision],
    keep: Collection[tuple[str, int]],
) -> None:
    """Remove what would mislead the new jobs, and write their specs and the plan."""
    run.save_file.unlink(missing_ok=True)
    for stage, decision in decisions.items():
        for index in decision.submit:
            done_markers.set_done_aside(run, stage, index)
    for stage_plan in plan.stages:
        decision = decisions[stage_plan.stage]
        for task in stage_plan.tasks:
            if task.index not in decision.submit and task.index not in decision.keep:
                done_markers.restore_done(run, stage_plan.stage, task.index)
        forget_parts(run, stage_plan, decision)
    others = {stage: decision.others for stage, decision in decisions.items()}
    store.write_plan(run, plan, keep, others)


def forget_parts(run: RunDir, stage: StagePlan, decision: StageDecision) -> None:
    """Remove what another number of tasks of the same corpus has left: its shards are others'."""
    if stage.stage in (*CORPUS_STAGES, "tokenize"):
        known = {*decision.others, *(task.index for task in stage.tasks)}
        for index in set(specs.indices(run, stage.stage)) - known:
            done_markers.forget_done(run, stage.stage, index)
            run.spec(stage.stage, index).unlink(missing_ok=True)
