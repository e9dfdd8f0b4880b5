"""Judge what a selftest measured, claim by claim. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meditron_cli.selftest import judges
from meditron_cli.selftest.judges import NOT_RUN, REFUTED, Judgement, Planned

Judge = Callable[[Sequence[str], judges.Result, judges.Result, Planned], list[Judgement]]

CLAIMS: dict[str, tuple[Judge, tuple[str, ...]]] = {
    "shape": (
        judges.shape,
        (
            "two layers at full width take the planned memory",
            "two layers at full width take the planned time",
            "reading samples runs beside computation",
            "communication is timed by events",
        ),
    ),
    "speeds": (
        judges.speeds,
        (
            "all-reduce sums are exact",
            "matrix products reach the planned speed",
            "memory reaches the planned speed",
            "NCCL in a node reaches the planned speed",
            "NCCL between nodes reaches the planned speed",
        ),
    ),
    "environment": (
        judges.environment,
        (
            "each rank has a GPU of its own",
            "the allocator extends its segments",
            "compiled kernels are kept on the node",
            "transformer-engine and flash-attn load",
        ),
    ),
    "tensor-parallel": (judges.parallel, ("tensor 2 trains as tensor 1",)),
    "pipeline": (
        judges.pipeline,
        ("pipeline 2 trains as pipeline 1", "an interleaved pipeline trains as pipeline 1"),
    ),
    "layers": (
        judges.local_layers,
        (
            "local layers train as transformer-engine's",
            "transformer-engine continues a checkpoint of local layers",
            "local layers continue a checkpoint of transformer-engine",
        ),
    ),
    "documents": (
        judges.documents,
        ("packed sequences of transformer-engine train as single documents",),
    ),
    "other-layout": (
        judges.other_layout,
        (
            "tensor 2 continues a checkpoint of tensor 1",
            "tensor 1 continues a checkpoint of tensor 2",
        ),
    ),
    "lengths": (
        judges.lengths,
        (
            "tensor 2 trains as tensor 1 when sequences become longer",
            "longer sequences train behind shorter ones as alone",
        ),
    ),
    "resume": (judges.identical, ("a resumed training is bit-equal",)),
    "deterministic": (
        judges.identical,
        (
            "a deterministic training is bit-equal when repeated",
            "asynchronous saves have the bits of synchronous ones",
        ),
    ),
    "overlap": (
        judges.overlap,
        ("overlapped communication trains as other", "overlap shortens a step at full width"),
    ),
    "copies": (judges.copies, ("copies of saves lie in page-locked memory",)),
    "profile": (
        judges.profile,
        (
            "profiled steps train as others",
            "traces hold kernels and the groups of collectives",
            "memory snapshots are written",
        ),
    ),
    "nsys": (judges.nsys, ("Nsight Systems records the profiled range",)),
}
"""By trial, in the order of the trials: the judge of its measures, and its claims."""


def judge(record: judges.Result, planned: Planned, problem: str) -> list[Judgement]:
    """Return a judgement per claim.

    Args:
        planned: what a plan computes without the selftest.
        record: of the selftest, as far as it came; empty where no rank has started.
        problem: why it did not end; empty if it did.
    """
    trials = record.get("trials", {})
    rows: list[Judgement] = []
    for name, (judge_of, claims) in CLAIMS.items():
        result = trials.get(name, {})
        state = result.get("state")
        if state == "done":
            rows += judge_of(claims, result, record, planned)
        elif state == "not run":
            rows += [Judgement(claim, "", "", NOT_RUN, result["reason"]) for claim in claims]
        elif state in ("failed", "begun"):
            error = result.get("error") or problem or "the trial did not end"
            rows += [Judgement(claim, "", "", REFUTED, error) for claim in claims]
        else:
            reason = problem or "the selftest ended before"
            rows += [Judgement(claim, "", "", NOT_RUN, reason) for claim in claims]
    return rows
