"""The paths inside a run directory. Standard library only.

Layout (``RUN`` is the run's folder; docs/run-directory.md describes every file)::

    RUN/run.json  plan.json  events.jsonl  STOP  SAVE  PROFILE  RESUME  lock
    RUN/notify.json  notify-state.json  notify.lock
    RUN/code/                                  the packages as first submitted
    RUN/code.json                              path, size and SHA-256 of each file in code/
    RUN/stages/<stage>/spec/<task>.json        jobs.contract.specs.TaskSpec
    RUN/stages/<stage>/done/<task>.json        written last, with digests of spec and outputs
    RUN/stages/<stage>/attempts/<n>/           logs, claim-<task>,
                                               health-<task>-<node>.json,
                                               rank-exit-<task>-<rank>.json; after a hang
                                               stack-dump-<task>-<node>.json and stacks
    RUN/stages/<stage>/progress/<task>.json    progress of a running task, overwritten
    RUN/stages/<stage>/health.json             newest readings of a training's nodes, overwritten
    RUN/stages/<stage>/spikes/                 evidence of each spike of a training
    RUN/stages/<stage>/locks/<task>            locked while an attempt of the task runs
    RUN/corpus  tokens  checkpoints  tensorboard  profiles  evaluations

``<task>`` is the task's index, five digits, so that names sort.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

COMMAND = re.compile(r"\{meditron ([^}]+)\}")
"""A command in a hint whose author does not know the run (``jobs.contract.errors.RESUME``)."""


@dataclass(frozen=True)
class RunDir:
    """The paths of one run directory."""

    root: Path

    @property
    def name(self) -> str:
        """Return the run's name: that of its folder."""
        return self.root.name

    @property
    def record(self) -> Path:
        """Return the file of the first request, its user and program versions; written once."""
        return self.root / "run.json"

    @property
    def plan(self) -> Path:
        """Return the file of the stages, tasks and resources of all submissions."""
        return self.root / "plan.json"

    @property
    def events(self) -> Path:
        """Return the event log: one JSON object per line, appended."""
        return self.root / "events.jsonl"

    @property
    def code(self) -> Path:
        """Return the folder of the packages as first submitted, which the jobs execute."""
        return self.root / "code"

    @property
    def code_record(self) -> Path:
        """Return the file with path, size and SHA-256 of each file of the code, written once."""
        return self.root / "code.json"

    @property
    def lock(self) -> Path:
        """Return the lock that a command holds while it changes the run."""
        return self.root / "lock"

    @property
    def stop_file(self) -> Path:
        """Return the file whose presence requests that running stages save and exit."""
        return self.root / "STOP"

    @property
    def save_file(self) -> Path:
        """Return the file whose presence requests one checkpoint from training."""
        return self.root / "SAVE"

    @property
    def profile_file(self) -> Path:
        """Return the file that requests a profile (``jobs.runtime.profile_record``)."""
        return self.root / "PROFILE"

    def profile(self, name: str) -> Path:
        """Return the folder of a profile's traces and records."""
        return self.root / f"profiles/{name}"

    def profile_record(self, name: str, rank: int) -> Path:
        """Return the path of one rank's record of a profile."""
        return self.root / f"profiles/{name}/rank-{rank:05d}.json"

    def is_stop_requested(self) -> bool:
        """Return whether the file STOP exists; False where the file system does not answer
        (EACCES, EIO, ESTALE), for which ``Path.exists`` raises.
        """
        return os.path.exists(self.stop_file)

    def is_save_requested(self) -> bool:
        """Return whether the file SAVE exists, in the same way."""
        return os.path.exists(self.save_file)

    @property
    def notify(self) -> Path:
        """Return the file of the run's notifications (``jobs.contract.notification``)."""
        return self.root / "notify.json"

    @property
    def notify_state(self) -> Path:
        """Return the file with what was sent, and what is still to be sent."""
        return self.root / "notify-state.json"

    @property
    def notify_lock(self) -> Path:
        """Return the lock of the process that sends notifications."""
        return self.root / "notify.lock"

    @property
    def resume_file(self) -> Path:
        """Return the file that a person's resume touches, which ends the backoff of a task."""
        return self.root / "RESUME"

    def command(self, *words: str) -> str:
        """Return a `meditron` command about this run, quoted for a shell, that works in any folder.

        Args:
            words: the command and its options; the run's name follows them.
        """
        root = self.root.absolute().parent
        return shlex.join(["meditron", *words, self.name, "--runs-dir", str(root)])

    def hint(self, text: str) -> str:
        """Return a hint with its commands, such as ``{meditron resume}``, about this run."""
        return COMMAND.sub(lambda match: f"`{self.command(*match[1].split())}`", text)

    def stage(self, stage: str) -> Path:
        """Return the folder of a stage's specs, markers and attempts."""
        return self.root / f"stages/{stage}"

    def spec(self, stage: str, index: int) -> Path:
        """Return the path of a task's spec (``jobs.contract.specs.TaskSpec``)."""
        return self.root / f"stages/{stage}/spec/{index:05d}.json"

    def done(self, stage: str, index: int) -> Path:
        """Return the path of a task's done marker, written last."""
        return self.root / f"stages/{stage}/done/{index:05d}.json"

    def done_folder(self, stage: str) -> Path:
        """Return the folder of a stage's done markers."""
        return self.root / f"stages/{stage}/done"

    def progress(self, stage: str, index: int) -> Path:
        """Return the path of a running task's progress, overwritten."""
        return self.root / f"stages/{stage}/progress/{index:05d}.json"

    def attempt(self, stage: str, number: int) -> Path:
        """Return the folder of an attempt, counted from 1: logs, health reports, rank exits."""
        return self.root / f"stages/{stage}/attempts/{number}"

    def metrics(self, stage: str, index: int = 0) -> Path:
        """Return the path of a training's metrics (``jobs.contract.metrics_log``)."""
        return self.root / f"stages/{stage}/metrics{_suffix(index)}.jsonl"

    def sync_lock(self, stage: str, tracker: str, index: int = 0) -> Path:
        """Return the lock of the replay of a training's metrics into a tracker."""
        return self.root / f"stages/{stage}/sync-{tracker}{_suffix(index)}.lock"

    def health(self, stage: str, index: int = 0) -> Path:
        """Return the path of the newest readings of a training's nodes, overwritten."""
        return self.root / f"stages/{stage}/health{_suffix(index)}.json"

    def spikes(self, stage: str, index: int = 0) -> Path:
        """Return the folder of what is known of a training's spikes, one file per step."""
        return self.root / f"stages/{stage}/spikes{_suffix(index)}"

    def path(self, name: str) -> Path:
        """Resolve a path of a spec, relative to the run directory or absolute."""
        return self.root / name

    def name_of(self, path: Path) -> str:
        """Return the name by which ``path`` finds a file: relative if it lies in the run."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def attempts(self, stage: str) -> list[int]:
        """Return the numbers of the attempts so far, ascending; attempts count from 1."""
        folder = self.stage(stage) / "attempts"
        if not folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())

    def new_attempt(self, stage: str) -> int:
        """Create the directory of a new attempt and return its number.

        Two processes never get the same number.
        """
        while True:
            number = max(self.attempts(stage), default=0) + 1
            try:
                self.attempt(stage, number).mkdir(parents=True)
            except FileExistsError:
                continue
            return number


def _suffix(index: int) -> str:
    """Return the end of the name of a file of which each training of a stage has one."""
    return f"-{index:05d}" if index else ""
