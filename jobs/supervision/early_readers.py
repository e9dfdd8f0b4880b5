"""Evaluations and exports of checkpoints that training has saved: let them start before its end.

Their jobs depend on the training, since without it Slurm would start them too early. As soon as the
checkpoint of one is saved, the training's supervisor drops that dependency, from a thread of its
own: training waits for nothing here and fails from nothing. Where it cannot, the task starts when
training has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.contract.attempt_history import HistoryReader
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import READING_STAGES, TrainingSpec, early_step
from jobs.runtime.log import log
from jobs.slurm.client import Client
from jobs.slurm.queries import is_of_run
from jobs.slurm.states import WAITS_FOR_JOBS

POLL_SECONDS = 5.0
"""Between two looks at the checkpoints and the event log."""
RETRY_SECONDS = 60.0
"""After one that Slurm did not answer."""


@contextmanager
def released_meanwhile(task: specs.TaskSpec, run: RunDir, client: Client | None) -> Iterator[None]:
    """Release readers of saved checkpoints while a training runs, where jobs may change jobs."""
    training = task.training
    if training is None or client is None or not task.site.submit_from_jobs:
        yield
        return
    readers, over = EarlyReaders(run, training, client), threading.Event()
    thread = threading.Thread(target=readers.watch, args=(over,), name="readers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()  # not joined: Slurm may not answer


class EarlyReaders:
    """The tasks of a run that wait for one checkpoint of its training each."""

    def __init__(self, run: RunDir, training: TrainingSpec, client: Client) -> None:
        self._run = run
        self._folder = run.path(training.checkpoint_dir)
        self._client = client
        self._reader = HistoryReader(run)
        self._seen: object = None
        self._released: set[str] = set()

    def watch(self, over: threading.Event) -> None:
        """Release what can start, until training is over, and once more then."""
        problem = ""
        while True:
            last, answered = over.is_set(), False
            try:
                answered = self.poll()
            except Exception as error:  # nothing about a reader may end the training
                if str(error) != problem:
                    problem = str(error)
                    log(f"evaluations and exports wait for the end of training: {problem}")
            if last:
                return
            over.wait(POLL_SECONDS if answered else RETRY_SECONDS)

    def poll(self) -> bool:
        """Release tasks if a checkpoint or an event was added since the last call that succeeded;
        return whether this one did.

        Raises:
            OSError: the storage does not answer.
        """
        saved = manifest.saved_steps(self._folder)
        seen = (saved, self._logged_bytes())
        if seen == self._seen:
            return True
        jobs = dict(self.waiting(saved))
        queue = self._client.queue() if jobs else {}
        if queue is None:
            return False
        for job, step in jobs.items():
            row = queue.get(job)
            if row is None or row.reason not in WAITS_FOR_JOBS or job in self._released:
                continue
            if not is_of_run(row, self._run.name):
                continue
            if not self._client.set_dependency(job, ""):
                return False
            self._released.add(job)
            log(f"job {job} may start: the checkpoint of step {step} is saved")
        self._seen = seen
        return True

    def _logged_bytes(self) -> int:
        """Return the size of the event log, which only grows; its time may not differ after two
        events within a tick of the file server's clock. 0 where it cannot be read.
        """
        try:
            return self._run.events.stat().st_size
        except OSError:
            return 0

    def waiting(self, saved: frozenset[int]) -> Iterator[tuple[str, int]]:
        """Yield job and step of each task that has not begun, and whose checkpoint is saved."""
        history = self._reader.current()
        for stage in READING_STAGES:
            for index, task in history.tasks(stage).items():
                recorded = specs.read_task(self._run, stage, index)
                step = early_step(recorded.spec) if recorded else None
                if task.job and step is not None and step in saved and not task.has_begun:
                    yield task.job.job_id, step
