"""Weights & Biases as a tracker: server and key come from its own environment variables, or from
what ``wandb login`` stored.

A row's ``_step``, which must grow, is the number of its line. The server reports the last one to
whoever resumes the run, which is the position. Charts are drawn over the training step instead
(``define_metric``). Segments written offline would not do: each begins its rows at the file offset
that it knew, so that a later upload overwrites an earlier one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from meditron_cli.errors import ConfigError
from meditron_cli.tracking.identity import TrackedRun
from meditron_cli.tracking.replay import Point

MODE = "WANDB_MODE"
STEP = "training_step"


def errors() -> tuple[type[Exception], ...]:
    """Return the errors of wandb, none where nothing has imported it."""
    module: Any = sys.modules.get("wandb.errors")
    return (module.Error,) if module else ()


@contextmanager
def opened(run: TrackedRun, environ: Mapping[str, str]) -> Iterator[WandbTracker]:
    """Open the run of W&B with this run's id, or create it; wait for all uploads at the end.

    Raises:
        ConfigError: the environment asks for an offline segment, or for no upload at all.
    """
    mode = environ.get(MODE, "online")
    if mode != "online":
        raise ConfigError(
            f"{MODE} is `{mode}`, and sync needs the server: it has the position of the replay",
            f"`unset {MODE}`, on a machine with access to the server",
        )
    import wandb

    with tempfile.TemporaryDirectory(prefix="meditron-wandb-") as folder:
        opened_run = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            resume="allow",
            config=run.settings,
            allow_val_change=True,
            dir=folder,
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                silent=True,
            ),
        )
        with opened_run:
            yield WandbTracker(opened_run)


class WandbTracker:
    """One run of W&B."""

    def __init__(self, run: Any) -> None:
        """Read the position of a run that was resumed."""
        self._run = run
        self.position = max(0, run.starting_step - 1)
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP)

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            row = {**point.values, STEP: point.step, "attempt": point.attempt}
            self._run.log({**row, "_timestamp": point.time}, step=point.line)
        self.position = points[-1].line
