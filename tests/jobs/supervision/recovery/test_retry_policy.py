"""Retry decisions: rows, rules and sentences by example, and properties that hold for all."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import CONFIGURATION, FINISHED, STOPPED, SUCCESSOR, UNHEALTHY
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import (
    Decision,
    Diagnosis,
    Hang,
    NodeEntry,
    NodeFinding,
    RetryAction,
    RootCause,
)
from jobs.contract.specs import SupervisionSpec
from jobs.health import node_ledger
from jobs.supervision.diagnosis.evidence import Evidence, RecoveryOptions
from jobs.supervision.recovery import retry_policy, retry_state, retry_table

from ..endings import (
    AFTERWARDS,
    KILL,
    NOW,
    SITE,
    changed,
    ending,
    evidence,
    killed,
    listed,
    logged,
    past,
    raised,
    rank,
)

USR2, TERM = int(signal.SIGUSR2), int(signal.SIGTERM)
GOES_ON = (RetryAction.RESTART, RetryAction.REQUEUE, RetryAction.SUBMIT)
STUCK = {"step_before": 1200, "step_after": 1200}
CUDA = "CUDA error: an illegal memory access was encountered"
LOST = NodeFinding("gpu02", "gpu_lost", "FATAL", "GPU 3 has fallen off the bus")
LIMITS = SupervisionSpec()


def decide(
    case: Evidence,
    history: Sequence[ExitRecord] = (),
    ledger: Sequence[NodeEntry] = (),
    limits: SupervisionSpec = LIMITS,
) -> Decision:
    return retry_policy.decide(history, case, ledger, NOW, limits)


def follow(attempts: Iterable[Evidence], limits: SupervisionSpec = LIMITS) -> list[Decision]:
    """Decide after each attempt in turn, until one is the last; each is the next attempt."""
    history: list[ExitRecord] = []
    decisions = []
    for number, case in enumerate(attempts, 1):
        case = changed(case, number=number)
        decision = decide(case, history, limits=limits)
        decisions.append(decision)
        history.append(ending(case, decision))
        if decision.action not in GOES_ON:
            break
    return decisions


def actions(decisions: Iterable[Decision]) -> list[str]:
    return [decision.action.value for decision in decisions]


# One attempt --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "action", "code"),
    [
        (evidence(done=True, code=0), RetryAction.FINISH, FINISHED),
        (evidence(stop_requested=True), RetryAction.STOP, STOPPED),
        (evidence(cancelled=True, signals=(TERM,)), RetryAction.STOP, STOPPED),
        (evidence(is_configuration_error=True), RetryAction.STOP, CONFIGURATION),
        (evidence(preempted=True, signals=(USR2,)), RetryAction.REQUEUE, SUCCESSOR),
        (evidence(signals=(USR2,)), RetryAction.SUBMIT, SUCCESSOR),
        (evidence(signals=(TERM,)), RetryAction.WAIT, STOPPED),
        (killed(signals=(TERM,)), RetryAction.WAIT, STOPPED),
        (evidence(failed_node="gpu02"), RetryAction.WAIT, STOPPED),
        (killed(), RetryAction.RESTART, SUCCESSOR),
        (raised("odd"), RetryAction.RESTART, SUCCESSOR),
        (raised(CUDA), RetryAction.RESTART, SUCCESSOR),
        (killed(oom_kills=1), RetryAction.RESTART, SUCCESSOR),
        (raised("nan", "NonFiniteLoss"), RetryAction.RESTART, SUCCESSOR),
        (raised("", "CheckpointingException"), RetryAction.RESTART, SUCCESSOR),
        (raised("EADDRINUSE"), RetryAction.RESTART, SUCCESSOR),
        (evidence(code=0), RetryAction.RESTART, SUCCESSOR),
        (evidence(ranks=(rank(3, -11),), signals=(USR2,)), RetryAction.SUBMIT, SUCCESSOR),
        (raised("No space left on device"), RetryAction.SUBMIT, SUCCESSOR),
        (evidence(findings=(LOST,), ranks_started=False), RetryAction.SUBMIT, SUCCESSOR),
        (evidence(log_signs=(logged("xid", 79),)), RetryAction.SUBMIT, SUCCESSOR),
    ],
)
def test_each_end_has_its_action(case: Evidence, action: RetryAction, code: int) -> None:
    decision = decide(case)

    assert (decision.action, decision.code) == (action, code)


@pytest.mark.parametrize(
    ("nodes", "action"),
    [(("gpu01", "gpu03"), RetryAction.REQUEUE), (("gpu01", "gpu02"), RetryAction.SUBMIT)],
)
def test_a_requeued_job_resumes_unless_it_got_the_bad_node_again(
    nodes: tuple[str, ...], action: RetryAction
) -> None:
    options = replace(AFTERWARDS, started_again=True, nodes=nodes)

    decision = decide(evidence(state="NODE_FAIL", failed_node="gpu02", options=options))

    assert decision.action is action


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            killed(),
            "rank 3 on gpu02 was killed by SIGKILL at step 1,204; restarting from step 1,200 on "
            "the same nodes in 32 s (restart 1 of 2)",
        ),
        (
            evidence(preempted=True),
            "job 12 was preempted at step 1,204; Slurm requeues the job, which resumes from "
            "step 1,200",
        ),
        (
            evidence(signals=(USR2,)),
            "job 12 reached its time limit at step 1,204; a new job resumes from step 1,200",
        ),
        (
            evidence(signals=(USR2,), options=replace(SITE, can_submit=False)),
            "job 12 reached its time limit at step 1,204; no job may be submitted from this node: "
            "{meditron recover} or {meditron resume} on the login node submits one",
        ),
        (
            evidence(signals=(TERM,)),
            "Slurm is ending job 12 at step 1,204 and reports no reason; waiting for Slurm to "
            "report the final state of the job",
        ),
        (
            evidence(stop_requested=True),
            "attempt 1 of pretrain was requested to save and exit at step 1,204; {meditron "
            "resume} resumes it",
        ),
        (
            killed(step_after=None, step_before=1200),
            "rank 3 on gpu02 was killed by SIGKILL at step 1,204, and no checkpoint can be used "
            "although there was one of step 1,200; training does not restart from step 0",
        ),
        (
            raised("CUDA out of memory", step_before=0, step_after=0, last_step=None),
            "rank 1 on gpu01 failed: CUDA out of memory; not retried: lower the micro-batch "
            "size, recompute activations, or split the model further",
        ),
        (evidence(done=True), "pretrain reached its target"),
    ],
)
def test_the_reason_is_a_sentence_for_a_tired_person(case: Evidence, reason: str) -> None:
    assert decide(case).reason == reason


def test_every_cause_has_a_row() -> None:
    assert set(retry_table.ROWS) == set(RootCause)


# Slurm ends it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "action"),
    [
        (SITE, RetryAction.REQUEUE),
        (replace(SITE, requeues_left=1), RetryAction.REQUEUE),
        (replace(SITE, requeues_left=0), RetryAction.SUBMIT),
        (replace(SITE, can_requeue=False), RetryAction.SUBMIT),
        (replace(SITE, usable=False), RetryAction.REQUEUE),
        (replace(SITE, can_requeue=False, can_submit=False), RetryAction.WAIT),
        (AFTERWARDS, RetryAction.SUBMIT),
    ],
)
def test_a_preempted_job_resumes_as_its_site_allows(
    options: RecoveryOptions, action: RetryAction
) -> None:
    assert decide(evidence(preempted=True, options=options)).action is action


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL", "TIMEOUT", "FAILED", ""])
def test_a_job_that_has_ended_is_resubmitted(state: str) -> None:
    assert decide(evidence(state=state, options=AFTERWARDS)).action is RetryAction.SUBMIT


def test_preemption_and_time_limits_with_progress_are_free() -> None:
    ends = ({"preempted": True}, {"signals": (USR2,)}, {"state": "TIMEOUT"})
    attempts = (
        evidence(step_before=n * 10, step_after=n * 10 + 10, last_step=n * 10 + 10, **how)
        for n, how in enumerate(islice(cycle(ends), 200))
    )

    decisions = follow(attempts)

    assert len(decisions) == 200
    assert {decision.delay for decision in decisions} == {0.0}


def test_two_allocations_without_a_newer_checkpoint_are_a_configuration_error() -> None:
    decisions = follow([evidence(signals=(USR2,), **STUCK)] * 9)

    assert actions(decisions) == ["submit", "stop"]
    assert decisions[-1].code == CONFIGURATION
    assert decisions[-1].diagnosis is not None
    assert decisions[-1].diagnosis.cause is RootCause.CONFIGURATION
    assert decisions[-1].reason == (
        "job 12 reached its time limit at step 1,204; not retried: it occurred 2 times without a "
        "newer checkpoint, the time limit is too short: raise it, or save more often"
    )


def test_time_limits_between_progress_are_not_two_in_a_row() -> None:
    stuck, moved = evidence(signals=(USR2,), **STUCK), evidence(signals=(USR2,), step_after=1300)

    assert actions(follow([stuck, moved])) == ["submit", "submit"]


def test_a_task_without_checkpoints_that_meets_its_limit_twice_needs_more_time() -> None:
    case = evidence(
        stage="evaluate", signals=(USR2,), step_before=None, step_after=None, last_step=None
    )

    decisions = follow([case] * 9)

    assert actions(decisions) == ["submit", "stop"]
    assert decisions[-1].reason.endswith(
        "the time limit is too short: raise it, or save more often"
    )


def test_preemption_without_progress_uses_no_budget_and_has_a_limit() -> None:
    decisions = follow([evidence(preempted=True, **STUCK)] * 99)

    assert len(decisions) == retry_policy.STALLED_STARTS
    assert actions(decisions[:-1]) == ["requeue"] * (retry_policy.STALLED_STARTS - 1)
    assert decisions[-1].reason.endswith(
        "not retried: start 10 in a row without a newer checkpoint, save more often, or use "
        "another partition"
    )


# Failures in a row --------------------------------------------------------------------------------


def test_three_attempts_without_a_newer_checkpoint_are_enough() -> None:
    decisions = follow([killed(number % 4, **STUCK) for number in range(9)])

    assert actions(decisions) == ["restart", "restart", "stop"]
    assert decisions[-1].reason == (
        "rank 2 on gpu02 was killed by SIGKILL at step 1,204; not retried: attempt 3 in a row "
        "without a newer checkpoint"
    )


def test_progress_between_failures_starts_the_count_anew() -> None:
    stuck, moved = killed(**STUCK), killed(step_before=1200, step_after=1300)

    assert len(follow([stuck, stuck, moved, stuck, stuck, stuck, stuck])) == 6


@pytest.mark.parametrize(
    ("case", "attempts"), [(killed(), 3), (evidence(preempted=True), retry_policy.STALLED_STARTS)]
)
def test_a_task_without_checkpoints_has_so_many_attempts_in_all(
    case: Evidence, attempts: int
) -> None:
    nothing = {"step_before": None, "step_after": None, "last_step": None}

    decisions = follow([changed(case, stage="tokenize", world_size=1, **nothing)] * 99)

    assert len(decisions) == attempts
    assert all("from the beginning" in decision.reason for decision in decisions[:-1])


def test_a_checkpoint_made_twice_is_no_progress() -> None:
    """Back and forth between a checkpoint that is made and one that turns out damaged."""
    made, lost = (
        killed(step_before=1100, step_after=1200),
        killed(step_before=1200, step_after=1100),
    )

    assert len(follow(cycle([made, lost]))) == 4


def test_the_checkpoint_of_step_0_is_no_progress() -> None:
    assert len(follow([killed(step_before=None, step_after=0, last_step=3)] * 9)) == 3


def test_a_training_that_never_saved_has_no_progress() -> None:
    assert len(follow([killed(step_before=None, step_after=None, last_step=None)] * 9)) == 3


def test_an_attempt_of_unknown_progress_does_not_count_as_a_failure() -> None:
    unknown = past(step_before=1200, step_after=None, attempt=-1)
    known = past(step_before=1200, step_after=1200, attempt=0)

    assert decide(killed(**STUCK), [unknown, known]).action is RetryAction.RESTART
    assert decide(killed(**STUCK), [known, replace(known, attempt=-1)]).action is RetryAction.STOP


def test_a_person_starts_the_count_anew() -> None:
    stuck = [past(attempt=-number, **STUCK) for number in (2, 1, 0)]

    assert decide(killed(**STUCK), stuck).action is RetryAction.STOP
    assert decide(killed(by_person=True, **STUCK), stuck).action is RetryAction.RESTART
    by_person = [*stuck[:2], replace(stuck[2], by_person=True)]
    assert decide(killed(**STUCK), by_person).action is RetryAction.RESTART


def test_a_person_may_set_how_patient_it_is() -> None:
    patient = SupervisionSpec(attempts_without_progress=12)

    assert len(follow([killed(n % 4, **STUCK) for n in range(99)], patient)) == 12


@pytest.mark.parametrize(
    ("case", "attempts"),
    [
        (raised("no tokens", "TaskError", frame="jobs.engine.dataset:x", **STUCK), 2),
        (raised("nan", "NonFiniteLoss", **STUCK), 2),
        (killed(oom_kills=1, **STUCK), 2),
        (raised("CUDA out of memory", **STUCK), 2),
        (raised("", "CheckpointingException", **STUCK), 2),
        (raised("odd", **STUCK), 3),
        (killed(hang=Hang("step", 130, 120), **STUCK), 3),
        (raised("No space left on device", **STUCK), retry_policy.STALLED_STARTS),
        (evidence(code=0, **STUCK), 3),
        (evidence(is_configuration_error=True), 1),
        (raised("no checkpoint can be used", "CheckpointsDamaged", step_after=None), 1),
        (raised("CUDA out of memory", step_before=0, step_after=0), 1),
    ],
)
def test_a_failure_may_come_back_as_often_as_its_cause_allows(
    case: Evidence, attempts: int
) -> None:
    decisions = follow([case] * 11)

    assert len(decisions) == attempts
    assert decisions[-1].action is RetryAction.STOP


def test_nan_that_comes_back_from_the_same_checkpoint_stops() -> None:
    """The first attempt made that checkpoint, so it had progress; still it is the same NaN."""
    first = raised("loss of step 1205 is nan", "NonFiniteLoss")
    again = raised("gradient norm of step 1206 is inf", "NonFiniteLoss", **STUCK)

    decisions = follow([first, again])

    assert actions(decisions) == ["restart", "stop"]
    assert "the model or the data is at fault" in decisions[-1].reason


def test_the_same_failure_at_the_same_step_stops_whatever_checkpoint_it_came_from() -> None:
    attempts = [
        raised("index 7 is odd", step_before=step - 50, step_after=step, last_step=1204)
        for step in (1100, 1150, 1200, 1203)
    ]

    decisions = follow(attempts)

    print_ = decisions[0].diagnosis.fingerprint if decisions[0].diagnosis else ""
    assert actions(decisions) == ["restart", "restart", "stop"]
    assert decisions[-1].reason == (
        "rank 1 on gpu01 failed at step 1,204: index 7 is odd; not retried: the same failure "
        f"({print_}) occurred 3 times at step 1,204"
    )


def test_another_step_is_another_failure() -> None:
    attempts = [
        raised("odd", step_before=step - 50, step_after=step, last_step=step + 5)
        for step in range(100, 2000, 50)
    ]

    assert len(follow(attempts)) == len(attempts)


# Nodes --------------------------------------------------------------------------------------------


def test_the_same_failure_twice_on_one_node_excludes_that_node() -> None:
    decisions = follow([raised(CUDA, node="gpu02", **STUCK)] * 2)

    assert actions(decisions) == ["restart", "submit"]
    assert decisions[-1].exclude == ("gpu02",)
    assert [(entry.node, entry.verdict) for entry in decisions[-1].suspects] == [
        ("gpu02", "SUSPECT")
    ]


def test_the_same_failure_on_two_nodes_is_the_programs() -> None:
    decisions = follow([raised(CUDA, node=node, **STUCK) for node in ("gpu02", "gpu01")])

    assert actions(decisions) == ["restart", "stop"]
    assert "occurred on gpu01 and on gpu02: the program is at fault" in decisions[-1].reason
    assert decisions[-1].exclude == ()


def test_xid_31_is_confirmed_then_excluded_then_the_programs() -> None:
    def attempt(node: str, job: str) -> Evidence:
        options = RecoveryOptions(nodes=(node,), seconds_left=36_000.0)
        return evidence(log_signs=(logged("xid", 31),), options=options, job_id=job, **STUCK)

    decisions = follow([attempt("gpu02", "1"), attempt("gpu02", "1"), attempt("gpu05", "2")])

    assert actions(decisions) == ["restart", "submit", "stop"]
    assert "the program is at fault" in decisions[-1].reason


def test_a_gpu_off_the_bus_is_listed_and_its_node_excluded_at_once() -> None:
    decision = decide(evidence(findings=(LOST,), ranks=(rank(3),)))

    assert (decision.action, decision.exclude) == (RetryAction.SUBMIT, ("gpu02",))
    (entry,) = decision.suspects
    assert (entry.verdict, entry.code, entry.run) == ("FATAL", "gpu_lost", "med")
    assert entry.expires - NOW == node_ledger.LIFETIME_SECONDS["FATAL"]


def test_every_node_that_the_preflight_check_refuses_is_excluded() -> None:
    other = replace(LOST, node="gpu01", code="foreign_process", message="others compute on it")

    decision = decide(evidence(findings=(LOST, other), ranks_started=False))

    assert set(decision.exclude) == {"gpu01", "gpu02"}
    assert {entry.node: entry.verdict for entry in decision.suspects} == {
        "gpu02": "FATAL",
        "gpu01": "SUSPECT",
    }


def test_a_finding_that_does_not_end_the_work_is_listed_all_the_same() -> None:
    drain = NodeFinding("gpu01", "pcie_width", "DRAIN", "x8 of x16")

    decision = decide(killed(findings=(drain,)))

    assert decision.action is RetryAction.RESTART
    assert {entry.node: entry.verdict for entry in decision.suspects} == {
        "gpu01": "DRAIN",
        "gpu02": "SUSPECT",
    }


def test_an_entry_has_all_that_is_as_bad_and_its_gpu() -> None:
    lost = replace(LOST, gpu_uuid="GPU-3")
    others = [replace(lost, code="xid", message=f"XID {number}") for number in (79, 62, 48, 79)]
    mild = replace(lost, code="pcie_width", verdict="DRAIN", message="x8 of x16")

    (entry,) = decide(evidence(findings=(mild, lost, *others))).suspects

    assert (entry.code, entry.verdict, entry.gpu_uuid) == ("gpu_lost", "FATAL", "GPU-3")
    assert entry.evidence == "GPU 3 has fallen off the bus; XID 79; XID 62; and 1 more"


def test_a_failed_node_is_listed_although_slurm_acts() -> None:
    decision = decide(evidence(failed_node="gpu02"))

    assert decision.action is RetryAction.WAIT
    assert [(entry.node, entry.verdict, entry.code) for entry in decision.suspects] == [
        ("gpu02", "DRAIN", "NODE_FAIL")
    ]


def test_unfit_nodes_one_after_the_other_end_in_exit_code_5() -> None:
    attempts = (
        evidence(findings=(replace(LOST, node=f"gpu{n}"),), ranks_started=False, **STUCK)
        for n in range(9)
    )

    decisions = follow(attempts)

    assert actions(decisions) == ["submit", "submit", "stop"]
    assert decisions[-1].code == UNHEALTHY


def test_a_new_job_excludes_the_nodes_of_the_ledger_the_worst_first() -> None:
    ledger = [listed("gpu07", "DRAIN"), listed("gpu08"), listed("gpu09", "SUSPECT")]

    decision = decide(evidence(signals=(USR2,)), ledger=ledger)

    assert decision.exclude == ("gpu08", "gpu07")
    assert decision.reason.endswith("a new job resumes from step 1,200 without gpu08, gpu07")


def test_ranks_do_not_start_again_on_a_node_that_the_ledger_calls_fatal() -> None:
    assert decide(killed(), ledger=[listed("gpu01")]).action is RetryAction.SUBMIT
    assert decide(killed(), ledger=[listed("gpu01", "DRAIN")]).action is RetryAction.RESTART
    assert decide(killed(), ledger=[listed("gpu09")]).action is RetryAction.RESTART


# The same allocation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "action"),
    [
        (SITE, RetryAction.RESTART),
        (replace(SITE, seconds_left=None), RetryAction.RESTART),
        (replace(SITE, seconds_left=140.0), RetryAction.SUBMIT),
        (replace(SITE, usable=False), RetryAction.SUBMIT),
        (replace(SITE, can_submit=False), RetryAction.RESTART),
        (replace(SITE, seconds_left=140.0, can_submit=False), RetryAction.WAIT),
        (replace(AFTERWARDS, can_submit=False), RetryAction.WAIT),
    ],
)
def test_ranks_start_again_where_they_are_if_that_can_help(
    options: RecoveryOptions, action: RetryAction
) -> None:
    assert decide(killed(options=options)).action is action


def test_an_allocation_is_used_three_times_and_the_next_one_again() -> None:
    history = [
        past(action=action, job_id=job, attempt=-9 + n, step_before=n * 10, step_after=n * 10 + 10)
        for n, (action, job) in enumerate(
            [(RetryAction.REQUEUE, "12"), (RetryAction.RESTART, "12"), (RetryAction.RESTART, "12")]
        )
    ]

    assert decide(killed(job_id="12"), history[:2]).action is RetryAction.RESTART
    assert decide(killed(job_id="12"), history).action is RetryAction.SUBMIT
    assert decide(killed(job_id="13"), history).action is RetryAction.RESTART


def test_restarts_can_be_turned_off() -> None:
    limits = SupervisionSpec(restarts_in_allocation=0)

    assert decide(killed(), limits=limits).action is RetryAction.SUBMIT


def test_on_this_machine_a_task_restarts_in_place_and_blames_no_node() -> None:
    local = RecoveryOptions(scheduler="local", nodes=("laptop",))
    attempts = [raised(CUDA, node="laptop", options=local, **STUCK)] * 9

    decisions = follow(attempts)

    assert actions(decisions) == ["restart", "restart", "stop"]
    assert all(decision.suspects == decision.exclude == () for decision in decisions)


# Delays -------------------------------------------------------------------------------------------


def test_delays_double_up_to_a_quarter_of_an_hour_and_begin_anew_after_progress() -> None:
    limits = SupervisionSpec(attempts_without_progress=9)
    stuck = [killed(n % 4, **STUCK) for n in range(8)]

    delays = [d.delay for d in follow([*stuck, killed(step_before=1200, step_after=1300)], limits)]

    for delay, least in zip(delays, [30, 60, 120, 240, 480, 900, 900, 900, 30], strict=True):
        assert least <= delay <= min(least * 1.1, 900)


def test_a_failing_disk_is_given_ten_minutes_up_to_an_hour() -> None:
    """It outlasts a night of maintenance, and has an end."""
    decisions = follow([raised("Stale file handle", **STUCK)] * retry_policy.STALLED_STARTS)

    waits = [600, 1200, 2400, *[3600] * 6]
    for decision, least in zip(decisions[:-1], waits, strict=True):
        assert least <= decision.delay <= min(least * 1.1, 3600)
    assert actions(decisions) == ["submit"] * 9 + ["stop"]


def test_a_budget_of_one_attempt_excludes_a_retry_on_a_full_disk() -> None:
    once = SupervisionSpec(attempts_without_progress=1)

    assert actions(follow([raised("No space left on device", **STUCK)] * 3, once)) == ["stop"]


def test_a_failing_disk_uses_up_no_try_of_other_failures() -> None:
    decisions = follow([raised("Stale file handle", **STUCK)] * 4 + [killed(**STUCK)] * 3)

    assert actions(decisions)[4:] == ["restart", "restart", "stop"]


def test_delays_can_be_turned_off() -> None:
    limits = SupervisionSpec(retry_delay_seconds=0)

    assert {decision.delay for decision in follow([killed(**STUCK)] * 3, limits)} == {0.0}


# Deciding again -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "action"),
    [
        ("CANCELLED by 1000", RetryAction.STOP),
        ("TIMEOUT", RetryAction.SUBMIT),
        ("NODE_FAIL", RetryAction.SUBMIT),
        ("PREEMPTED", RetryAction.SUBMIT),
    ],
)
def test_what_waited_is_decided_by_slurms_last_word(state: str, action: RetryAction) -> None:
    case = evidence(signals=(TERM,))
    first = decide(case)
    history = [ending(case, first)]

    later = changed(case, signals=(), state=state, options=AFTERWARDS, diagnosis=first.diagnosis)

    assert first.action is RetryAction.WAIT
    assert decide(later, history).action is action


def test_what_could_not_be_submitted_from_a_node_is_from_the_login_node() -> None:
    case = raised(CUDA, node="gpu02", options=replace(SITE, can_submit=False, usable=False))
    first = decide(case)

    known = changed(case, ranks=(), diagnosis=first.diagnosis, state="FAILED", options=AFTERWARDS)
    decision = decide(known, [ending(case, first)])

    assert (first.action, decision.action) == (RetryAction.WAIT, RetryAction.SUBMIT)
    assert decision.diagnosis == first.diagnosis


# What holds for all -------------------------------------------------------------------------------

FAULTS = st.sampled_from(
    [
        {"preempted": True},
        {"signals": (USR2,)},
        {"signals": (TERM,)},
        {"state": "NODE_FAIL"},
        {"state": "TIMEOUT"},
        {"failed_node": "gpu02"},
        {"code": 0},
        {"code": KILL, "ranks": (rank(3, KILL),)},
        {"code": -11, "ranks": (rank(2, -11),)},
        {"ranks": (rank(1, 1, "ValueError", "odd"),)},
        {"ranks": (rank(0, 1, "RuntimeError", CUDA),)},
        {"ranks": (rank(0, 1, "RuntimeError", "CUDA out of memory"),)},
        {"ranks": (rank(0, 1, "OSError", "No space left on device"),)},
        {"ranks": (rank(0, 1, "NonFiniteLoss", "loss of step 7 is nan"),)},
        {"ranks": (rank(0, 1, "CheckpointingException", "shard 3"),)},
        {"hang": Hang("step", 130, 120, 2, "gpu02")},
        {"oom_kills": 1},
        {"findings": (LOST,), "ranks_started": False},
        {"log_signs": (logged("xid", 79),)},
        {"ranks_started": False},
        {},
    ]
)
OPTIONS = st.builds(
    RecoveryOptions,
    scheduler=st.sampled_from(["slurm", "local"]),
    in_allocation=st.booleans(),
    usable=st.booleans(),
    can_requeue=st.booleans(),
    can_submit=st.booleans(),
    requeues_left=st.sampled_from([None, 0, 5]),
    seconds_left=st.sampled_from([None, 10.0, 36_000.0]),
    nodes=st.sampled_from([(), ("gpu02",), ("gpu01", "gpu02")]),
)
STEPS = st.none() | st.sampled_from([0, 100, 200, 1200])
ATTEMPTS = st.builds(
    lambda how, changes: evidence(**{**changes, **how}),
    FAULTS,
    st.fixed_dictionaries(
        {
            "stage": st.sampled_from(["pretrain", "evaluate"]),
            "options": OPTIONS,
            "step_before": STEPS,
            "step_after": STEPS,
            "last_step": STEPS,
            "by_person": st.booleans(),
            "job_id": st.sampled_from(["12", "13"]),
        }
    ),
)
ENDINGS = st.lists(
    st.builds(
        ExitRecord,
        stage=st.just("pretrain"),
        index=st.just(0),
        attempt=st.integers(-9, 1),
        job_id=st.sampled_from(["11", "12"]),
        cause=st.sampled_from(RootCause),
        fingerprint=st.sampled_from(["", "abc"]),
        node=st.sampled_from(["", "gpu01", "gpu02"]),
        started=st.just(NOW),
        ended=st.just(NOW),
        step_before=STEPS,
        step_after=STEPS,
        action=st.sampled_from(RetryAction),
        by_person=st.booleans(),
        last_step=STEPS,
    ),
    max_size=8,
)
LEDGERS = st.lists(
    st.builds(
        listed,
        node=st.sampled_from(["gpu01", "gpu02", "gpu09"]),
        verdict=st.sampled_from(["FATAL", "DRAIN", "SUSPECT", "CLEARED"]),
        run=st.sampled_from(["a", "b"]),
    ),
    max_size=5,
)


@dataclass
class Machine:
    """A cluster that does what is decided, while faults keep coming."""

    limits: SupervisionSpec
    history: list[ExitRecord]
    ledger: list[NodeEntry]
    job: int = 1

    def attempt(self, case: Evidence) -> RetryAction:
        """Run one attempt: a decision that waits is taken once more when the job is over."""
        case = changed(case, number=len(self.history) + 1, job_id=str(self.job), by_person=False)
        decision = self.decide(case)
        if decision.action is RetryAction.WAIT:
            options = replace(case.options, in_allocation=False, can_submit=True)
            case = changed(case, options=options, signals=(), diagnosis=decision.diagnosis)
            decision = self.decide(case)
        self.history.append(ending(case, decision))
        if decision.action is RetryAction.SUBMIT:
            self.job += 1
        return decision.action

    def decide(self, case: Evidence) -> Decision:
        decision = retry_policy.decide(self.history, case, self.ledger, NOW, self.limits)
        self.ledger += decision.suspects
        return decision


@given(
    st.lists(ATTEMPTS, min_size=1, max_size=6),
    st.integers(1, 14),
    st.integers(0, 3),
    st.sampled_from([None, 0, 1200]),
)
def test_retries_end_however_long_faults_last_without_progress(
    faults: list[Evidence], patience: int, restarts: int, step: int | None
) -> None:
    machine = Machine(SupervisionSpec(patience, restarts), [], [])
    bound = 1 + max(retry_policy.STALLED_STARTS, patience)  # the first may bring the checkpoint

    stuck = (changed(case, step_before=step, step_after=step) for case in cycle(faults))
    for case in islice(stuck, bound):
        if machine.attempt(case) not in GOES_ON:
            return

    raise AssertionError(f"{bound} attempts without progress, and no stop")


@given(st.lists(st.tuples(ATTEMPTS, st.sampled_from([0, 0, 10])), max_size=60))
def test_it_ends_in_proportion_to_the_progress_there_is(
    attempts: list[tuple[Evidence, int]],
) -> None:
    machine = Machine(LIMITS, [], [])
    step, advances = 0, 0

    for case, gain in attempts:
        advances += bool(gain)
        case = changed(case, step_before=step, step_after=step + gain, stage="pretrain")
        step += gain
        if machine.attempt(case) not in GOES_ON:
            break

    assert len(machine.history) <= (advances + 1) * retry_policy.STALLED_STARTS


@given(ATTEMPTS, ENDINGS, LEDGERS)
def test_a_decision_is_one_sentence_and_always_the_same(
    case: Evidence, history: list[ExitRecord], ledger: list[NodeEntry]
) -> None:
    decision = decide(case, history, ledger)

    assert decision == decide(case, list(history), tuple(ledger))
    assert decision.reason
    assert len(decision.reason.splitlines()) == 1
    assert isinstance(decision.diagnosis, Diagnosis)
    assert decision.delay >= 0.0


@given(ATTEMPTS, ENDINGS, LEDGERS)
def test_no_node_is_excluded_without_a_reason(
    case: Evidence, history: list[ExitRecord], ledger: list[NodeEntry]
) -> None:
    decision = decide(case, history, ledger)

    speaks_against = {entry.node for entry in node_ledger.active(ledger, NOW)}
    assert set(decision.exclude) <= speaks_against | {entry.node for entry in decision.suspects}
    assert decision.action is RetryAction.SUBMIT or decision.exclude == ()
    assert len({entry.node for entry in decision.suspects}) == len(decision.suspects)


@given(
    ATTEMPTS,
    ENDINGS,
    LEDGERS,
    st.sampled_from(["is_configuration_error", "cancelled", "stop_requested"]),
)
def test_what_is_final_is_never_tried_again(
    case: Evidence, history: list[ExitRecord], ledger: list[NodeEntry], how: str
) -> None:
    case = changed(case, preempted=False, state="", failed_node="", **{how: True})

    assert decide(case, history, ledger).action is RetryAction.STOP


@given(ATTEMPTS, ENDINGS, st.sampled_from([None, 0]))
def test_training_never_begins_anew_once_a_checkpoint_existed(
    case: Evidence, history: list[ExitRecord], left: int | None
) -> None:
    case = changed(case, stage="pretrain", step_before=1200, step_after=left)

    decision = decide(case, history)

    on_a_disk_that_is_away = decision.diagnosis and decision.diagnosis.cause is RootCause.STORAGE
    assert decision.action is RetryAction.STOP or on_a_disk_that_is_away


@given(ATTEMPTS, ENDINGS, LEDGERS)
def test_a_job_that_is_over_is_not_restarted_and_not_queued_again(
    case: Evidence, history: list[ExitRecord], ledger: list[NodeEntry]
) -> None:
    case = changed(case, options=AFTERWARDS)

    assert decide(case, history, ledger).action in (
        RetryAction.FINISH,
        RetryAction.SUBMIT,
        RetryAction.STOP,
    )


@given(ENDINGS)
def test_progress_is_counted_from_the_furthest_checkpoint(history: list[ExitRecord]) -> None:
    answers = retry_state.progress(history)

    gains = [e.step_after for e, newer in zip(history, answers, strict=True) if newer]
    assert gains == sorted(set(gains))
    assert all(step for step in gains)
