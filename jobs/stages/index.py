"""Index stage: check the tokens of a training, and lay out its samples in their order.

Ranks only read what it writes, so that none waits in an allocation while another builds it. No
torch or megatron.core is imported.
"""

from __future__ import annotations

import time
from typing import cast

from jobs.contract import done_markers
from jobs.contract.errors import Stopped
from jobs.contract.stage_specs import IndexSpec
from jobs.data import sample_index
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Lay out the samples of the training that the task's spec names.

    Raises:
        TaskError: the tokens are missing, damaged, too few or too many, or not the model's.
        Stopped: a stop was requested; the next attempt starts from scratch.
    """
    spec = cast(IndexSpec, context.task.spec)

    def report() -> None:
        context.heart.beat()
        if context.stop:
            raise Stopped("stop requested; the index starts from scratch in the next attempt")

    due = 0.0

    def scanned(done: int, total: int) -> None:
        nonlocal due
        report()
        if (now := time.monotonic()) >= due or done == total:
            context.progress(done, total, "bytes")
            due = now + 1.0

    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    datasets = sample_index.build(context.run, spec.training, report, scanned)
    inputs = []
    for source in (*datasets.train, *datasets.validation):
        inputs.append(f"{source.prefix}.idx")
        if not source.tokenized:
            inputs.append(f"{source.prefix}.bin")
    context.finish(
        inputs=[
            done_markers.describe_file(context.run, name, with_digest=False) for name in inputs
        ],
        outputs=[
            done_markers.describe_file(
                context.run, str(path.relative_to(context.run.root)), with_digest=False
            )
            for path in sample_index.files(context.path(spec.output_dir))
        ],
        summary={
            "sequences": spec.training.sequences,
            "tokens": sum(source.tokens for source in datasets.train),
        },
    )
