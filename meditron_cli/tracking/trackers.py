"""The trackers that ``meditron sync`` knows, opened by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from meditron_cli.errors import ConfigError, MeditronError
from meditron_cli.tracking import mlflow_tracker, wandb_tracker
from meditron_cli.tracking.identity import TrackedRun
from meditron_cli.tracking.replay import Tracker

KINDS = ("mlflow", "wandb")
USER = re.compile(r"//[^/@\s]+@")
"""User and password in the address of a server."""


class TrackerFailed(MeditronError):
    """A refusal of a tracker's server, or no answer."""


@contextmanager
def opened(kind: str, run: TrackedRun, environ: Mapping[str, str]) -> Iterator[Tracker]:
    """Open a run in a tracker, and close it after the block.

    Raises:
        ConfigError: the library is not installed, or its settings name no server.
        TrackerFailed: the server refused, or did not answer; the message has no password.
    """
    try:
        with _open(kind, run, environ) as tracker:
            yield tracker
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the library {error.name} is not installed", f"`pip install 'meditron[{kind}]'`"
        ) from error
    except (*mlflow_tracker.errors(), *wandb_tracker.errors()) as error:
        text = USER.sub("//***@", str(error)).strip().splitlines()
        raise TrackerFailed(
            f"{kind}: {text[0] if text else type(error).__name__}",
            "what it has stays there; the same command again sends the rest",
        ) from None  # a traceback would show the address


def _open(
    kind: str, run: TrackedRun, environ: Mapping[str, str]
) -> AbstractContextManager[Tracker]:
    if kind == "mlflow":
        return mlflow_tracker.opened(run, environ)
    return wandb_tracker.opened(run, environ)
