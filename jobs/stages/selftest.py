"""Selftest stage: start the ranks' process group and run the trials."""

from __future__ import annotations

from typing import cast

from jobs.contract.stage_specs import SelftestSpec
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Run the trials that have no result yet, as one of the layout's ranks.

    Raises:
        Stopped: a stop was requested; the next attempt does the rest.
        TaskError: a trial failed; the next attempt runs those behind it.
    """
    spec = cast(SelftestSpec, context.task.spec)
    from jobs.engine import device as devices

    with devices.session(context, spec.training.device) as device:
        context.heart.beat()
        from jobs.selftest import trials

        context.heart.beat()
        trials.run(context, spec, device)
