"""The start of every rank of a training: check the layout, join the others. Torch is imported
inside functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import TrainingSpec
from jobs.contract.units import plural
from jobs.engine import device as devices
from jobs.runtime.context import Context

if TYPE_CHECKING:
    import torch


@contextmanager
def training(context: Context, spec: TrainingSpec) -> Iterator[torch.device]:
    """Start the ranks' process group and the groups of the layout, and yield this rank's device.

    Raises:
        TaskError: the layout cannot be trained.
    """
    check(spec, context.world_size)
    from jobs.engine.switches import determinism

    if spec.deterministic:
        determinism.switch_on()
    with devices.session(context, spec.device) as device:
        context.heart.beat()
        from jobs.engine import model

        context.heart.beat()
        model.start_parallel(spec.parallel, spec.seed)
        yield device


def check(spec: TrainingSpec, world_size: int) -> None:
    """Refuse a layout that cannot be trained, before anything is started.

    Raises:
        TaskError: the number of ranks is wrong, or batch size or layers do not divide.
    """
    layout = spec.parallel
    if layout.world_size != world_size:
        raise TaskError(
            f"the layout {layout.tensor} x {layout.pipeline} x {layout.data} needs "
            f"{plural(layout.world_size, 'rank')}, not {world_size}",
            "start as many ranks as the task's `ranks`",
        )
    samples = spec.micro_batch_size * layout.data
    if spec.global_batch_size % samples:
        raise TaskError(
            f"global batch {spec.global_batch_size} is not a multiple of micro-batch "
            f"{spec.micro_batch_size} x data {layout.data}",
            f"use a multiple of {samples}",
        )
    if spec.model.layers % (layout.pipeline * layout.virtual):
        pieces = f" of {layout.virtual} pieces" if layout.virtual > 1 else ""
        raise TaskError(
            f"{spec.model.layers} layers do not divide into {layout.pipeline} pipeline stages"
            f"{pieces}",
            "choose a number of stages and of their pieces that divides the layers",
        )
    if layout.virtual > 1 and spec.global_batch_size // samples % layout.pipeline:
        raise TaskError(
            f"{plural(spec.global_batch_size // samples, 'micro-batch')} a step are not a multiple "
            f"of {plural(layout.pipeline, 'pipeline stage')}, which interleaving needs",
            f"use a global batch that is a multiple of {samples * layout.pipeline}",
        )
