"""Ranks and supervisors that are killed, freeze, raise, or compute nonsense."""

from __future__ import annotations

import signal

import pytest

from jobs.contract.events import read_events

from .faults import (
    EVERY,
    Laboratory,
    Truth,
    check_ledger,
    check_reached,
    check_stopped,
    kill,
)

pytestmark = pytest.mark.slurm

ONCE = """
def once(name):
    path = FOLDER / name
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

def before_step(trainer):
    if trainer.context.rank == 1 and trainer.step == 13 and once("hit"):
        hit(trainer)
"""
"""Rank 1 is hit after step 13, the first time only."""
RAISE = "def hit(trainer): raise RuntimeError('the loom broke')\n"
POISON = "def hit(trainer): next(trainer.pieces[0].parameters()).data.fill_(float('nan'))\n"


def test_a_killed_rank_is_restarted_in_the_same_job(laboratory: Laboratory, truth: Truth) -> None:
    trial = laboratory.begin("killed-rank", hold=7)
    attempt, job = trial.reach(7), trial.job()

    since = kill(trial.rank(1))
    ended = trial.wait_exit(attempt)
    trial.reach(12, after=attempt)
    same = (trial.nodes()[1], trial.job())
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("kill -9 a rank", ended, since, "crash")

    assert (ended.cause, ended.exit["action"]) == ("crash", "restart")
    assert (ended.node, job) == same
    assert ended.redone == 2


@pytest.mark.full
def test_an_exception_of_one_rank_is_named_and_survived(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("raised", hold=17, hooks=ONCE + RAISE)

    ended = trial.wait_exit(1)
    trial.reach(17, after=1)
    node = trial.nodes()[1]
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("an exception in one rank", ended, None, "exception")

    assert (ended.cause, ended.node) == ("exception", node)
    assert "the loom broke" in ended.exit["reason"]
    assert ended.redone == 3


@pytest.mark.full
def test_a_loss_that_is_not_finite_once_is_trained_again(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("poisoned", hooks=ONCE + POISON)

    ended = trial.wait_exit(1)
    check_reached(trial, truth)
    laboratory.record("NaN loss, once", ended, None, "non_finite")

    assert ended.cause == "non_finite"
    assert "step 14" in ended.exit["message"]
    assert ended.redone == 3


def test_after_the_supervisor_is_killed_another_job_resumes(
    laboratory: Laboratory, truth: Truth
) -> None:
    trial = laboratory.begin("orphaned", hold=7)
    attempt, job = trial.reach(7), trial.job()

    since = kill(trial.supervisor())
    ended = trial.wait_exit(attempt)
    trial.reach(12, after=attempt)
    other = trial.job()
    trial.hold()
    check_reached(trial, truth)
    laboratory.record("kill -9 the supervisor", ended, since, "crash")

    assert ended.exit["by"] == "recovery_job"
    assert ended.redone in (0, 1, 2), "Slurm signals the ranks, which may save in time"
    assert other != job


def test_a_frozen_rank_is_named_its_stack_kept_and_the_ranks_restarted(
    laboratory: Laboratory, truth: Truth
) -> None:
    """Steps take a while, so that nothing but the freeze comes near the limit."""
    delay = "import time\ndef before_step(trainer): time.sleep(0.1)\n"
    trial = laboratory.begin("freeze", "supervision.step_limit_seconds=12", hold=17, hooks=delay)
    attempt = trial.reach(17)

    since = kill(trial.rank(1), signal.SIGSTOP)
    node = trial.nodes()[1]
    trial.hold()
    ended = trial.wait_exit(attempt)
    laboratory.record("freeze a rank", ended, since, "hang")

    assert (ended.cause, ended.exit["action"], ended.node) == ("hang", "restart", node)
    assert "rank 1" in ended.exit["reason"]
    folder = trial.run.attempt("pretrain", attempt)
    assert [path.name for path in folder.glob("stacks-00000-*")]
    assert [path.name for path in folder.glob("stack-dump-00000-*")]
    check_reached(trial, truth)


@pytest.mark.parametrize(
    ("name", "hooks", "cause"),
    [
        pytest.param(
            "exception",
            "def before_step(trainer):\n"
            "    if trainer.step == 12: raise RuntimeError('the loom broke')\n",
            "exception",
            id="exception",
        ),
        pytest.param(
            "nan",
            "def before_step(trainer):\n"
            "    if trainer.step == 12:\n"
            "        next(trainer.pieces[0].parameters()).data.fill_(float('nan'))\n",
            "non_finite",
            id="non-finite",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_same_failure_at_the_same_step_each_time_stops_the_run(
    laboratory: Laboratory, truth: Truth, name: str, hooks: str, cause: str
) -> None:
    trial = laboratory.begin(f"always-{name}", hooks=hooks)

    last = check_stopped(trial, truth, cause)
    ended = trial.attempt(last["attempt"])
    laboratory.record(f"{cause} at the same step each time", ended, None, cause)

    attempts = trial.exits()
    assert 2 <= len(attempts) <= 4
    assert last["step_after"] == 2 * EVERY
    assert len({record["fingerprint"] for record in attempts.values()}) == 1
    assert trial.status()["state"] == "failed"


def test_data_that_cannot_be_read_stops_at_once_and_no_evaluation_starts(
    laboratory: Laboratory,
) -> None:
    """A configuration error: more attempts would meet it again. The file is cut short after the
    submission, which would refuse it.
    """
    broken = laboratory.desk.folder / "broken"
    for path in (laboratory.tokens / "train").iterdir():
        (broken / path.name).parent.mkdir(exist_ok=True)
        (broken / path.name).write_bytes(path.read_bytes())
    cut = f"from pathlib import Path\nPath({str(broken / '00000.bin')!r}).write_bytes(bytes(2))\n"

    trial = laboratory.begin(
        "broken", f"pretrain.data=[{broken}/00000]", stage="pipeline", hooks=cut
    )
    ended = trial.wait_exit(1)
    trial.wait_for(lambda: "DependencyNeverSatisfied" in trial.reasons(), "no evaluation")
    laboratory.desk("cancel", trial.run.name)
    trial.wait_end()
    laboratory.record("configuration error", ended, None, "configuration")

    assert (ended.cause, ended.exit["action"]) == ("configuration", "stop")
    assert "00000.bin has 2 bytes" in ended.exit["message"]
    assert not [
        e for e in read_events(trial.run) if e.get("stage") == "evaluate" and e["event"] == "start"
    ]
    check_ledger(trial)
