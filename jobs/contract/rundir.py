"""The run directory: file names, whole-file JSON, append-only events, done markers. Standard
library only.

Layout (``RUN`` is the run's folder)::

    RUN/run.json  plan.json  events.jsonl  STOP  SAVE  RESUME  lock
    RUN/code/                                  the packages as first submitted
    RUN/code.json                              path, size and SHA-256 of each file in code/
    RUN/stages/<stage>/spec/<task>.json        jobs.contract.specs.TaskSpec
    RUN/stages/<stage>/done/<task>.json        written last, with digests of spec and outputs
    RUN/stages/<stage>/attempts/<n>/           logs, claim-<task>,
                                               health-<task>-<node>.json,
                                               rank-exit-<task>-<rank>.json; after a hang
                                               stack-dump-<task>-<node>.json and stacks
    RUN/stages/<stage>/progress/<task>.json    how far a running task is, overwritten
    RUN/corpus  tokens  checkpoints  tensorboard  evaluations  report

``<task>`` is the task's index, five digits, so that names sort.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDir:
    """Names inside one run directory."""

    root: Path

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.root.name

    @property
    def record(self) -> Path:
        """What was asked, by whom, with which programs; written once."""
        return self.root / "run.json"

    @property
    def plan(self) -> Path:
        """Stages, tasks and resources of all submissions so far."""
        return self.root / "plan.json"

    @property
    def events(self) -> Path:
        """What happened, a JSON object a line, appended."""
        return self.root / "events.jsonl"

    @property
    def code(self) -> Path:
        """The packages as first submitted; what the jobs execute."""
        return self.root / "code"

    @property
    def code_record(self) -> Path:
        """Path, size and SHA-256 of each file of the code, written once."""
        return self.root / "code.json"

    @property
    def lock(self) -> Path:
        """Held by the command that changes the run."""
        return self.root / "lock"

    @property
    def stop_file(self) -> Path:
        """Its presence asks running stages to save and leave."""
        return self.root / "STOP"

    @property
    def save_file(self) -> Path:
        """Its presence asks training for one checkpoint."""
        return self.root / "SAVE"

    @property
    def resume_file(self) -> Path:
        """Touched by a person's resume; a change ends the delay before a task's next attempt."""
        return self.root / "RESUME"

    def stage(self, stage: str) -> Path:
        """The folder of a stage's specs, markers and attempts."""
        return self.root / f"stages/{stage}"

    def spec(self, stage: str, index: int) -> Path:
        """What a task is given (``jobs.contract.specs.TaskSpec``)."""
        return self.root / f"stages/{stage}/spec/{index:05d}.json"

    def done(self, stage: str, index: int) -> Path:
        """A task's marker, written last."""
        return self.root / f"stages/{stage}/done/{index:05d}.json"

    def progress(self, stage: str, index: int) -> Path:
        """How far a running task is, overwritten."""
        return self.root / f"stages/{stage}/progress/{index:05d}.json"

    def attempt(self, stage: str, number: int) -> Path:
        """Logs, health reports and rank exits of one attempt, counted from 1."""
        return self.root / f"stages/{stage}/attempts/{number}"

    def metrics(self) -> Path:
        """One JSON line a training step and a validation; a step done again stands again, the
        later line counts.
        """
        return self.stage("pretrain") / "metrics.jsonl"

    def path(self, name: str) -> Path:
        """A path as specs write it: relative to the run directory, or absolute."""
        return self.root / name

    def attempts(self, stage: str) -> list[int]:
        """Numbers of the attempts so far, ascending; attempts count from 1."""
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
