"""Resubmission of tasks, against stand-ins for Slurm's commands."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from submitit.core.utils import DelayedSubmission

from jobs.contract import attempt_history
from jobs.contract.events import append_event, read_events
from jobs.contract.files import write_json
from jobs.contract.locks import locked
from jobs.contract.rundir import RunDir
from jobs.slurm import payload, sbatch, submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission, SubmitError
from jobs.supervision.recovery.resubmission import (
    held_back,
    resolve_unanswered,
    resubmit,
    waiting_lock,
)

from .... import fake_slurm
from ....fake_slurm import FakeSlurm
from ....kills import kill_before_step
from ....ranks import wait_until, waits_for_a_lock


def events(run: RunDir, kind: str) -> list[Mapping[str, Any]]:
    return [event for event in read_events(run) if event["event"] == kind]


@pytest.fixture
def begun(run: RunDir, training: Submission) -> Submission:
    """Training was given to job 50, with recovery job 51."""
    submission.write(run, training)
    fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
    append_event(run, "submit", **fields, by="person", job_ids=["50"], recovery_jobs=["51"])
    return training


def test_a_successor_asks_for_the_same_as_a_new_attempt(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)

    kept = submission.read(run, "pretrain", 2)
    assert ids == ["101"]
    assert kept == replace(begun, attempt=2)
    (intent,), (_, submit) = events(run, "intent"), events(run, "submit")
    fields = ("stage", "attempt", "indices", "by", "replaces", "exclude")
    assert {name: submit[name] for name in fields} == {name: intent[name] for name in fields}
    assert "#SBATCH --comment=run=med-tiny-0,attempt=2\n" in programs.script("101")


def test_nothing_of_the_job_that_submits_is_inherited(
    run: RunDir, programs: FakeSlurm, begun: Submission
) -> None:
    outer = {"SLURM_CPU_BIND": "none", "SUBMITIT_EXECUTOR": "slurm", "MASTER_ADDR": "node7"}
    path = {"PYTHONPATH": f"{run.code}:/site", "HF_HOME": "/hf"}
    environ = {**programs.environ, **outer, **path, "SLURM_CONF": "/c"}

    resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=Client(environ))

    inherited = programs.job_environment("101")
    assert not outer.keys() & inherited.keys()
    assert (inherited["HF_HOME"], inherited["SLURM_CONF"]) == ("/hf", "/c")
    assert "PYTHONPATH" not in inherited


def test_a_waiting_recovery_job_waits_for_the_successor(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    programs.queue("50|RUNNING|None", "51|PENDING|Dependency|||||afterany:50(unfulfilled)")

    resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)

    assert programs.waits_for() == {"51": "afterany:101"}
    assert events(run, "submit")[-1]["recovery_jobs"] == ["51"]
    assert len(programs.calls("sbatch")) == 1


@pytest.fixture
def evaluation(run: RunDir, begun: Submission) -> Submission:
    """Evaluation was given to job 60, which waits for training."""
    template = replace(begun, stage="evaluate", indices=(0, 1), after=("50",))
    submission.write(run, template)
    write_json(run.plan, {"stages": {"evaluate": {"after": ["pretrain"]}}})
    fields = {"stage": "evaluate", "attempt": 1, "indices": [0, 1], "scheduler": "slurm"}
    append_event(run, "submit", **fields, by="person", job_ids=["60_0", "60_1"])
    return template


def test_a_stage_resubmitted_before_the_one_it_needs_has_finished_waits_for_it(
    run: RunDir, client: Client, programs: FakeSlurm, evaluation: Submission
) -> None:
    programs.queue("50|RUNNING|None")

    ids = resubmit(run, "evaluate", [0, 1], replaces=["60_0", "60_1"], by="recover", client=client)

    assert "#SBATCH --dependency=afterok:50\n" in programs.script(ids[0])


def test_a_stage_is_not_resubmitted_while_nothing_makes_what_it_needs(
    run: RunDir, client: Client, programs: FakeSlurm, evaluation: Submission
) -> None:
    with pytest.raises(SubmitError) as caught:
        resubmit(run, "evaluate", [0, 1], replaces=["60_0", "60_1"], by="recover", client=client)

    assert caught.value.message == "evaluate waits for pretrain, and job 50 is not in the queue"
    assert programs.calls("sbatch") == []


def test_a_stage_is_not_resubmitted_by_a_damaged_plan(
    run: RunDir, client: Client, programs: FakeSlurm, evaluation: Submission
) -> None:
    """It would begin before the stage that it needs."""
    run.plan.write_text("{")

    with pytest.raises(SubmitError, match=r"plan\.json: not JSON"):
        resubmit(run, "evaluate", [0, 1], replaces=["60_0", "60_1"], by="recover", client=client)

    assert not programs.calls("sbatch")


def test_a_stage_resubmitted_after_the_one_it_needs_waits_for_nothing(
    run: RunDir, client: Client, programs: FakeSlurm, evaluation: Submission
) -> None:
    write_json(run.done("pretrain", 0), {})

    ids = resubmit(run, "evaluate", [0, 1], replaces=["60_0", "60_1"], by="recover", client=client)

    assert "--dependency" not in programs.script(ids[0])


def test_a_refusal_leaves_no_submission(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    programs.tell("refuse-1", "sbatch: error: too many jobs\n")

    with pytest.raises(SubmitError) as caught:
        resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)

    assert caught.value.message == "sbatch refused pretrain: too many jobs"
    assert programs.queued() == []
    assert attempt_history.read(run).unanswered == []
    assert held_back(run, attempt_history.read(run), "pretrain", [0], ["50"]) == ""


def test_a_recovery_job_that_slurm_refuses_keeps_no_job_from_going_on(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    programs.tell("refuse-2", "sbatch: error: too many jobs\n")

    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert ids == ["101"]
    assert events(run, "submit")[-1]["recovery_jobs"] == []


def test_whoever_comes_second_submits_nothing(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)

    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="watch", client=client)

    assert ids == []
    assert (
        held_back(run, attempt_history.read(run), "pretrain", [0], ["50"])
        == "pretrain: job 101 resumes it already"
    )


def test_the_file_stop_keeps_jobs_from_going_on(
    run: RunDir, client: Client, begun: Submission
) -> None:
    run.stop_file.touch()

    assert resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client) == []
    assert events(run, "intent") == []


def test_a_run_that_is_submitted_for_too_long_is_not_waited_for(run: RunDir) -> None:
    with (
        locked(run.lock),
        pytest.raises(SubmitError, match="has been at work for 0 s"),
        waiting_lock(run, 0),
    ):
        pass


def test_a_run_that_is_submitted_at_this_moment_is_waited_for(
    run: RunDir, client: Client, begun: Submission
) -> None:
    fields = {"replaces": ["50"], "by": "supervisor", "client": client}
    waiter = threading.Thread(target=resubmit, args=(run, "pretrain", 0), kwargs=fields)
    with locked(run.lock):
        waiter.start()
        wait_until(lambda: waits_for_a_lock(waiter))
        before = events(run, "submit")
    waiter.join()

    assert len(before) == 1
    assert len(events(run, "submit")) == 2


def test_a_run_of_an_older_version_is_an_error_with_a_hint(
    run: RunDir, client: Client, programs: FakeSlurm
) -> None:
    fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
    append_event(run, "submit", **fields, job_ids=["50"])

    with pytest.raises(SubmitError) as caught:
        resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)

    assert caught.value.hint == f"`{run.command('resume')}` submits it from the run's own record"
    assert programs.calls("sbatch") == []


# ---- submissions that were killed


def intend(run: RunDir, template: Submission) -> None:
    run.attempt("pretrain", template.attempt).mkdir(parents=True, exist_ok=True)
    fields = {"stage": "pretrain", "attempt": template.attempt, "scheduler": "slurm"}
    more = {"indices": list(template.indices), "by": "supervisor", "replaces": ["50"]}
    append_event(run, "intent", **fields, **more)


def test_one_that_was_killed_before_sbatch_is_withdrawn(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    intend(run, replace(begun, attempt=2))

    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert ids == ["101"]
    assert events(run, "submit")[-1]["attempt"] == 3
    assert [event["attempt"] for event in events(run, "withdraw")] == [2]


def test_one_of_which_only_a_part_is_there_is_withdrawn(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    """The site takes arrays of one task; of two the second never was."""
    half = replace(begun, attempt=2, indices=(0, 1), longest_array=1)
    intend(run, half)
    sbatch.submit(run, replace(half, indices=(0,)), client)
    submission.write(run, half)

    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert "101" not in programs.queued()
    assert ids == ["102"]


def test_one_whose_part_cannot_be_cancelled_stays_on_record(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    half = replace(begun, attempt=2, indices=(0, 1), longest_array=1)
    intend(run, half)
    sbatch.submit(run, replace(half, indices=(0,)), client)
    submission.write(run, half)
    programs.replace("scancel", "exit 1")

    with pytest.raises(SubmitError, match="may be queued all the same"):
        resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert events(run, "withdraw") == []
    assert programs.queued() == ["101"]


def test_one_whose_job_has_ended_since_is_adopted_by_its_output(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    second = replace(begun, attempt=2)
    intend(run, second)
    submission.write(run, second)
    append_event(run, "start", stage="pretrain", index=0, attempt=2, job_id="77", began=1.0)

    resolve_unanswered(run, client, attempt_history.HistoryReader(run))

    assert events(run, "submit")[-1]["job_ids"] == ["77"]


def test_while_slurm_does_not_say_what_became_of_one_nothing_is_submitted(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    intend(run, replace(begun, attempt=2))
    programs.tell("down", "Unable to contact slurm controller")

    with pytest.raises(SubmitError, match="attempt 2 of pretrain is unconfirmed"):
        resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert events(run, "withdraw") == []


def test_one_that_got_no_answer_and_was_queued_without_its_arguments_is_submitted_again(
    run: RunDir, client: Client, programs: FakeSlurm, begun: Submission
) -> None:
    """sbatch timed out although its job was queued, and squeue does not answer either."""
    lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
    programs.tell("lose-1", lost)
    programs.tell("down", "Unable to contact slurm controller")
    with pytest.raises(SubmitError, match="may be queued all the same"):
        resubmit(run, "pretrain", 0, replaces=["50"], by="supervisor", client=client)
    (programs.state / "down").unlink()

    ids = resubmit(run, "pretrain", 0, replaces=["50"], by="recovery_job", client=client)

    assert ids == ["102"]
    assert "101" not in programs.queued()


def test_a_resubmission_interrupted_before_any_step_leaves_no_dependent_of_a_cancelled_job(
    tmp_path: Path, training: Submission
) -> None:
    for step in itertools.count(1):
        run = RunDir(tmp_path / str(step) / "med-tiny-0")
        run.code.mkdir(parents=True)
        programs = fake_slurm.install(tmp_path / str(step) / "slurm")
        dependent = "70|PENDING|Dependency|med-tiny-0.evaluate|70|||afterok:50(unfulfilled)"
        programs.queue("50|RUNNING|None", dependent)
        client = Client(programs.environ)
        submission.write(run, training)
        fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
        append_event(run, "submit", **fields, job_ids=["50"])
        again = partial(resubmit, run, "pretrain", 0, replaces=["50"], client=client)

        was_interrupted = kill_before_step(step, partial(again, by="recover"), interrupt=True)
        again(by="recovery_job")

        (job,) = events(run, "submit")[-1]["job_ids"]
        assert programs.waits_for()["70"].startswith(f"afterok:{job}"), step
        assert job in programs.queued()
        if not was_interrupted:
            break


@pytest.mark.parametrize("waiting", [False, True], ids=["new recovery job", "old recovery job"])
def test_a_resubmission_killed_before_any_step_leaves_one_job_and_one_recovery_job(
    tmp_path: Path, training: Submission, waiting: bool
) -> None:
    """Steps are files opened to write, renames and programs; the next process completes it."""
    row = "51|PENDING|Dependency|med-tiny-0.pretrain.recovery_job|51|||afterany:50(unfulfilled)"
    for step in itertools.count(1):
        run = RunDir(tmp_path / str(step) / "med-tiny-0")
        run.code.mkdir(parents=True)
        programs = fake_slurm.install(tmp_path / str(step) / "slurm")
        programs.queue("50|RUNNING|None", *([row] if waiting else []))
        client = Client(programs.environ)
        submission.write(run, training)
        fields = {"stage": "pretrain", "attempt": 1, "indices": [0], "scheduler": "slurm"}
        append_event(run, "submit", **fields, job_ids=["50"], recovery_jobs=["51"])
        again = partial(resubmit, run, "pretrain", 0, replaces=["50"], client=client)

        was_killed = kill_before_step(step, partial(again, by="supervisor"))
        again(by="recovery_job")

        last = events(run, "submit")[-1]
        guards = last["recovery_jobs"]
        assert sorted(programs.queued()) == sorted(["50", *last["job_ids"], *guards]), step
        assert (len(last["job_ids"]), len(guards), "51" in guards) == (1, 1, waiting)
        assert attempt_history.read(run).unanswered == []
        if not was_killed:
            break


def test_the_elements_of_an_array_share_a_pickle_that_is_written_once(
    run: RunDir, client: Client, training: Submission
) -> None:
    folder, settings = run.attempt("pretrain", 1), submission.settings(run, training)
    call = sbatch.Call(folder, settings, payload.TASK, ("run", "pretrain", "3,5,6", "1"), 3)
    first, *_ = sbatch.call_sbatch(call, run, training, client)
    number = int(first.partition("_")[0]) + 1
    (folder / f"{number}_1_submitted.pkl").write_bytes(b"in the way")  # of a hard link

    ids = sbatch.call_sbatch(call, run, training, client)

    pickles = [folder / f"{job}_submitted.pkl" for job in ids]
    assert ids == [f"{number}_{element}" for element in range(3)]
    assert [path.stat().st_nlink for path in pickles] == [2, 1, 2]
    assert {DelayedSubmission.load(path).args for path in pickles} == {call.words}
    assert not list(folder.glob(".*.pkl"))


@pytest.mark.parametrize("elements", [1, 2])
def test_an_sbatch_that_does_not_answer_is_given_up(
    run: RunDir, client: Client, programs: FakeSlurm, training: Submission, elements: int
) -> None:
    programs.replace("sbatch", "exec /bin/sleep 60")
    folder, settings = run.attempt("pretrain", 1), submission.settings(run, training)
    call = sbatch.Call(folder, settings, payload.TASK, ("a",), elements)

    with pytest.raises(SubmitError) as caught:
        sbatch.call_sbatch(call, run, training, client, seconds=1)

    assert caught.value.message == "sbatch did not answer for pretrain within 1 s"
