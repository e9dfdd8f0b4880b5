"""The result of a verification: its record, and the sentences and rows made from it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.conversion import hf_reader, model_card
from jobs.verification.figures import Difference, Rates
from jobs.verification.tensors import Tensors


@dataclass(frozen=True)
class AddedRows:
    """The rows that a checkpoint's vocabulary has beyond that of the folder."""

    first: int
    last: int
    expected: str
    """The rule of ``VocabularySpec.new_rows`` that they were compared with; empty where they were
    not: training changes them."""
    equal: bool
    """Whether they follow the rule; False where they were not compared."""


@dataclass(frozen=True)
class Generation:
    """Greedy continuations of fixed prompts by both sides."""

    tokens: int
    """The most that a continuation has."""
    prompts: tuple[str, ...]
    continuations: dict[str, tuple[str, ...]]
    """By side: ``weights``, ``checkpoint`` and, for a trained one, ``base``."""
    rates: dict[str, Rates]
    """By side."""
    equal: int
    """Continuations that weights and checkpoint have in common, token for token."""


@dataclass(frozen=True)
class Verification:
    """Two sides, the comparison of both, and its result."""

    weights: str
    checkpoint: str
    step: int
    """Of the checkpoint."""
    origin: str
    """Where the weights of the run's step 0 come from."""
    precision: str
    """Of the computation."""
    rounded_to: tuple[str, ...]
    """Types to which both sides' weights were rounded; empty where both are stored alike."""
    tolerance: float
    """The largest difference of a logit that is accepted, as a share of the largest logit."""
    rows: int
    """Of the vocabulary that were compared."""
    texts: dict[str, Difference]
    """By the name of the text."""
    logits: Difference
    """Over all texts."""
    exported: bool
    """Whether the folder is an export of the run; only its tensors, and those of the base model
    beside step 0, must be equal."""
    tensors: Tensors
    wrong_ids: tuple[str, ...]
    """Ids in an export's configuration that are not those of the run's tokens, as clauses."""
    added_rows: AddedRows | None
    """None where both have the same vocabulary."""
    generation: Generation | None
    """None where the model does not fit into memory."""
    not_verified: tuple[str, ...]
    """Clauses."""
    versions: dict[str, str]
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Return what differs more than it may, as clauses; empty for an equal model."""
        found = []
        if self.logits.exceeds(self.tolerance):
            found.append(
                f"logits differ by up to {self.logits.max:.2g} (mean {self.logits.mean:.2g}), "
                f"more than {self.tolerance:g} of the largest, {self.logits.scale:.3g}"
            )
        different = self.tensors.different
        if different and (self.exported or self.step == 0):
            found.append(
                f"{len(different)} of {self.tensors.compared} tensors have other values, by up to "
                f"{self.tensors.largest:.2g}: {hf_reader.listed(different)}"
            )
        found += self.wrong_ids
        added = self.added_rows
        if added is not None and added.expected and not added.equal:
            found.append(
                f"rows {added.first} to {added.last} of the vocabulary do not follow new_rows "
                f"({added.expected})"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the verification as ``verify --json`` prints it and a run keeps it."""
        return {**asdict(self), "problems": self.problems}


Row = tuple[str, str]


def rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the figures of a verification's JSON, in words."""
    logits = result["logits"]
    rounded = "".join(f", weights rounded to {name}" for name in result["rounded_to"])
    texts = f"{len(result['texts'])} texts, {logits['positions']} positions"
    yield "compared", f"{texts}, {result['rows']:,} tokens of the vocabulary"
    yield "computed in", f"{result['precision']}{rounded}"
    yield "largest difference of a logit", f"{logits['max']:.2g}"
    yield "mean difference", f"{logits['mean']:.2g}"
    yield "tolerance", f"{result['tolerance']:g} of the largest logit, {logits['scale']:.3g}"
    yield "same most likely token", share(logits["agreement"])
    tensors = result["tensors"]
    different = tensors["different"]
    names = f": {hf_reader.listed(different)}" if different else ""
    yield "tensors compared", f"{tensors['compared']}, {tensors['bytes']:,} bytes"
    yield "tensors that differ", f"{len(different)}{names}"
    if added := result["added_rows"]:
        kept = f"follow {added['expected']}" if added["equal"] else "do not follow it"
        compared = kept if added["expected"] else "not compared"
        yield f"rows {added['first']} to {added['last']}", compared
    yield "not verified", "; ".join(result["not_verified"])


SIDES = ("weights", "checkpoint", "base")

RATES = {
    "repetition": "repeated 4-grams",
    "prompt_echo": "4-grams of the prompt",
    "early_eos": "ended early",
}


def rate_rows(generation: Mapping[str, Any]) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """Return columns and rows of the rates of generated texts: one row per rate."""
    sides = [side for side in SIDES if side in generation["rates"]]
    count = len(generation["prompts"])
    shown = [
        (title, *(share(generation["rates"][side][rate]) for side in sides))
        for rate, title in RATES.items()
    ]
    equal = ("equal continuations", f"{generation['equal']} of {count}")
    return ("rate", *sides), [*shown, (*equal, *[""] * (len(sides) - 1))]


def card_text(result: Mapping[str, Any], command: str) -> str:
    """Return the section of a model card about a verification, in Markdown.

    Args:
        result: a verification's JSON.
        command: repeats it.
    """
    tables = [model_card.grid(("what", "value"), [list(row) for row in rows(result)])]
    if generation := result["generation"]:
        count = len(generation["prompts"])
        columns, lines = rate_rows(generation)
        tables.append(
            f"Greedy continuations of {count} prompts by at most {generation['tokens']} tokens; "
            "`weights` is this folder, `checkpoint` the training's, `base` the model before it:\n\n"
            + model_card.grid(columns, lines)
        )
    versions = ", ".join(f"{name} {number}" for name, number in sorted(result["versions"].items()))
    head = (
        f"The logits of this folder and of the checkpoint of step {result['step']} were compared "
        f"on a CPU: {outcome(result)}. `{command}` repeats it; `verification.json` has the figures "
        "per text."
    )
    return "\n\n".join([head, *tables, f"Computed with {versions}."])


def share(value: float) -> str:
    """Return a share in percent; only an exact 1 is 100 %."""
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def outcome(result: Mapping[str, Any]) -> str:
    """Return the result in one clause."""
    problems = result["problems"]
    return "; ".join(problems) if problems else "both compute the same"
