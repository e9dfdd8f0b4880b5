"""Heartbeats of real ranks, and the hang report when one of them stops."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import Any

import pytest

from jobs.checkpoints import leases
from jobs.contract import specs
from jobs.contract.files import read_json
from jobs.runtime import heartbeat
from jobs.runtime.heartbeat import Phase
from jobs.supervision.ranks import hang_attribution, hang_detector, stack_dump

from ..ranks import wait_until

pytestmark = pytest.mark.engine

ENDLESS = {"train_steps": 100_000, "save_interval": 100_000, "validation_interval": 0}


def beats(run: Any) -> dict[int, heartbeat.Heartbeat]:
    return heartbeat.find(run.files, "pretrain", 0, run.attempt)


def impatient(run: Any) -> specs.TaskSpec:
    """Return the run's task with a step limit of two seconds."""
    task = specs.task_from_json(read_json(run.files.spec("pretrain", 0)))
    return dataclasses.replace(task, supervision=specs.SupervisionSpec(step_limit_seconds=2))


def test_a_rank_that_stops_is_found_and_named_and_its_peer_shows_that_it_waits(make_run, layout):
    run = make_run(**ENDLESS, parallel=layout(data=2))
    ranks = run.start()
    run.until_step(2)
    learned = hang_detector.LearnedDurations()
    watch = hang_detector.HangDetector(run.files, impatient(run), run.attempt, learned)
    assert watch.check(time.monotonic()) is None
    ranks.processes[1].send_signal(signal.SIGSTOP)

    found: list[Any] = []
    wait_until(lambda: found.append(watch.check(time.monotonic())) or found[-1])
    stacks = [""]

    def its_peer_waits() -> bool:
        """Examine both; a rank without a core may not have come to the collective yet."""
        assert stack_dump.main([str(run.root), "pretrain", "0", str(run.attempt)]) == 0
        stacks.append(stack_dump.read(run.files, "pretrain", 0, run.attempt)[0].stack)
        return hang_attribution.waits_for_others(stacks[-1].removeprefix(stacks[-2]))

    wait_until(its_peer_waits)

    reports = stack_dump.read(run.files, "pretrain", 0, run.attempt)
    hang = hang_attribution.attribute(found[-1], reports, [])
    assert (hang.phase, hang.rank, hang.node) == ("step", 1, os.uname().nodename)
    assert hang.detail == "stopped by a signal (state T)"
    assert (
        "stopped by a signal"
        in (run.files.attempt("pretrain", run.attempt) / "stacks-00000-00001.txt").read_text()
    )

    step = beats(run)[0].step
    ranks.processes[1].send_signal(signal.SIGCONT)
    wait_until(lambda: beats(run)[0].step > step + 2)
    ranks.signal(signal.SIGTERM)
    assert ranks.wait() == [130, 130], ranks.output()


def test_all_ranks_beat_at_the_same_places(make_run, layout):
    run = make_run(**{**ENDLESS, "save_interval": 7}, parallel=layout(tensor=2))
    ranks = run.start()
    run.until_step(10)
    ranks.processes[1].send_signal(signal.SIGSTOP)

    seen: list[list[int]] = [[]]

    def rest() -> bool:
        seen.append([beat.ticks for beat in beats(run).values()])
        time.sleep(0.2)
        return seen[-1] == seen[-2]

    wait_until(rest)

    first, second = (beats(run)[rank] for rank in range(2))
    assert abs(first.step - second.step) <= 1
    assert abs(first.ticks - second.ticks) <= 3  # of a step: two micro-batches, and its end
    assert first.ticks > 20


def test_a_rank_reports_its_phase_while_it_saves_and_validates(make_run):
    run = make_run(**{**ENDLESS, "save_interval": 2, "validation_interval": 3})
    seen = set()

    def is_seen(*phases: Phase) -> bool:
        seen.update(beat.phase for beat in beats(run).values())
        return set(phases) <= seen

    other = leases.Holder("pretrain", 0, 1, "", "n01", 1)
    with leases.sole_writer(run.root / "checkpoints", other):  # which a rank waits for as it starts
        ranks = run.start()
        wait_until(lambda: is_seen(Phase.STARTUP))
    wait_until(lambda: is_seen(Phase.STEP, Phase.CHECKPOINT, Phase.VALIDATION))
    ranks.signal(signal.SIGTERM)
    assert ranks.wait() == [130], ranks.output()
    assert beats(run) == {}
