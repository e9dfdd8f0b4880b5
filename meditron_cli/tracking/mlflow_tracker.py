"""MLflow as a tracker: server and credentials come from its own environment variables.

The tag ``LINE`` is the position. A kill between the metrics of a call and its tag sends these
metrics again, of which MLflow's SQL stores keep one: name, time, step and value are their key
(mlflow/store/tracking/dbmodels/models.py, ``SqlMetric``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from meditron_cli.errors import ConfigError
from meditron_cli.tracking.identity import TrackedRun
from meditron_cli.tracking.replay import Point

ADDRESS = "MLFLOW_TRACKING_URI"
LINE = "meditron.line"
ID = "meditron.id"
CALL_METRICS = 1000
"""Metrics in one call at most (mlflow/utils/validation.py, ``MAX_METRICS_PER_BATCH``)."""
CALL_PARAMETERS = 100
"""Parameters in one call at most (the same, ``MAX_PARAMS_TAGS_PER_BATCH``)."""


def errors() -> tuple[type[Exception], ...]:
    """Return the errors of MLflow, none where nothing has imported it."""
    module: Any = sys.modules.get("mlflow.exceptions")
    return (module.MlflowException,) if module else ()


@contextmanager
def opened(run: TrackedRun, environ: Mapping[str, str]) -> Iterator[MlflowTracker]:
    """Open the run of MLflow that has this run's id, or create it.

    Raises:
        ConfigError: no server is named: MLflow would make a database in the current folder.
    """
    address = environ.get(ADDRESS)
    if not address:
        raise ConfigError(
            f"the variable {ADDRESS} names no server of MLflow",
            f"`export {ADDRESS}=http://HOST:5000`",
        )
    import mlflow

    tracker = MlflowTracker(mlflow.MlflowClient(address), run)
    yield tracker
    if run.finished:
        tracker.finish()


class MlflowTracker:
    """One run of MLflow."""

    def __init__(self, client: Any, run: TrackedRun) -> None:
        """Find or create the run, and add the settings that it does not have."""
        self._client = client
        found = self._find(run)
        self._id: str = found.info.run_id
        self.position = int(found.data.tags.get(LINE, 0))
        self._add_settings(run, known=found.data.params)

    def _find(self, run: TrackedRun) -> Any:
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        same = self._client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'")
        if same:
            return same[0]
        return self._client.create_run(experiment, tags={ID: run.id}, run_name=run.name)

    def _add_settings(self, run: TrackedRun, known: Mapping[str, str]) -> None:
        """Add settings as parameters; MLflow never changes one, so that later values are left
        out.
        """
        from mlflow.entities import Param

        new = [Param(key, str(value)) for key, value in run.settings.items() if key not in known]
        for start in range(0, len(new), CALL_PARAMETERS):
            self._client.log_batch(self._id, params=new[start : start + CALL_PARAMETERS])

    def finish(self) -> None:
        """Mark the run as finished, which MLflow shows as running until then."""
        self._client.set_terminated(self._id)

    def log(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric, RunTag

        waiting: list[Any] = []

        def send(position: int) -> None:
            tag = RunTag(LINE, str(position))
            self._client.log_batch(self._id, metrics=waiting, tags=[tag])
            waiting.clear()
            self.position = position

        for point in points:
            if len(waiting) + len(point.values) > CALL_METRICS:
                send(point.line - 1)
            waiting += [
                Metric(name, value, int(1000 * point.time), point.step)
                for name, value in point.values.items()
            ]
        send(points[-1].line)
