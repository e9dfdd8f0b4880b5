"""A node's reports on hanging ranks: real processes, stopped, dead, asleep."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from jobs.contract import rundir, specs
from jobs.contract.files import write_json
from jobs.contract.stage_specs import TokenizeSpec
from jobs.runtime import heartbeat
from jobs.supervision.ranks import hang_attribution, stack_dump

from ....model_specs import tokenizer_ref
from ....ranks import PATIENCE, rank_program, wait_until
from ....task_specs import task_spec

BEGIN = "from jobs.__main__ import open_heartbeat; open_heartbeat(context)"
"""A stand-in that beats as ranks do."""

ANSWER = (
    "folder = context.run.attempt('tokenize', 1)",
    "folder.mkdir(parents=True, exist_ok=True)",
    "(folder / f'flight-00000-{rank}.json').touch()",
)
"""A record of collectives, without which a stack dump waits for ten seconds."""

SLEEPS = (
    "def sleep_for_ever():",
    "    context.path(f'asleep-{rank}').touch()",
    "    time.sleep(600)",
    "sleep_for_ever()",
)


@dataclass
class Node:
    """Stand-ins for the ranks of a node, and what a stack dump finds of them."""

    run: rundir.RunDir
    name: str = "gpu01"
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *lines: str, answers: bool = True) -> subprocess.Popen[bytes]:
        """Start one more rank, which has written its collectives, and wait until it beats."""
        rank = len(self.processes)
        program = rank_program(self.run.root, *(ANSWER if answers else ()), BEGIN, *lines)
        process = subprocess.Popen(
            [*program, "-u", "-m", "jobs", "tokenize", str(self.run.root), "0"],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "6",
                "MEDITRON_ATTEMPT": "1",
                "SLURMD_NODENAME": self.name,
            },
        )
        self.processes.append(process)
        wait_until(lambda: rank in self.beats())
        if SLEEPS[-1] in lines:
            asleep = self.run.path(f"asleep-{rank}")
            wait_until(lambda: asleep.exists() and self.state(rank) == "S")
        return process

    def state(self, rank: int) -> str:
        return stack_dump.state_of(self.beats()[rank])

    def beats(self) -> dict[int, heartbeat.Heartbeat]:
        return heartbeat.find(self.run, "tokenize", 0, 1, self.name)

    def stack_dump(self) -> list[stack_dump.RankReport]:
        """Have the node examine its ranks as the supervisor would; what it left, by rank."""
        command = stack_dump.command(self.run, "tokenize", 0, 1)
        subprocess.run(command, env={**os.environ, "SLURMD_NODENAME": self.name}, check=True)
        return stack_dump.read(self.run, "tokenize", 0, 1)

    def stacks(self, rank: int) -> str:
        return (self.run.attempt("tokenize", 1) / f"stacks-00000-{rank:05d}.txt").read_text()


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[Callable[[int], Node]]:
    """Make the one node, of so many ranks."""
    made = []

    def make(ranks: int) -> Node:
        run = rundir.RunDir(tmp_path)
        spec = TokenizeSpec((), (), 0, 1, 1, tokenizer_ref(""), "", 1, False)
        task = task_spec("tokenize", spec, ranks=2 * ranks, ranks_per_node=ranks, nodes=2)
        write_json(run.spec("tokenize", 0), specs.to_json(task))
        made.append(Node(run))
        return made[0]

    yield make
    for process in made[0].processes:
        process.kill()
        process.wait()


def test_a_rank_that_sleeps_without_a_record_shows_where(make_node) -> None:
    node = make_node(1)
    sleeper = node.start(*SLEEPS, answers=False)

    (report,) = node.stack_dump()

    assert (report.rank, report.node, report.pid) == (0, "gpu01", sleeper.pid)
    assert (report.state, report.phase, report.step) == ("S", "startup", 0)
    assert hang_attribution.doing(report).startswith("in sleep_for_ever (rank-")
    assert "in sleep_for_ever" in node.stacks(0)
    assert sleeper.poll() is None


def test_a_working_rank_continues_after_a_stack_request(make_node) -> None:
    node = make_node(1)
    worker = node.start("while not context.path('enough').exists(): context.heart.beat()")

    (report,) = node.stack_dump()

    assert report.stack.count("most recent call first") == 1
    wait_until(lambda: node.beats()[0].ticks > report.ticks)
    (node.run.root / "enough").touch()
    assert worker.wait(PATIENCE) == 0


def test_a_stopped_rank_is_named_and_its_peers_show_stacks(make_node) -> None:
    node = make_node(2)
    node.start(*SLEEPS)
    stopped = node.start(*SLEEPS)
    stopped.send_signal(signal.SIGSTOP)
    wait_until(lambda: node.state(1) == "T")

    reports = node.stack_dump()

    assert hang_attribution.first_stalled(reports) == (1, "gpu01", "stopped by a signal (state T)")
    assert "in sleep_for_ever" in node.stacks(0)
    assert "stopped by a signal (state T)" in node.stacks(1)
    assert "No stacks: " in node.stacks(1)


def test_a_dead_rank_is_named_though_others_are_behind(make_node) -> None:
    node = make_node(3)
    node.start(*SLEEPS)
    killed = node.start("context.heart.beat()", *SLEEPS)
    node.start(*SLEEPS)
    killed.kill()
    killed.wait()

    reports = node.stack_dump()

    assert [report.rank for report in reports] == [0, 1, 2]
    assert hang_attribution.first_stalled(reports) == (1, "gpu01", "not there")
    assert node.stacks(1) == "rank 1 on gpu01: no process\n"


def test_a_process_that_has_the_pid_of_a_rank_gets_no_signal(make_node) -> None:
    node = make_node(1)
    node.start(*SLEEPS)
    beat = node.beats()[0]

    assert stack_dump.request_stack(beat)
    assert not stack_dump.request_stack(replace(beat, started=beat.started - 1))
    assert stack_dump.state_of(replace(beat, started=beat.started - 1)) == ""


def test_every_node_writes_a_report_of_its_own(make_node) -> None:
    node = make_node(1)
    node.start(*SLEEPS)
    node.name = "gpu02"
    node.start(*SLEEPS)
    on_second = node.stack_dump()
    node.name = "gpu01"

    reports = node.stack_dump()

    assert [(report.rank, report.node) for report in on_second] == [(1, "gpu02")]
    assert [(report.rank, report.node) for report in reports] == [(0, "gpu01"), (1, "gpu02")]


def test_a_node_without_ranks_reports_none(make_node) -> None:
    node = make_node(1)
    assert node.stack_dump() == []
    names = [path.name for path in node.run.attempt("tokenize", 1).iterdir()]
    assert names == ["stack-dump-00000-gpu01.json"]
