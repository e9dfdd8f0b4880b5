"""The rank monitor: stop requests, the end of the allocation, hangs, and kills."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from jobs.contract.outcomes import Hang, HealthRequest, NodeFinding
from jobs.slurm import srun_output
from jobs.supervision.ranks.rank_monitor import (
    RESUBMIT_SECONDS,
    Deadline,
    MonitorInputs,
    RankMonitor,
)

HANG = Hang("step", 130.0, 120.0)


@dataclass
class Ranks:
    """Ranks that exit after enough stop requests, or when they are killed."""

    ignores: int = 0
    """Requests that do not reach them."""
    stubborn: bool = False
    requests: int = 0
    ended: int = 0

    def poll(self) -> int | None:
        obeys = self.requests > self.ignores and not self.stubborn
        return 130 if obeys or self.ended else None

    def stop(self) -> bool:
        self.requests += 1
        return self.requests > self.ignores

    def end(self) -> None:
        self.ended += 1

    def failures(self) -> list[srun_output.FailedTask]:
        return []


@dataclass
class World:
    """The inputs of a monitor."""

    signals: list[int] = field(default_factory=list)
    stop: bool = False
    deadline: Deadline | None = None
    hang: Hang | None = None
    health: HealthRequest | None = None
    noted: int = 0

    def inputs(self) -> MonitorInputs:
        return MonitorInputs(
            signals=self.signals,
            is_stop_requested=lambda: self.stop,
            deadline=lambda: self.deadline,
            find_hang=lambda now: self.hang,
            health_request=lambda: self.health,
            examine=lambda hang: Hang(hang.phase, hang.seconds, hang.limit, rank=3),
            record_request=self.note,
        )

    def note(self) -> None:
        self.noted += 1


def watch(ranks: Ranks, world: World, leave_seconds: float = 600.0) -> RankMonitor:
    monitor = RankMonitor(ranks, world.inputs(), leave_seconds)
    assert monitor.wait() == 130
    return monitor


def test_a_request_that_did_not_reach_the_ranks_is_repeated_and_noted_once() -> None:
    ranks, world = Ranks(ignores=1), World(signals=[12, 15])

    watch(ranks, world)

    assert (ranks.requests, ranks.ended, world.noted) == (2, 0, 1)


def test_the_file_stop_is_a_request() -> None:
    ranks = Ranks()

    watch(ranks, World(stop=True))

    assert (ranks.requests, ranks.ended) == (1, 0)


def test_a_check_that_fails_does_not_abandon_the_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    ranks, world, answers = Ranks(), World(), [OSError(5, "Input/output error")] * 2

    def find_hang(now: float) -> Hang | None:
        if answers:
            raise answers.pop()
        world.signals.append(15)
        return None

    monitor = RankMonitor(ranks, replace(world.inputs(), find_hang=find_hang), 600.0)

    assert monitor.wait() == 130
    assert (ranks.requests, ranks.ended) == (1, 0)
    assert capsys.readouterr().err.count("the ranks could not be checked: OSError") == 1


def test_a_check_that_fails_does_not_prevent_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Storage that cannot be read hides the reports of nodes, and is what the ranks hang for."""
    ranks, world = Ranks(), World(hang=HANG)

    def unreadable() -> HealthRequest | None:
        raise OSError(5, "Input/output error")

    monitor = RankMonitor(ranks, replace(world.inputs(), health_request=unreadable), 600.0)

    assert monitor.wait() == 130
    assert monitor.hang is not None
    assert capsys.readouterr().err.count("the ranks could not be checked: OSError") == 1


BROKEN = NodeFinding("node07", "gpu_lost", "FATAL", "GPU 3: has fallen off the bus")


def test_ranks_on_a_node_that_cannot_do_the_job_are_killed_without_a_save() -> None:
    ranks, world = Ranks(), World(health=HealthRequest(BROKEN, at_once=True))

    monitor = watch(ranks, world)

    assert (ranks.requests, ranks.ended, world.noted) == (0, 1, 0)
    assert (monitor.left_for, monitor.hang) == (BROKEN, None)


def test_ranks_that_are_to_leave_a_node_save_and_exit() -> None:
    ranks, world = Ranks(), World(health=HealthRequest(BROKEN, at_once=False))

    monitor = watch(ranks, world)

    assert (ranks.requests, ranks.ended, world.noted) == (1, 0, 1)
    assert monitor.left_for == BROKEN


def test_ranks_that_stay_are_ended_when_their_time_is_over() -> None:
    ranks = Ranks(stubborn=True)

    watch(ranks, World(signals=[15]), leave_seconds=0.1)

    assert (ranks.requests, ranks.ended) == (1, 1)


def test_ranks_are_requested_to_exit_before_an_unannounced_end() -> None:
    """A short allocation is used for half its time at least, however long saving may take."""
    ranks = Ranks()
    began = time.time()
    world = World(deadline=Deadline(began + 2.0))

    monitor = watch(ranks, world, leave_seconds=600.0)

    assert monitor.is_late
    assert time.time() - began >= 0.9
    assert ranks.requests == 1


def test_the_end_of_a_grace_time_is_no_time_limit() -> None:
    """Only the ranks received the preemption signal, before they had a handler."""
    ranks = Ranks()
    world = World(deadline=Deadline(time.time() + 0.5, preempted=True))

    monitor = watch(ranks, world)

    assert (monitor.is_late, monitor.is_preempted, ranks.requests) == (False, True, 1)


def test_ranks_that_hang_are_examined_then_requested_to_exit() -> None:
    ranks = Ranks()

    monitor = watch(ranks, World(hang=HANG))

    assert monitor.hang is not None
    assert (monitor.hang.rank, ranks.requests, monitor.is_late) == (3, 1, False)


def test_time_for_a_fresh_job_is_kept_only_where_there_is_time() -> None:
    now = 1000.0

    assert Deadline(now + 300.0).last_moment(now) == now + 300.0 - RESUBMIT_SECONDS
    assert Deadline(now + 30.0).last_moment(now) == float("inf")
    assert Deadline(now + 300.0, preempted=True).last_moment(now) == float("inf")
