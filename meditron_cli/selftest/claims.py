"""Judge what a selftest measured, claim by claim. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract.units import GIB

CONFIRMED = "confirmed"
REFUTED = "refuted"
NOT_RUN = "not run"

TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 5e-2)}
"""Largest relative differences of loss and gradient norm that are accepted between two layouts or
two kinds of layers, per precision. In fp32 the tests of all layouts stay below 3e-6 on CPUs; those
of bf16 are guesses.
"""

NEAR = 0.2
"""Share by which a figure may differ from what a plan computes: the target of docs/plan.md for
each published step.
"""

RESIDENT = (
    "the resident memory of a CPU process holds libraries, gloo's buffers and freed memory beside "
    "the tensors that a plan counts"
)

Result = Mapping[str, Any]
"""Of one trial, in the record."""


@dataclass(frozen=True)
class Planned:
    """The figures of a plan that a selftest measures."""

    memory_bytes: float
    step_seconds: float | None
    no_time: str
    """Why there is no step time."""
    speeds: Mapping[str, float]
    """That the plan assumes, by the key of the measured one."""


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured of it."""

    claim: str
    measured: str
    expected: str
    verdict: str
    """``confirmed``, ``refuted`` or ``not run``."""
    reason: str = ""
    """Why it was not run, or the error that refutes it."""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Return a row of the table."""
        verdict = f"{self.verdict}: {self.reason}" if self.reason else self.verdict
        return self.claim, self.measured, self.expected, verdict


def verdict(holds: bool) -> str:
    """Return the verdict on a claim that was measured."""
    return CONFIRMED if holds else REFUTED


def parity(claim: str, result: Result, precision: str) -> Judgement:
    """Judge that two trainings have the same losses and gradient norms."""
    loss, norm = TOLERANCE[precision]
    return Judgement(
        claim,
        f"loss differs by {result['loss']:.1e}, norm by {result['norm']:.1e} over "
        f"{result['steps']} steps",
        f"at most {loss:.0e} and {norm:.0e} in {precision}",
        verdict(result["steps"] > 0 and result["loss"] <= loss and result["norm"] <= norm),
    )


def shape(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge the memory and the step time of a training at full width."""
    memory, step = CLAIMS["shape"]
    measured = result["memory_bytes"]
    seconds = result["step_seconds"]
    shown = f"{seconds:.3f} s" if seconds else ""
    expected = f"{size(planned.memory_bytes)} within {NEAR:.0%}"
    if record["device"] == "cuda":
        holds = is_near(measured, planned.memory_bytes)
        rows = [Judgement(memory, size(measured), expected, verdict(holds))]
    else:
        rows = [Judgement(memory, size(measured), expected, NOT_RUN, RESIDENT)]
    if planned.step_seconds is None:
        reason = f"no step time is planned: {planned.no_time}"
        return [*rows, Judgement(step, shown, "", NOT_RUN, reason)]
    holds = bool(seconds) and is_near(seconds, planned.step_seconds)
    expected = f"{planned.step_seconds:.3f} s within {NEAR:.0%}"
    return [*rows, Judgement(step, shown, expected, verdict(holds))]


def speeds(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge collectives, and the speeds that computed times depend on."""
    exact, *claims = CLAIMS["speeds"]
    library = "NCCL" if record["device"] == "cuda" else "gloo"
    shown = ", ".join(
        f"{place} {result[key]:.3g} GB/s"
        for key, place in (("link_gb_s", "in a node"), ("network_gb_s", "between nodes"))
        if result[key]
    )
    if not shown:
        rows = [Judgement(exact, "", "", NOT_RUN, "there is one rank")]
    else:
        rows = [Judgement(exact, f"{library}, {shown}", "exact", verdict(result["exact"]))]
    keys = ("product_tflops", "memory_gb_s", "link_gb_s", "network_gb_s")
    for claim, key in zip(claims, keys, strict=True):
        rows.append(speed(claim, key, result[key], planned.speeds.get(key), library))
    return rows


def speed(
    claim: str, key: str, measured: float | None, planned: float | None, library: str
) -> Judgement:
    """Judge that a speed is no less than what a plan assumes."""
    unit = "TFLOP/s" if key == "product_tflops" else "GB/s"
    shown = f"{measured:.3g} {unit}" if measured else ""
    if claim.startswith("NCCL") and library != "NCCL":
        return Judgement(claim, "", "", NOT_RUN, f"these ranks communicate by {library}")
    if not measured:
        return Judgement(claim, "", "", NOT_RUN, "the job had one node, or one rank on it")
    if not planned:
        return Judgement(claim, shown, "", NOT_RUN, "the profile lacks the figure to compare with")
    return Judgement(
        claim,
        shown,
        f"at least {1 - NEAR:.0%} of {planned:.3g} {unit}",
        verdict(measured >= planned * (1 - NEAR)),
    )


def tensor_parallel(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge the trial of a layout with tensor parallelism."""
    return [parity(CLAIMS["tensor-parallel"][0], result, record["precision"])]


def local_layers(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge the trial of both kinds of layers."""
    same, *loaded = CLAIMS["layers"]
    return [parity(same, result, record["precision"]), *continued(loaded, result, record)]


def other_layout(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge the trial of checkpoints in another layout."""
    return continued(CLAIMS["other-layout"], result, record)


def continued(names: Sequence[str], result: Result, record: Result) -> list[Judgement]:
    """Judge trainings that continued from each other's checkpoints."""
    pairs = zip(names, result["loaded"], strict=True)
    return [parity(claim, one, record["precision"]) for claim, one in pairs]


def resume(result: Result, record: Result, planned: Planned) -> list[Judgement]:
    """Judge that a resumed training is bit-equal."""
    differing = result["differing_steps"]
    same = "equal" if result["equal_checkpoints"] else "other"
    return [
        Judgement(
            CLAIMS["resume"][0],
            f"{len(differing)} of {result['steps']} losses differ, {same} bits in the checkpoint",
            "no difference",
            verdict(result["steps"] > 0 and not differing and result["equal_checkpoints"]),
        )
    ]


def is_near(measured: float, planned: float) -> bool:
    """Return whether a figure is as planned, within ``NEAR`` of it."""
    return abs(measured - planned) <= NEAR * planned


def size(value: float) -> str:
    """Return bytes in binary units."""
    return f"{value / GIB:.2f} GiB"


Judge = Callable[[Result, Result, Planned], list[Judgement]]

CLAIMS: dict[str, tuple[str, ...]] = {
    "shape": (
        "two layers at full width take the planned memory",
        "two layers at full width take the planned time",
    ),
    "speeds": (
        "all-reduce sums are exact",
        "matrix products reach the planned speed",
        "memory reaches the planned speed",
        "NCCL in a node reaches the planned speed",
        "NCCL between nodes reaches the planned speed",
    ),
    "tensor-parallel": ("tensor 2 trains as tensor 1",),
    "layers": (
        "local layers train as transformer-engine's",
        "transformer-engine continues a checkpoint of local layers",
        "local layers continue a checkpoint of transformer-engine",
    ),
    "other-layout": (
        "tensor 2 continues a checkpoint of tensor 1",
        "tensor 1 continues a checkpoint of tensor 2",
    ),
    "resume": ("a resumed training is bit-equal",),
}
"""Confirmed or refuted by each trial, in the order of the trials."""

JUDGES: dict[str, Judge] = {
    "shape": shape,
    "speeds": speeds,
    "tensor-parallel": tensor_parallel,
    "layers": local_layers,
    "other-layout": other_layout,
    "resume": resume,
}


def judge(record: Result, planned: Planned, problem: str) -> list[Judgement]:
    """Return a judgement per claim.

    Args:
        planned: what a plan computes without the selftest.
        record: of the selftest, as far as it came; empty where no rank has started.
        problem: why it did not end; empty if it did.
    """
    trials = record.get("trials", {})
    rows: list[Judgement] = []
    for name, claims in CLAIMS.items():
        result = trials.get(name, {})
        state = result.get("state")
        if state == "done":
            rows += JUDGES[name](result, record, planned)
        elif state == "not run":
            rows += [Judgement(claim, "", "", NOT_RUN, result["reason"]) for claim in claims]
        elif state in ("failed", "begun"):
            error = result.get("error") or problem or "the trial did not end"
            rows += [Judgement(claim, "", "", REFUTED, error) for claim in claims]
        else:
            reason = problem or "the selftest ended before"
            rows += [Judgement(claim, "", "", NOT_RUN, reason) for claim in claims]
    return rows
