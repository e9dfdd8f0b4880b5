"""The verification at the end of a stage that has imported or exported weights."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from jobs.checkpoints import manifest
from jobs.contract.errors import RESUME, Stopped, TaskError
from jobs.contract.files import make_folder, write_json
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import CPU_STAGE_GIB_PER_CORE, ConvertSpec, ExportSpec
from jobs.runtime import memory
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

FOLDER = "verification"
"""In the run directory, with one record per stage and step."""


def record_file(run: RunDir, stage: str, step: int, model: str = "") -> Path:
    """Return the path of a stage's verification of a step, of a finetuned model by its name."""
    of_model = f"-{model}" if model else ""
    return run.path(f"{FOLDER}/{stage}{of_model}-{step}.json")


def verify_stage(
    context: Context, weights: Path, checkpoint: Path, title: str = ""
) -> dict[str, Any] | None:
    """Verify what a stage has written and record the result; None where its settings turn it off.

    Args:
        context: of a conversion or an export.
        weights: the folder that was imported or exported.
        checkpoint: ours.
        title: the path of the folder in the record and in messages, if it will have another.

    Raises:
        TaskError: both do not compute the same, or a library is missing.
        Stopped: a stop was requested.
    """
    spec = cast("ConvertSpec | ExportSpec", context.task.spec)
    if not spec.verify.enabled:
        return None
    from jobs.verification.verify import Request, verify

    base = checkpoint.with_name(manifest.name(0))
    request = Request(
        weights=weights,
        checkpoint=checkpoint,
        model=spec.model,
        tokenizer=spec.tokenizer,
        base=base if base != checkpoint and not manifest.problem(base) else None,
        exported=isinstance(spec, ExportSpec),
        finetuned=isinstance(spec, ExportSpec) and bool(spec.finetuned),
        available=lambda: memory_for_generation(context.task.cpus_per_rank, memory.available()),
        tokens=min(spec.verify.tokens, spec.model.seq_length),
        tolerance=spec.verify.tolerance,
        threads=context.task.cpus_per_rank,
    )
    with context.heart.during(Phase.VALIDATION):
        try:
            result = verify(request, _Report(context)).to_json()
            result["weights"] = title or str(weights)
        except ModuleNotFoundError as error:
            raise TaskError(
                f"{weights} is not verified: the library {error.name} is not installed",
                f"install it, or set verify.enabled to false, then {RESUME}",
            ) from error
    model = spec.finetuned if isinstance(spec, ExportSpec) else ""
    path = record_file(context.run, context.task.stage, result["step"], model)
    make_folder(path.parent)
    write_json(path, result)
    if result["problems"]:
        problems = "; ".join(result["problems"])
        raise TaskError(
            f"{title or weights} and {checkpoint} do not compute the same: {problems}",
            f"{path} has the differences per text; `--set verify.tolerance=X` accepts larger ones "
            "of logits in the next submission",
        )
    return result


def memory_for_generation(cores: int, available: int) -> int:
    """Return the bytes that a stage may generate in: no more than it requests, since a site need
    not enforce requests and other jobs of a node rely on theirs.
    """
    return min(available, CPU_STAGE_GIB_PER_CORE * cores << 30)


class _Report:
    """The callback of a verification: heartbeats, progress, and stop requests."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._due = 0.0

    def __call__(self, side: str, done: int, total: int) -> None:
        """Report a layer.

        Raises:
            Stopped: a stop was requested.
        """
        if self._context.stop:
            raise Stopped("stop requested; the next attempt verifies again")
        self._context.heart.beat()
        if (now := time.monotonic()) >= self._due or done == total:
            self._due = now + 1.0
            self._context.progress(done, total, side, phase="validation")
