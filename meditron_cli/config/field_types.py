"""Field types of configuration files: names, words for command lines, durations.

Validators raise sentences; the JSON Schema has patterns for editors.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    WithJsonSchema,
)

from meditron_cli.config.data_files import HUB_SCHEME, HubData

NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
WORD = r"^[A-Za-z0-9_./:@%+,=-]+$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
SBATCH_OPTION = r"^[a-z][a-z-]*$"
DURATION = r"^([0-9]+(:[0-5]?[0-9]){0,2}|[0-9]+-([01]?[0-9]|2[0-3])(:[0-5]?[0-9]){0,2})$"
LANGUAGE = r"^[a-z]{2}$"
PLACEHOLDER = r"^<.+>$"
HUB_NAME = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?$"
WEIGHTS_PATH = ("/", "./", "../", "~/")
"""Beginnings of a path in ``model.weights``."""

COPY = "copy:"
"""Beginning of ``vocabulary.new_rows`` that names a token."""
STEP_RANGE = r"^[1-9][0-9]*(-[1-9][0-9]*)?$"
"""A step, counted from 1, or the first and the last of several."""

MOST_STEPS = 100_000
"""In one range, which a specification lists step by step."""

NEW_ROWS = r"^(repeat-last-row|mean|copy:.+)$"

OPERATIONAL = "operational"
"""Mark of a field that decides how a run is executed, not what it trains.

A change of such a field continues the run (see ``config.identity``)."""

HUB_OR_PATH = "hub-or-path"
"""Mark of a text field that holds a path, or the name of a file in a data set on the hub."""

VARIANT = "variant "
"""Beginning of the tags that pydantic puts into the places of errors in values of several forms; no
key has a space."""

SECRET_NAME = re.compile(
    "PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL"
    "|(TOKEN|KEYS?)(_|$)"  # APIKEY and HF_TOKEN, but not TOKENIZERS_PARALLELISM
    "|(^|_)(PAT|PASS)(_|$)|_PWD(_|$)"
)
"""Parts of a variable's name, in upper case, that suggest that its value is a secret."""

SBATCH_OURS = {
    "account": "account",
    "array": "the stage's tasks",
    "chdir": "the run directory",
    "cpus-per-task": "tokenize.cpus and node.cpus",
    "dependency": "the order of stages",
    "error": "the run directory",
    "export": "environment.pass_through",
    "gpus-per-node": "node.gpus",
    "gres": "node.gpus and node.gpu_type",
    "job-name": "the run's name",
    "mem": "node.memory_gb",
    "nodes": "parallel",
    "ntasks": "parallel",
    "ntasks-per-node": "node.gpus",
    "open-mode": "the run directory",
    "output": "the run directory",
    "partition": "gpu_partition.name and cpu_partition.name",
    "qos": "qos",
    "requeue": "the supervisor",
    "no-requeue": "the supervisor",
    "signal": "pretrain.signal_lead_seconds",
    "time": "the stages' time_minutes",
}
"""sbatch options that meditron writes itself, and what decides them."""


def has_form(pattern: str, value: str) -> bool:
    """Return whether a pattern describes a whole value.

    ``re.match`` with ``$`` would accept a line break at the end, which ends a line of a batch
    script.
    """
    return re.fullmatch(pattern, value) is not None


def parse_duration(value: Any) -> int:
    """Parse ``24:00:00``, ``2-00:00:00``, ``30:00`` (minutes:seconds) or a number of minutes.

    The forms are those of sbatch's ``--time``, save that minutes and seconds after a colon are
    below 60 and hours after a dash below 24. Seconds are rounded up, since Slurm counts minutes.

    Raises:
        ValueError: another form.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not has_form(DURATION, value):
        raise ValueError("not a duration; write 24:00:00, 2-00:00:00 or a number of minutes")
    days, _, clock = value.rpartition("-")
    numbers = [int(part) for part in clock.split(":")]
    if days:  # D-H, D-H:M, D-H:M:S
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:  # M, M:S, H:M:S
        hours, minutes, seconds = (0, *numbers, 0)[:3] if len(numbers) < 3 else numbers
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60)


def is_placeholder(value: str) -> bool:
    """Return whether a value of a profile is a placeholder such as ``<account>``."""
    return has_form(PLACEHOLDER, value)


def shell_safe(value: str) -> str:
    """Accept a word that is safe in a batch script and on a command line."""
    if not has_form(WORD, value) and not is_placeholder(value):
        raise ValueError("expected one word of letters, digits and _./:@%+,=-")
    return value


def shell_safe_or_empty(value: str) -> str:
    """Accept a word that is safe in a batch script, or an empty string."""
    return value and shell_safe(value)


def valid_name(value: str) -> str:
    """Accept a name that is safe in paths, job names and tables."""
    if not has_form(NAME, value):
        raise ValueError("expected up to 40 lower-case letters, digits and inner hyphens")
    return value


def valid_language(value: str) -> str:
    """Accept the code of a language."""
    if not has_form(LANGUAGE, value):
        raise ValueError("expected an ISO 639-1 code, such as en")
    return value


def valid_variable(value: str) -> str:
    """Accept the name of an environment variable whose name does not suggest a secret."""
    if not has_form(VARIABLE, value):
        raise ValueError("not the name of an environment variable")
    if SECRET_NAME.search(value.upper()):
        raise ValueError("looks like a secret; put it into the file that secrets_file names")
    return value


def valid_sbatch_option(value: str) -> str:
    """Accept a long option of sbatch that meditron does not set itself."""
    if not has_form(SBATCH_OPTION, value):
        raise ValueError("expected the long name of an sbatch option, without dashes in front")
    if value in SBATCH_OURS:
        raise ValueError(f"meditron sets this option itself, from {SBATCH_OURS[value]}")
    return value


def one_line(value: str) -> str:
    """Accept text that fits on one line of a batch script."""
    if not value.isprintable():
        raise ValueError("expected one line of printable characters")
    return value


def valid_checkpoint(value: Any) -> Any:
    """Accept ``first``, ``last``, ``kept`` or a step."""
    is_step = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_step and value not in ("first", "last", "kept"):
        raise ValueError("expected first, last, kept or a step number")
    return value


def valid_start(value: Any) -> Any:
    """Accept ``first``, ``last`` or a step."""
    with suppress(ValueError):
        if value != "kept":
            return valid_checkpoint(value)
    raise ValueError("expected first, last or a step number")


def listed(value: Any) -> Any:
    """Return a single value as a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def plural_average(value: str) -> str:
    """Return the name of an average of losses under which tasks know it."""
    return {"token": "tokens", "micro_batch": "micro-batches"}.get(value, value)


def valid_step_range(value: Any) -> str:
    """Accept a step, counted from 1, or a range of steps such as ``1310-1330``."""
    first, _, last = str(value).partition("-")
    if isinstance(value, bool) or not has_form(STEP_RANGE, str(value)):
        raise ValueError("expected a step, counted from 1, or a range such as 1310-1330")
    if not 0 <= int(last or first) - int(first) < MOST_STEPS:
        raise ValueError(f"expected a range of at most {MOST_STEPS:,} steps in ascending order")
    return str(value)


def all_steps(ranges: tuple[str, ...]) -> tuple[int, ...]:
    """Return the steps of valid ranges, ascending."""
    ends = [
        (int(first), int(last or first)) for first, _, last in (r.partition("-") for r in ranges)
    ]
    return tuple(sorted({step for first, last in ends for step in range(first, last + 1)}))


def valid_weights(value: str) -> str:
    """Accept ``random``, the path of a folder, or a name on the hub."""
    if value != "random" and not value.startswith(WEIGHTS_PATH) and not has_form(HUB_NAME, value):
        raise ValueError(
            "expected random, a folder that starts with /, ./, ../ or ~/, or a name on the hub, "
            "ORG/NAME or ORG/NAME@REVISION"
        )
    return value


def valid_token(value: str) -> str:
    """Accept the text of a token."""
    if not value or not value.isprintable():
        raise ValueError("expected at least one character, all printable")
    return value


def valid_new_rows(value: str) -> str:
    """Accept a rule for the initial rows of added tokens."""
    if not has_form(NEW_ROWS, value):
        raise ValueError("expected repeat-last-row, mean or copy:TOKEN")
    return value


def valid_data_path(value: str) -> str:
    """Accept a path, or the name of a file or folder in a data set on the hub."""
    if value.startswith(HUB_SCHEME) and HubData.parse(value) is None:
        raise ValueError(
            "expected a path, or hf://datasets/ORG/NAME/PATH with @REVISION after NAME for one "
            "revision"
        )
    return value


def valid_sbatch_value(value: Any) -> Any:
    """Accept the value of an sbatch option: one word or an integer."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("expected one word or an integer")
    return shell_safe(value) if isinstance(value, str) else value


def text(pattern: str) -> WithJsonSchema:
    """Return the JSON Schema of a text field whose validator raises a sentence."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


YEAR_MINUTES = 366 * 24 * 60

DURATION_SCHEMA = {
    "anyOf": [
        {"type": "integer", "exclusiveMinimum": 0, "maximum": YEAR_MINUTES},
        {"type": "string", "pattern": DURATION},
    ]
}

DurationMinutes = Annotated[
    int,
    BeforeValidator(parse_duration),
    Field(gt=0, le=YEAR_MINUTES),
    WithJsonSchema(DURATION_SCHEMA),
]
Name = Annotated[str, AfterValidator(valid_name), text(NAME)]
Language = Annotated[str, AfterValidator(valid_language), text(LANGUAGE)]
Word = Annotated[str, AfterValidator(shell_safe), text(f"{WORD}|{PLACEHOLDER}")]
WordOrEmpty = Annotated[str, AfterValidator(shell_safe_or_empty), text(f"^$|{WORD}|{PLACEHOLDER}")]
Line = Annotated[str, AfterValidator(one_line)]
VariableName = Annotated[str, AfterValidator(valid_variable), text(VARIABLE)]
SbatchOption = Annotated[str, AfterValidator(valid_sbatch_option), text(SBATCH_OPTION)]
SbatchValue = Annotated[str | int, BeforeValidator(valid_sbatch_value)]
Checkpoint = Annotated[
    Literal["first", "last", "kept"] | NonNegativeInt, BeforeValidator(valid_checkpoint)
]
Start = Annotated[Literal["first", "last"] | NonNegativeInt, BeforeValidator(valid_start)]
DataPath = Annotated[str, HUB_OR_PATH, AfterValidator(valid_data_path)]
Steps = Annotated[tuple[PositiveInt, ...], BeforeValidator(listed)]
StepRange = Annotated[
    int | str,
    BeforeValidator(valid_step_range),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": STEP_RANGE},
            ]
        }
    ),
]
StepRanges = Annotated[tuple[StepRange, ...], BeforeValidator(listed), AfterValidator(all_steps)]
"""Steps as integers, once validated."""
Checkpoints = Annotated[tuple[Checkpoint, ...], BeforeValidator(listed)]
Weights = Annotated[str, AfterValidator(valid_weights), WithJsonSchema({"type": "string"})]
Token = Annotated[str, AfterValidator(valid_token), text(r"^.+$")]
NewRows = Annotated[str, AfterValidator(valid_new_rows), text(NEW_ROWS)]
Weight = Annotated[float, Field(ge=1e-9, le=1e9, allow_inf_nan=False)]
LossAverage = Annotated[
    Literal["tokens", "micro-batches", "token", "micro_batch"], AfterValidator(plural_average)
]
Share = Annotated[float, Field(ge=0, lt=1)]
