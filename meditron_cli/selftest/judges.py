"""Verdicts on what the trials of a selftest measured. Pure.

A judge has the claims of its trial in the order of ``claims.CLAIMS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.contract.units import GIB

CONFIRMED = "confirmed"
REFUTED = "refuted"
NOT_RUN = "not run"

TOLERANCE = {"fp32": (1e-5, 1e-4), "bf16": (1e-2, 5e-2)}
"""Largest relative differences of loss and gradient norm that are accepted between two layouts or
two kinds of layers, per precision. Measured over 20 steps on two CPU ranks, in all layouts of a
selftest: at most 1.1e-7 and 1.6e-6 in fp32, 2.4e-4 and 4.2e-3 in bf16. That kernels of GPUs, which
sum in other orders (and, of transformer-engine, other roundings), need no more than the tens of
times this is unproven (docs/gpu.md).
"""

NEAR = 0.2
"""Share by which a figure may differ from what a plan computes: the target of docs/plan.md for
each published step.
"""

LONGEST_WAIT = 0.1
"""Share of the steps that may wait for samples (a guess)."""

ON_CPU = "the ranks' device is cpu"

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
    without_engine_bytes: float
    """What ranks without transformer-engine take more."""
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


def shape(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge memory and times of a training at full width."""
    memory, step, data, communication = claims
    return [
        *size_and_time(memory, step, result, record, planned),
        waiting(data, result, record),
        timed(communication, result, record),
    ]


def size_and_time(
    memory: str, step: str, result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the memory and the step time of a training beside its plan."""
    measured = result["memory_bytes"]
    seconds = result["step_seconds"]
    shown = f"{seconds:.3f} s" if seconds else ""
    need = planned.memory_bytes
    need += 0 if record["transformer_engine"] else planned.without_engine_bytes
    expected = f"{size(need)} within {NEAR:.0%}"
    if record["device"] == "cuda":
        holds = is_near(measured, need)
        rows = [Judgement(memory, size(measured), expected, verdict(holds))]
    else:
        rows = [Judgement(memory, size(measured), expected, NOT_RUN, RESIDENT)]
    if planned.step_seconds is None:
        reason = f"no step time is planned: {planned.no_time}"
        return [*rows, Judgement(step, shown, "", NOT_RUN, reason)]
    holds = bool(seconds) and is_near(seconds, planned.step_seconds)
    expected = f"{planned.step_seconds:.3f} s within {NEAR:.0%}"
    return [*rows, Judgement(step, shown, expected, verdict(holds))]


def waiting(claim: str, result: Result, record: Result) -> Judgement:
    """Judge that reading samples and copying them to the GPU runs beside computation."""
    shown = f"{result['data']:.3f} of {result['seconds']:.3f} s"
    if record["device"] != "cuda":
        return Judgement(claim, shown, "", NOT_RUN, f"{ON_CPU}, where reading takes its cores")
    holds = result["seconds"] > 0 and result["data"] <= LONGEST_WAIT * result["seconds"]
    return Judgement(claim, shown, f"at most {LONGEST_WAIT:.0%}", verdict(holds))


def timed(claim: str, result: Result, record: Result) -> Judgement:
    """Judge that the time between two events around communication is a part of the steps."""
    shown = f"{result['communication']:.3f} of {result['seconds']:.3f} s"
    if record["device"] != "cuda":
        return Judgement(claim, shown, "", NOT_RUN, f"{ON_CPU}, which has no events")
    holds = 0 < result["communication"] < result["seconds"]
    return Judgement(claim, shown, "more than 0, less than the steps", verdict(holds))


def speeds(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge collectives, and the speeds that computed times depend on."""
    exact, *others = claims
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
    for claim, key in zip(others, keys, strict=True):
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


def environment(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge what ranks on GPUs have."""
    own, segments, compiled, packages = claims
    ranks = record["ranks"]
    every = f"{ranks} of {ranks} ranks"
    return [
        Judgement(own, f"{result['gpus']} GPUs", every, verdict(result["gpus"] == ranks)),
        Judgement(
            segments,
            f"{result['expandable']} of {ranks} ranks",
            every,
            verdict(result["expandable"] == ranks),
        ),
        Judgement(compiled, f"{result['compiled']} files", "some", verdict(result["compiled"] > 0)),
        loaded(packages, result["packages"]),
    ]


def loaded(claim: str, packages: Mapping[str, str]) -> Judgement:
    """Judge that packages of GPU kernels load: a version behind each name, an error behind that."""
    shown = ", ".join(f"{name} {state}" for name, state in packages.items() if state)
    missing = [name for name, state in packages.items() if not state]
    if any(":" in state for state in packages.values()):
        return Judgement(claim, shown, "no error", REFUTED)
    if missing:
        return Judgement(claim, shown, "", NOT_RUN, f"{' and '.join(missing)} is not installed")
    return Judgement(claim, shown, "no error", CONFIRMED)


def parallel(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge one training beside another."""
    (claim,) = claims
    return [parity(claim, result, record["precision"])]


def pipeline(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge both schedules of a pipeline."""
    return several(claims, result["layouts"], record)


def local_layers(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the trial of both kinds of layers."""
    same, *others = claims
    return [
        parity(same, result, record["precision"]),
        *several(others, result["loaded"], record),
    ]


def documents(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge attention within documents; it must also differ from attention across them."""
    return with_effect(
        several(claims, [result], record), result, "losses are those of attention across documents"
    )


def lengths(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge a change of the sequence length; it must also change losses."""
    rows = several(claims, result["trainings"], record)
    return with_effect(rows, result, "losses are those of sequences of one length")


def with_effect(rows: list[Judgement], result: Result, otherwise: str) -> list[Judgement]:
    """Refute claims of trainings whose losses are those of the training without their option."""
    if result["effect"] > 0:
        return rows
    return [replace(row, verdict=REFUTED, reason=otherwise) for row in rows]


def other_layout(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the trial of checkpoints in another layout."""
    return several(claims, result["loaded"], record)


def several(names: Sequence[str], results: Sequence[Result], record: Result) -> list[Judgement]:
    """Judge one pair of trainings per claim."""
    pairs = zip(names, results, strict=True)
    return [parity(claim, one, record["precision"]) for claim, one in pairs]


def identical(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge that two trainings are bit-equal, in their losses and in their checkpoints."""
    differing = result["differing_steps"]
    same = "equal" if result["equal_checkpoints"] else "other"
    holds = result["steps"] > 0 and not differing and result["equal_checkpoints"]
    shown = f"{len(differing)} of {result['steps']} losses differ, {same} bits in the checkpoint"
    return [Judgement(claim, shown, "no difference", verdict(holds)) for claim in claims]


def overlap(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge that overlap changes no result, and shortens a step at full width."""
    same, faster = claims
    row = parity(same, result, record["precision"])
    with_it, without = result["seconds_with"], result["seconds_without"]
    if not with_it or not without:
        is_cuda = record["device"] == "cuda"
        reason = "the shape has one copy" if is_cuda else f"{ON_CPU}, where ranks share cores"
        return [row, Judgement(faster, "", "", NOT_RUN, reason)]
    shown = f"{with_it:.3f} s, without {without:.3f} s"
    return [row, Judgement(faster, shown, "less than without", verdict(with_it < without))]


def copies(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the memory that saves copy to."""
    (claim,) = claims
    pinned, plain = result["pinned_gb_s"], result["plain_gb_s"]
    shown = f"{'' if result['is_pinned'] else 'not '}locked, {pinned:.3g} GB/s"
    return [
        Judgement(
            claim,
            shown,
            f"locked, more than the {plain:.3g} GB/s of others",
            verdict(result["is_pinned"] and pinned > plain),
        )
    ]


def profile(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the profile of a training: its losses, its trace, its memory snapshot."""
    same, trace, memory = claims
    row = parity(same, result, record["precision"])
    if result["error"]:
        return [
            row,
            *(Judgement(name, "", "", REFUTED, result["error"]) for name in (trace, memory)),
        ]
    steps, kernels, grouped = (result[name] for name in ("traced_steps", "kernels", "grouped"))
    shown = f"{steps} steps, {kernels} kernels, {grouped} name their group"
    if record["device"] != "cuda":
        rows = [Judgement(name, "", "", NOT_RUN, ON_CPU) for name in (trace, memory)]
        return [row, replace(rows[0], measured=shown), rows[1]]
    return [
        row,
        Judgement(trace, shown, "some of each", verdict(min(steps, kernels, grouped) > 0)),
        Judgement(
            memory, f"{result['memory_bytes']} bytes", "some", verdict(result["memory_bytes"] > 0)
        ),
    ]


def nsys(
    claims: Sequence[str], result: Result, record: Result, planned: Planned
) -> list[Judgement]:
    """Judge the report of Nsight Systems."""
    (claim,) = claims
    size = result["report_bytes"]
    reason = "" if size else result["message"]
    return [Judgement(claim, f"{size} bytes", "a report", verdict(size > 0), reason)]


def is_near(measured: float, planned: float) -> bool:
    """Return whether a figure is as planned, within ``NEAR`` of it."""
    return abs(measured - planned) <= NEAR * planned


def size(value: float) -> str:
    """Return bytes in binary units."""
    return f"{value / GIB:.2f} GiB"
