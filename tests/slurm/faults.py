"""Trainings on the test Slurm that are held at a step, hit by a fault, and checked at their end.

All trials train the same model on the same tokens with the same seed to the same target on the
same layout, two ranks on two nodes, and differ only in their name. One of them is undisturbed: its
losses are the truth, which every other one must equal bit for bit at every step. Ranks are held
before a step, or hit at one, by ``fault_hooks/sitecustomize.py``.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.contract.events import read_events
from jobs.contract.metrics_log import MetricsLog, StepLine, counted_steps
from jobs.contract.rundir import RunDir
from jobs.runtime import heartbeat

from .cluster import PATIENCE, Cluster
from .desk import Desk, make_desk, rank_processes, saved_steps, wait

TARGET = 40
BATCH = 8
EVERY = 5
"""Steps between checkpoints."""

SETTINGS = (
    f"pretrain.train_steps={TARGET}",
    f"pretrain.global_batch_size={BATCH}",
    f"pretrain.save_interval={EVERY}",
    "pretrain.validation_interval=0",
    # Only further steps commit an asynchronous save, which ranks that a trial holds do not take:
    # what a fault then costs would be left to chance. A stop commits it: trials of stops set it.
    "pretrain.async_save=false",
    "supervision.retry_delay_seconds=0",
)
LAYOUT = (("    gpus: 2 ", "    gpus: 1 "), ("    tensor: 2\n", "    tensor: 1\n"))
NEVER = 1_000_000
"""A step that no trial reaches."""

ROWS = pytest.StashKey[list[Callable[[], "Row"]]]()
"""Measurements of the fault tests, for the table at the session's end."""
MADE = pytest.StashKey["Laboratory"]()

Record = dict[str, Any]
Truth = dict[int, tuple[float, str]]
"""Loss and fingerprint of the samples that were read, by step."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a fault and its outcome."""

    fault: str
    injected: str
    """The root cause that the fault has."""
    cause: str
    """As the attempt's exit record names it."""
    blamed: str
    """The node at fault, which the next job has to exclude; empty where none is."""
    excluded: str
    """The nodes that the next job excludes."""
    outcome: str
    detect_s: float | None
    """From the fault to the exit record."""
    resume_s: float | None
    """From the exit record to the first step of the next attempt."""
    redone: int | None
    """Steps trained once more."""


@dataclass
class Laboratory:
    """The desk, the tokens that all trials share, and the measurements."""

    desk: Desk
    tokens: Path
    rows: list[Callable[[], Row]]
    trials: list[Trial] = field(default_factory=list)
    """Those of the module that runs."""

    @property
    def slurm(self) -> Cluster:
        return self.desk.slurm

    def begin(
        self,
        name: str,
        *overrides: str,
        hold: int = NEVER,
        deaf: bool = False,
        hooks: str = "",
        cluster: str = "faulty",
        stage: str = "pretrain",
        runs: Path | None = None,
    ) -> Trial:
        """Submit a trial whose ranks wait before the step after ``hold``."""
        folder = self.desk.folder / "fault_hooks" / name
        folder.mkdir(parents=True)
        (folder / "hooks.py").write_text(hooks)
        trial = Trial(self, name, folder, runs or self.desk.runs)
        trial.hold(hold, deaf)
        trial.submit(*overrides, cluster=cluster, stage=stage)
        self.trials.append(trial)
        return trial

    def cancel(self) -> None:
        """End what remains of the trials."""
        for trial in self.trials:
            trial.cancel()
        self.trials.clear()

    def profile(self, name: str, *changes: tuple[str, str]) -> None:
        """Write a profile for trials: one rank per node, on two nodes, with the hooks."""
        variables = (
            f"  set:\n    PYTHONPATH: {Path(__file__).parent / 'fault_hooks'}\n"
            f"    FAULT_HOOKS: {self.desk.folder / 'fault_hooks'}\n"
        )
        self.desk.profile(name, *LAYOUT, ("  set:\n", variables), *changes)

    def record(
        self, fault: str, attempt: Attempt, since: float | None, injected: str, blamed: str = ""
    ) -> None:
        """Keep a line for the table; the next attempt is looked up when the table is printed.

        Args:
            fault: its description.
            attempt: that it ended.
            since: when it was injected; None where that is not known.
            injected: its root cause.
            blamed: the node at fault, if any.
        """
        detect = round(attempt.exit["ended"] - since, 1) if since else None
        self.rows.append(
            lambda: Row(
                fault,
                injected,
                attempt.cause,
                blamed,
                " ".join(attempt.exit["exclude"]),
                attempt.exit["action"],
                detect,
                attempt.resume_seconds,
                attempt.redone,
            )
        )

    def record_stage(self, fault: str, end: Record, since: float, injected: str) -> None:
        """Keep a line for the table about a stage without steps."""
        detect = round(end["ended"] - since, 1)
        cause, action = end["cause"], end["action"]
        excluded = " ".join(end["exclude"])
        self.rows.append(
            lambda: Row(fault, injected, cause, "", excluded, action, detect, None, None)
        )


@dataclass
class Trial:
    """One training and the ways to hold, hit and observe it."""

    laboratory: Laboratory
    name: str
    folder: Path
    runs: Path
    run: RunDir = field(init=False)

    def submit(self, *overrides: str, cluster: str = "faulty", stage: str = "pretrain") -> None:
        """Submit the training, for the first time or again."""
        tokens = self.laboratory.tokens
        answer = self.laboratory.desk.submit(
            stage,
            f"name={self.name}",
            f"pretrain.data=[{tokens}/train/00000, {tokens}/train/00001]",
            f"pretrain.validation_data=[{tokens}/validation/00000]",
            *SETTINGS,
            *overrides,
            cluster=cluster,
            MEDITRON_RUNS=str(self.runs),
        )
        self.run = answer.run

    def status(self) -> Record:
        """Return the run as `meditron status --json` reports it."""
        words = ("status", self.run.name, "--json")
        (found,) = self.laboratory.desk(*words, MEDITRON_RUNS=str(self.runs)).json["runs"]
        return dict(found)

    def hold(self, step: int = NEVER, deaf: bool = False) -> None:
        """Let the ranks train up to a step, and wait there and before each that follows.

        Deaf ones ignore a request to stop, as in a step that takes longer than the grace period.
        """
        part = self.folder / "hold.part"
        part.write_text(f"{step}{' deaf' if deaf else ''}")
        part.replace(self.folder / "hold")

    def wait_save(self, step: int) -> None:
        """Wait until the checkpoint of a step is complete."""
        self.wait_for(
            lambda: step in saved_steps(self.run), f"checkpoint {step} of {self.run.name}"
        )

    def trained(self) -> list[StepLine]:
        """Return the metric lines of all training steps, repeated ones too."""
        lines = MetricsLog(self.run, "pretrain").read_new()
        return [line for line in lines if isinstance(line, StepLine)]

    def reach(self, step: int, after: int = 0) -> int:
        """Let the ranks of an attempt later than ``after`` train up to a step, and hold them there.

        Returns:
            The attempt's number.
        """
        self.hold(step)
        self.wait_for(
            lambda: any(
                line.step == step and line.attempt == self.current > after
                for line in self.trained()
            ),
            f"step {step} of an attempt after {after}",
        )
        return self.current

    def wait_exit(self, attempt: int) -> Attempt:
        """Wait for the exit event of an attempt, and return the attempt."""
        self.wait_for(lambda: attempt in self.exits(), f"the end of attempt {attempt}")
        return self.attempt(attempt)

    def wait_end(self) -> None:
        """Wait until no job of the run is pending or running."""
        self.wait_for(lambda: not self.jobs(), f"the end of all jobs of {self.run.name}")

    def wait_for(
        self, happened: Callable[[], object], what: str, seconds: float = PATIENCE
    ) -> None:
        """Wait for a condition; the error of a timeout has the run's events."""
        try:
            wait(happened, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe()}") from None

    def cancel(self) -> None:
        """Cancel the run's jobs after a failed test, so that they hinder no other."""
        if left := self.jobs():
            self.laboratory.slurm.run("scancel", *left)
            wait(lambda: not self.jobs(), f"the end of {self.run.name}")

    def jobs(self) -> list[str]:
        """Return the ids of the run's pending and running jobs."""
        text = self.laboratory.slurm.run("squeue", "-h", "-r", "-o", "%i %j")
        lines = (line.split(maxsplit=1) for line in text.splitlines())
        return [job for job, name in lines if name.startswith(f"{self.run.name}.")]

    def reasons(self) -> str:
        """Return the reasons for which jobs of the run are pending."""
        return self.laboratory.slurm.run(
            "squeue", "-h", "-r", "-o", "%r", "-j", ",".join(self.jobs())
        )

    def job(self) -> str:
        """Return the id of the run's running training."""
        text = self.laboratory.slurm.run("squeue", "-h", "-t", "R", "-o", "%i %j")
        lines = (line.split(maxsplit=1) for line in text.splitlines())
        (found,) = (job for job, name in lines if name == f"{self.run.name}.pretrain")
        return found

    def nodes(self) -> list[str]:
        """Return the running job's nodes, the head node first."""
        hosts = self.laboratory.slurm.run("squeue", "-h", "-o", "%N", "-j", self.job()).strip()
        return self.laboratory.slurm.run("scontrol", "show", "hostnames", hosts).split()

    def supervisor(self) -> int:
        """Return the process id of the batch step."""
        attempts = str(self.run.stage("pretrain") / "attempts").encode()
        words = {pid: words for pid, words in command_lines() if b"submitit.core._submit" in words}
        (found,) = (pid for pid, line in words.items() if line[-2].startswith(attempts))
        return found

    def rank(self, number: int) -> int:
        """Return the process id of a rank, once it runs."""
        self.wait_for(lambda: number in rank_processes(self.run), f"rank {number}")
        return rank_processes(self.run)[number]

    def events(self, kind: str) -> list[Record]:
        return [
            event
            for event in read_events(self.run)
            if event["event"] == kind and event.get("stage", "pretrain") == "pretrain"
        ]

    @property
    def current(self) -> int:
        """Return the number of the attempt that was started last."""
        return max(event["attempt"] for event in self.events("start"))

    def exits(self) -> dict[int, Record]:
        """Return the exit events by attempt."""
        return {event["attempt"]: event for event in self.events("exit")}

    def attempt(self, number: int) -> Attempt:
        return Attempt(self, number, self.exits()[number])

    def describe(self) -> str:
        """Return the run's events and the queue, for the error of a failed test."""
        kept = ("event", "attempt", "job_ids", "cause", "action", "reason", "message", "node", "by")
        events = [
            " ".join(f"{key}={event[key]}" for key in kept if event.get(key) not in (None, ""))
            for event in read_events(self.run)
        ]
        queue = self.laboratory.slurm.run("squeue", "-o", "%i %j %T %r %N", check=False)
        return "\n".join([f"{self.run.root}:", *events, queue])


@dataclass(frozen=True)
class Attempt:
    """An attempt of a trial that has ended."""

    trial: Trial
    number: int
    exit: Record

    @property
    def cause(self) -> str:
        return str(self.exit["cause"])

    @property
    def node(self) -> str:
        return str(self.exit["node"])

    @property
    def trained(self) -> list[StepLine]:
        """Metric lines of the attempt's steps."""
        return [line for line in self.trial.trained() if line.attempt == self.number]

    @property
    def follower(self) -> list[StepLine]:
        """Metric lines of the next attempt that trained a step."""
        lines = self.trial.trained()
        later = [line.attempt for line in lines if line.attempt > self.number]
        return [line for line in lines if later and line.attempt == min(later)]

    @property
    def resume_seconds(self) -> float | None:
        follower = self.follower
        return round(follower[0].time - self.exit["ended"], 1) if follower else None

    @property
    def redone(self) -> int | None:
        """Steps that the next attempt repeated; None until it has trained one."""
        known = (line for line in self.trial.trained() if line.attempt <= self.number)
        last = max((line.step for line in known), default=0)
        follower = self.follower
        return last - follower[0].step + 1 if follower else None


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Yield the process ids of this machine with their command lines."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            yield int(folder.name), (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> float:
    """Send a signal, and return the time of day at which it was sent."""
    now = time.time()
    os.kill(pid, number)
    return now


def truth_of(trial: Trial, target: int = TARGET) -> Truth:
    """Return loss and samples by step of an undisturbed training; its samples never repeat."""
    truth = done_by(trial)
    samples = [samples for _, samples in truth.values()]
    assert list(truth) == list(range(1, target + 1))
    assert len(set(samples)) == target, samples
    return truth


def done_by(trial: Trial) -> Truth:
    """Return loss and samples of the steps that count, in their order."""
    trained = counted_steps(MetricsLog(trial.run, "pretrain").read_new()).trained
    return {line.step: (line.loss, line.samples) for line in trained}


def check_reached(trial: Trial, truth: Truth) -> None:
    """Check that a trial reached its target with the losses of the truth and left nothing."""
    trial.wait_end()
    assert trial.run.done("pretrain", 0).exists(), trial.describe()
    found = trial.status()
    assert found["state"] == "succeeded"
    check_losses(trial, truth, len(truth))
    check_ledger(trial)
    check_time(found["time"]["training"])


def check_stopped(trial: Trial, truth: Truth, cause: str) -> Record:
    """Check that a trial stopped for a cause, equal to the truth so far; return the exit event."""
    trial.wait_end()
    last = max(trial.exits().values(), key=lambda event: int(event["attempt"]))
    assert (last["cause"], last["action"]) == (cause, "stop"), trial.describe()
    assert last["reason"]
    check_losses(trial, truth, len(done_by(trial)))
    check_ledger(trial)
    return last


def check_losses(trial: Trial, truth: Truth, target: int) -> None:
    """Check that every step counts once, in order, with samples and loss of the truth."""
    found = done_by(trial)
    assert list(found) == list(range(1, target + 1))
    assert found == {step: truth[step] for step in range(1, target + 1)}


def check_time(training: Record) -> None:
    """Check that the buckets of time sum to the wall-clock."""
    buckets = {key: value for key, value in training.items() if key.endswith("_s")}
    wall = buckets.pop("wall_s")
    assert sum(buckets.values()) == pytest.approx(wall)
    assert min(buckets.values()) >= 0


def check_ledger(trial: Trial) -> None:
    """Check that each start has one exit event, and that no process or heartbeat is left."""
    starts = Counter(event["attempt"] for event in trial.events("start"))
    exits = Counter(event["attempt"] for event in trial.events("exit"))
    assert starts == exits == Counter(dict.fromkeys(starts, 1)), trial.describe()
    wait(lambda: not rank_processes(trial.run), "the end of the last rank")
    assert left_in_memory(trial) == []


def left_in_memory(trial: Trial) -> list[Path]:
    """Return the heartbeat files of the run that remain in memory."""
    name, _, _ = heartbeat.label(trial.run, "", 0, 1, "").partition("--")
    return list(Path("/dev/shm").glob(f"{name}-*"))


def gpu_partition(name: str) -> tuple[str, str]:
    """Return the change that keeps a profile's trainings on the nodes of ``left`` or ``right``."""
    return ("  name: low\n  nodes: 4\n", f"  name: {name}\n  nodes: 2\n")


def make_laboratory(folder: Path, slurm: Cluster, rows: list[Callable[[], Row]]) -> Laboratory:
    """Return a desk whose documents are tokenized."""
    desk = make_desk(folder, slurm)
    made: dict[str, list[str]] = {}
    for stage in ("curate", "tokenize"):
        answer = desk.submit(stage)
        desk.wait_end(*answer.jobs[stage])
        made |= answer.jobs
    found = Laboratory(desk, answer.run.path("tokens"), rows)
    found.profile("faulty")
    return found


def table(rows: list[Row]) -> list[str]:
    """Return rows as lines of text, for the end of a session."""
    shown = ("fault", "cause", "outcome", "detect_s", "resume_s", "redone")
    return aligned([list(shown), *([_cell(getattr(row, name)) for name in shown] for row in rows)])


def confusion(rows: list[Row]) -> list[str]:
    """Return how often each injected cause was reported as which, as lines of text."""
    counts = Counter((row.injected, row.cause) for row in rows)
    injected = sorted({row.injected for row in rows})
    reported = sorted({row.cause for row in rows})
    cells = [["injected \\ reported", *reported]]
    cells += [[one, *(str(counts[one, other] or ".") for other in reported)] for one in injected]
    return aligned(cells)


def accuracy(rows: list[Row]) -> dict[str, float]:
    """Return the share of faults whose root cause is right, and that of nodes that were excluded
    and at fault, among those that were either. A node that is down need not be excluded where Slurm
    itself requeues the job.
    """
    causes = sum(row.cause == row.injected for row in rows)
    excluded = [(node, row.blamed) for row in rows for node in row.excluded.split()]
    kept = [row for row in rows if row.blamed and row.blamed not in row.excluded.split()]
    missed = sum(row.injected != "node_fail" for row in kept)
    right = sum(node == blamed for node, blamed in excluded)
    return {
        "diagnosis_accuracy": causes / len(rows),
        "exclusion_accuracy": right / (len(excluded) + missed) if excluded or missed else 1.0,
    }


def aligned(cells: list[list[str]]) -> list[str]:
    """Return rows of cells as lines, columns padded to their widest cell."""
    widths = [max(len(line[number]) for line in cells) for number in range(len(cells[0]))]
    return [
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]


def _cell(value: object) -> str:
    return "-" if value is None else str(value)
