"""Instructions by name, in the layout of epfLLM/meditron:evaluation/instructions.json.

A file is one JSON object of 19 keys; each value has the strings ``system`` (before a question),
``user`` (behind it), ``type`` and ``source``. Ours are in ``instructions.json`` beside this module.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json

PAIRS = (
    "medqa",
    "medmcqa",
    "pubmedqa",
    "truthfulqa",
    "medicationqa",
    "gsm8k",
    "mcq",
    "mcq_tags",
    "open_question",
)
KEYS = (*(key for name in PAIRS for key in (name, f"{name}_cot")), "mcq_default")
"""The keys of a file; ``_cot`` asks for reasoning before the answer."""
FIELDS = ("system", "user", "type", "source")
OWN = Path(__file__).with_name("instructions.json")
BY_KIND = {
    "medqa": "medqa",
    "medqa4": "medqa",
    "medmcqa": "medmcqa",
    "mmlu": "medmcqa",
    "pubmedqa": "pubmedqa",
    "truthfulqa": "truthfulqa",
}
"""The instruction of a kind of benchmark, as released; of others it is ``mcq``."""
OTHERS = "mcq"


class Instruction(NamedTuple):
    """A text before a question and one behind it."""

    system: str
    user: str


class Instructions:
    """The instructions of a file."""

    def __init__(self, by_key: dict[str, Instruction]) -> None:
        self._by_key = by_key

    def of(self, kind: str, cot: bool = False) -> Instruction:
        """Return the instruction for a kind of benchmark; with ``cot``, the one that asks for
        reasoning before the answer.
        """
        return self._by_key[BY_KIND.get(kind, OTHERS) + ("_cot" if cot else "")]


def load(path: Path | str | None = None) -> Instructions:
    """Read a file of instructions, by default ours.

    Raises:
        TaskError: it cannot be read, or a key or a field is missing.
    """
    file = Path(path or OWN)
    try:
        content = parse_json(file.read_bytes())
    except OSError as error:
        message = f"{file}: the instructions cannot be read ({error.strerror})"
        raise TaskError(message, "check `instructions`") from error
    except ValueError as error:
        raise TaskError(f"{file}: not JSON ({error})", "check `instructions`") from error
    if not isinstance(content, dict):
        raise TaskError(f"{file}: not one JSON object of instructions", LAYOUT)
    if missing := [key for key in KEYS if key not in content]:
        raise TaskError(
            f"{file}: {len(KEYS) - len(missing)} of {len(KEYS)} instructions; the first that is "
            f"missing is {missing[0]!r}",
            LAYOUT,
        )
    return Instructions({key: _instruction(file, key, content[key]) for key in KEYS})


LAYOUT = "take the layout of epfLLM/meditron:evaluation/instructions.json, or remove `instructions`"


def _instruction(file: Path, key: str, value: object) -> Instruction:
    fields = value if isinstance(value, dict) else {}
    for name in FIELDS:
        if not isinstance(fields.get(name), str):
            raise TaskError(f"{file}: {key}: `{name}` is missing or not a string", LAYOUT)
    return Instruction(fields["system"], fields["user"])
