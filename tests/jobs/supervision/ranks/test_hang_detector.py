"""Detection of hangs, and of the rank that stopped first."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.contract import rundir, specs
from jobs.contract.metrics_log import MetricsSummary
from jobs.contract.outcomes import Hang
from jobs.contract.stage_specs import TokenizeSpec
from jobs.runtime import heartbeat
from jobs.runtime.heartbeat import HeartbeatWriter, Phase
from jobs.supervision.ranks import hang_attribution, hang_detector
from jobs.supervision.ranks.hang_detector import HangDetector, LearnedDurations, limit
from jobs.supervision.ranks.stack_dump import RankReport

from .... import metric_lines
from ....model_specs import tokenizer_ref
from ....progress_files import write_progress
from ....ranks import wait_until
from ....task_specs import task_spec

SUPERVISION = specs.SupervisionSpec(startup_limit_seconds=600, step_limit_seconds=100)


def learned(steps: list[float], **longest: float) -> LearnedDurations:
    found = LearnedDurations(
        longest={Phase[name.upper()]: value for name, value in longest.items()}
    )
    found.steps.extend(steps)
    return found


@pytest.mark.parametrize(
    ("phase", "known", "expected"),
    [
        (Phase.STARTUP, learned([]), 600),
        (Phase.STARTUP, learned([1000.0] * 20), 600),
        (Phase.STEP, learned([]), 100),
        (Phase.STEP, learned([60.0] * 15), 100),
        (Phase.STEP, learned([60.0] * 16), 300),
        (Phase.STEP, learned([2.0] * 16), 100),
        (Phase.STEP, learned([30.0] * 199 + [900.0]), 150),
        (Phase.CHECKPOINT, learned([], checkpoint=100.0), 600),
        (Phase.CHECKPOINT, learned([], checkpoint=200.0), 1000),
        (Phase.CHECKPOINT, learned([], validation=900.0), 600),
        (Phase.VALIDATION, learned([], validation=300.0), 1500),
        (Phase.LEAVING, learned([]), 600),
    ],
)
def test_the_limit_of_a_phase_is_the_setting_or_learned(
    phase: Phase, known: LearnedDurations, expected: float
) -> None:
    assert limit(phase, known, SUPERVISION) == expected


def test_earlier_attempts_teach_how_long_things_take() -> None:
    metrics = MetricsSummary()
    metrics.add(
        [
            metric_lines.step(1, seconds=2.5),
            metric_lines.save(1, seconds=40.0),
            metric_lines.validation(1, seconds=70.0),
            metric_lines.save(2, seconds=30.0),
        ]
    )

    found = hang_detector.learn(metrics)

    assert list(found.steps) == [2.5]
    assert found.longest == {Phase.CHECKPOINT: 40.0, Phase.VALIDATION: 70.0}


class Ranks:
    """A run whose ranks beat in this process, and the detector over them."""

    def __init__(self, root: Path) -> None:
        self.run = rundir.RunDir(root)
        self.now = 1000.0
        self.hearts: list[HeartbeatWriter] = []
        self.learned = LearnedDurations()
        """From earlier attempts."""

    def start(self, ranks: int = 1) -> HangDetector:
        name = heartbeat.label(self.run, "pretrain", 0, 1, os.uname().nodename)
        for rank in range(ranks):
            self.hearts.append(HeartbeatWriter())
            self.hearts[rank].open(name, rank, heartbeat.folders({}))
        return self.detector()

    def detector(self) -> HangDetector:
        return HangDetector(self.run, task(), 1, self.learned, {})

    def quiet(self, detector: HangDetector, seconds: float, every: float = 5.0) -> Hang | None:
        """Look for a while without a beat; the first hang."""
        end = self.now + seconds
        while self.now < end:
            self.now += every
            if hang := detector.check(self.now):
                return hang
        return None

    def beat(self, phase: Phase | None = None, step: int | None = None) -> None:
        for heart in self.hearts:
            heart.beat(phase, step)

    def tell(self, **fields: Any) -> None:
        """Write the progress file as rank 0 would."""
        write_progress(self.run, "pretrain", **{"time": self.now, **fields})


@pytest.fixture
def ranks(tmp_path: Path) -> Ranks:
    return Ranks(tmp_path)


def task() -> specs.TaskSpec:
    spec = TokenizeSpec((), (), 0, 1, 1, tokenizer_ref(""), "", 1, False)
    return task_spec("pretrain", spec, ranks=2, supervision=SUPERVISION)


def test_steps_that_advance_are_not_a_hang(ranks: Ranks) -> None:
    detector = ranks.start()
    for step in range(20):
        ranks.beat(Phase.STEP, step)
        assert ranks.quiet(detector, 90) is None


def test_a_step_that_does_not_end_is_a_hang(ranks: Ranks) -> None:
    detector = ranks.start(2)
    ranks.beat(Phase.STEP, 1)
    assert ranks.quiet(detector, 50) is None

    hang = ranks.quiet(detector, 100, every=1.0)

    assert hang is not None
    assert (hang.phase, hang.limit) == ("step", 100)
    assert 100 < hang.seconds <= 102


def test_one_rank_that_still_moves_is_enough(ranks: Ranks) -> None:
    detector = ranks.start(2)
    ranks.beat(Phase.STEP, 1)
    for _ in range(10):
        ranks.hearts[1].beat()
        assert ranks.quiet(detector, 60) is None


def test_a_clock_that_is_set_back_is_no_hang(ranks: Ranks) -> None:
    detector = ranks.start()
    ranks.beat(Phase.STEP, 1)
    ranks.quiet(detector, 50)

    ranks.now -= 3600
    hang = detector.check(ranks.now)

    assert hang is None
    assert ranks.quiet(detector, 40) is None
    assert ranks.quiet(detector, 30) is not None


def test_slow_steps_seen_in_this_attempt_lengthen_the_limit(ranks: Ranks) -> None:
    detector = ranks.start()
    for step in range(18):
        ranks.beat(Phase.STEP, step)
        assert ranks.quiet(detector, 60) is None

    assert ranks.quiet(detector, 230) is None
    hang = ranks.quiet(detector, 100)

    assert hang is not None
    assert hang.limit == 300


def test_startup_has_one_limit_however_often_it_beats(ranks: Ranks) -> None:
    detector = ranks.start()
    for _ in range(5):
        ranks.beat()
        assert ranks.quiet(detector, 115) is None
    ranks.beat()

    hang = ranks.quiet(detector, 115)

    assert hang is not None
    assert (hang.phase, hang.limit) == ("startup", 600)


def test_a_checkpoint_may_take_long_and_teaches_how_long(ranks: Ranks) -> None:
    detector = ranks.start()
    ranks.beat(Phase.STEP, 1)
    ranks.quiet(detector, 1)
    for _ in range(2):
        ranks.beat(Phase.CHECKPOINT)
        assert ranks.quiet(detector, 500) is None
        ranks.beat(Phase.STEP)
        assert ranks.quiet(detector, 10) is None
    ranks.beat(Phase.CHECKPOINT)
    assert ranks.quiet(detector, 2400) is None

    hang = ranks.quiet(detector, 200)

    assert hang is not None
    assert (hang.phase, hang.limit) == ("checkpoint", 2500)


def test_of_ranks_in_several_phases_the_most_patient_counts(ranks: Ranks) -> None:
    detector = ranks.start(2)
    ranks.beat(Phase.STEP, 1)
    ranks.hearts[0].beat(Phase.CHECKPOINT)

    assert ranks.quiet(detector, 500) is None


def test_time_without_a_check_does_not_count(ranks: Ranks) -> None:
    detector = ranks.start()
    ranks.beat(Phase.STEP, 1)
    detector.check(ranks.now)

    ranks.now += 100_000  # the job was suspended
    hang = detector.check(ranks.now)

    assert hang is None
    assert ranks.quiet(detector, 80) is None
    assert ranks.quiet(detector, 30) is not None


def test_ranks_that_are_gone_are_in_the_phase_leaving(ranks: Ranks) -> None:
    name = heartbeat.label(ranks.run, "pretrain", 0, 1, os.uname().nodename)
    program = (
        "import os, sys, time\n"
        "from jobs.runtime import heartbeat\n"
        "heart = heartbeat.HeartbeatWriter()\n"
        f"heart.open({name!r}, 0, heartbeat.folders(os.environ))\n"
        "heart.beat(heartbeat.Phase.STEP, 1)\n"
        "time.sleep(600)"
    )
    detector = ranks.detector()
    with subprocess.Popen([sys.executable, "-c", program]) as rank:
        wait_until(lambda: heartbeat.find(ranks.run, "pretrain", 0, 1, environ={}))
        assert ranks.quiet(detector, 5) is None
        rank.kill()

    assert ranks.quiet(detector, 500) is None
    hang = ranks.quiet(detector, 200)

    assert hang is not None
    assert hang.phase == "leaving"


def test_the_progress_file_does_where_there_are_no_beats(ranks: Ranks) -> None:
    detector = ranks.detector()
    for _ in range(10):
        ranks.tell(phase="step", step=5)
        assert ranks.quiet(detector, 90) is None

    hang = ranks.quiet(detector, 20)

    assert hang is not None
    assert (hang.phase, hang.limit) == ("step", 100)


def test_the_progress_of_another_attempt_is_none_of_ours(ranks: Ranks) -> None:
    detector = ranks.detector()
    ranks.tell(attempt=2, phase="step")

    assert ranks.quiet(detector, 590) is None
    hang = ranks.quiet(detector, 20)

    assert hang is not None
    assert hang.phase == "startup"


def test_a_progress_file_without_phases_is_work_until_all_is_done(ranks: Ranks) -> None:
    detector = ranks.detector()
    ranks.tell(done=9, total=9)

    assert ranks.quiet(detector, 500) is None
    hang = ranks.quiet(detector, 200)

    assert hang is not None
    assert hang.phase == "leaving"


def test_a_run_with_earlier_attempts_learns_its_limits_from_them(ranks: Ranks) -> None:
    ranks.learned = learned([50.0] * 20)
    detector = ranks.start()
    ranks.beat(Phase.STEP, 1)

    assert ranks.quiet(detector, 240) is None
    hang = ranks.quiet(detector, 20)

    assert hang is not None
    assert hang.limit == 250


ALL_REDUCE = """Thread 0x00007f27d8b3e6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/threading.py", line 995 in _bootstrap

Current thread 0x00007f281b75a740 (most recent call first):
  File "/opt/site-packages/torch/distributed/distributed_c10d.py", line 3082 in all_reduce
  File "/opt/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/runs/a/code/jobs/engine/trainer.py", line 208 in _reduce_batch
"""
BUSY = """Current thread 0x00007f281b75a740 (most recent call first):
  File "/runs/a/code/jobs/engine/dataset.py", line 91 in collate
  File "/runs/a/code/jobs/engine/trainer.py", line 195 in _forward
"""
INTERLEAVED = """Current thread 0x00007f281b75a740 (most recent call first):
  File "/opt/megatron/core/pipeline_parallel/schedules.py", line 1600 in pp_pre_forward
  File "/runs/a/code/jobs/engine/trainer.py", line 195 in _pass
"""
SAVING = """Current thread 0x00007f281b75a740 (most recent call first):
  File "/opt/site-packages/torch/distributed/checkpoint/filesystem.py", line 500 in write_data
  File "/opt/site-packages/torch/distributed/distributed_c10d.py", line 83 in barrier
"""


def report(rank: int, **values: Any) -> RankReport:
    known = RankReport(rank, f"gpu0{rank}", 100 + rank, "S", "", "step", 40, 90, 130.0, ALL_REDUCE)
    return replace(known, **values)


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        (
            [report(0), report(1, state="T", stack="", ticks=99)],
            (1, "gpu01", "stopped by a signal (state T)"),
        ),
        ([report(0, state="D"), report(1, state="")], (1, "gpu01", "not there")),
        (
            [report(0), report(1, state="D"), report(2, stack=BUSY)],
            (1, "gpu01", "in uninterruptible sleep, as for a disk or a device (state D)"),
        ),
        ([report(0, ticks=10), report(1, stack=BUSY)], (1, "gpu01", "in collate (dataset.py:91)")),
        (
            [report(0, stack=BUSY, ticks=91), report(1, stack=SAVING, ticks=90), report(2)],
            (1, "gpu01", "in write_data (filesystem.py:500)"),
        ),
        (
            [report(0, stack=BUSY, age=130.0), report(1, stack=BUSY, age=131.0)],
            (1, "gpu01", "in collate (dataset.py:91)"),
        ),
        (
            [report(0, stack=BUSY), report(1, stack=INTERLEAVED, ticks=89)],
            (0, "gpu00", "in collate (dataset.py:91)"),
        ),
        ([report(0), report(1, stack="")], (1, "gpu01", "in phase step")),
        (
            [report(0), report(1, ticks=89), report(2)],
            (1, "gpu01", "in all_reduce (distributed_c10d.py:3082)"),
        ),
        (
            [report(0), report(1)],
            (None, "", "all ranks wait for each other in all_reduce (distributed_c10d.py:3082)"),
        ),
        ([], (None, "", "no rank could be examined")),
    ],
    ids=[
        "stopped", "dead", "disk", "outside-a-collective", "saving-is-no-collective",
        "oldest-beat", "interleaved", "no-stack", "behind", "nobody", "nothing-known",
    ],
)  # fmt: skip
def test_the_rank_that_stopped_first_is_named(
    reports: list[RankReport], expected: tuple[int | None, str, str]
) -> None:
    assert hang_attribution.first_stalled(reports) == expected


def test_a_node_that_does_not_answer_comes_before_all_ranks() -> None:
    found = hang_attribution.first_stalled(
        [report(0), report(1, state="T")], ("gpu00", "gpu01", "gpu02")
    )

    assert found == (None, "gpu02", "none of its ranks was found")


def test_the_hang_gets_the_name() -> None:
    hang = hang_attribution.attribute(
        Hang("step", 130.0, 120.0), [report(0), report(1, state="T")], []
    )

    assert hang == Hang("step", 130.0, 120.0, 1, "gpu01", "stopped by a signal (state T)")
